"""Single ops of the interpreter by their definition, above all those that Apple's converter never writes from torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeq.verification.mlpackage.ops import all_ops
from edgeq.verification.mlpackage.ops.resizing import grid
from edgeq.verification.mlpackage.optable import CannotRun

RANDOM = np.random.default_rng(5)


def run(name: str, **inputs: Any) -> Any:
    handler = all_ops().get(name)
    assert handler is not None
    opset = {"opset": inputs.pop("opset", 8)} if "opset" in handler.provided else {}
    return handler.function(**inputs, **opset)


def noise(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


# The examples in the documentation of resize_bilinear (.../ops/defs/iOS15/image_resizing.py), with two input pixels.
@pytest.mark.parametrize(
    ("mode", "count", "places"),
    [
        ("UNALIGN_CORNERS", 5, [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", 5, [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("UNALIGN_CORNERS", 6, [0, 0, 0.33, 0.67, 1, 1]),
        ("STRICT_ALIGN_CORNERS", 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", 6, [0, 0.33, 0.67, 1, 1, 1]),
        ("OFFSET_CORNERS", 6, [0.08, 0.25, 0.42, 0.58, 0.75, 0.92]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("STRICT_ALIGN_CORNERS", 1, [0]),
    ],
)
def test_grid_points_are_the_documented_ones(mode: str, count: int, places: list[float]) -> None:
    assert np.clip(grid(2, count, mode), 0, 1) == pytest.approx(places, abs=0.005)
    x = np.array([[[0.0, 1.0]]], np.float32)
    resized = run("resize", x=x, shape=np.array([count]), resized_dims=1, sampling_mode=mode)
    assert resized[0, 0] == pytest.approx(places, abs=0.005)


def test_same_padding_puts_the_odd_element_behind_and_same_lower_before() -> None:
    x = np.array([[[1.0, 2, 3, 4]]], np.float32)
    weight = np.array([[[1.0, 10]]], np.float32)
    assert run("conv", x=x, weight=weight, pad_type="same").ravel().tolist() == [21, 32, 43, 4]
    assert run("conv", x=x, weight=weight, pad_type="same_lower").ravel().tolist() == [10, 21, 32, 43]
    assert run("max_pool", x=x, kernel_sizes=[2], strides=[2], pad_type="same").ravel().tolist() == [2, 4]
    same = run("conv_transpose", x=x, weight=np.ones((1, 1, 3), np.float32), pad_type="same", strides=[2])
    assert same.ravel().tolist() == [1, 1, 3, 2, 5, 3, 7, 4]


def test_convolutions_against_a_plain_sum() -> None:
    """Groups, dilation, stride and uneven pads at once, computed by definition."""
    x, weight, bias = noise(2, 6, 9, 8), noise(4, 3, 3, 2), noise(4)
    ours = run(
        "conv",
        x=x,
        weight=weight,
        bias=bias,
        strides=[2, 1],
        pad_type="custom",
        pad=[1, 2, 0, 3],
        dilations=[1, 2],
        groups=2,
    )
    padded = np.pad(x, ((0, 0), (0, 0), (1, 2), (0, 3)))
    for n, o, i, j in np.ndindex(*ours.shape):
        group = slice(3 * (o // 2), 3 * (o // 2) + 3)
        patch = padded[n, group, 2 * i : 2 * i + 3, j : j + 3 : 2]
        assert ours[n, o, i, j] == pytest.approx((patch * weight[o]).sum() + bias[o], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(3, 2, 2, 1), (7, 3, 2, 0), (8, 3, 3, 1), (6, 3, 4, 1)])
def test_pools_in_ceil_mode_are_torchs(size: int, kernel: int, stride: int, pad: int) -> None:
    """The first row drops its last window, which would begin in the padding."""
    torch = pytest.importorskip("torch")
    x = noise(2, 3, size)
    ours = {"x": x, "kernel_sizes": [kernel], "strides": [stride], "pad_type": "custom", "pad": [pad, pad]}
    ours["ceil_mode"] = True
    largest = torch.nn.functional.max_pool1d(torch.from_numpy(x), kernel, stride, pad, ceil_mode=True)
    assert run("max_pool", **ours) == pytest.approx(largest.numpy())
    for excluded in (False, True):
        mean = torch.nn.functional.avg_pool1d(torch.from_numpy(x), kernel, stride, pad, True, not excluded)
        assert run("avg_pool", **ours, exclude_padding_from_average=excluded) == pytest.approx(mean.numpy(), abs=1e-6)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_local_response_norm_is_torchs(size: int) -> None:
    """Apple's converter writes torch's function as other ops, so the op itself is compared here."""
    torch = pytest.importorskip("torch")
    x = noise(2, 7, 3, 4)
    want = torch.nn.functional.local_response_norm(torch.from_numpy(x), size, 0.3, 0.8, 1.5)
    ours = run("local_response_norm", x=x, size=size, alpha=0.3, beta=0.8, k=1.5)
    assert ours == pytest.approx(want.numpy(), abs=1e-6)


def test_l2_pool_and_l2_norm() -> None:
    x = noise(1, 2, 4, 4)
    pooled = run("l2_pool", x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
    assert pooled[0, 1, 1, 0] == pytest.approx(np.linalg.norm(x[0, 1, 2:, :2]), rel=1e-6)
    assert run("l2_norm", x=x, epsilon=0.5) == pytest.approx(x / math.sqrt((x**2).sum() + 0.5), rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "result"),
    [
        ("update", [30, 10, 3]),
        ("add", [31, 32, 3]),
        ("sub", [-29, -28, 3]),
        ("mul", [30, 400, 3]),
        ("div", [1 / 30, 1 / 100, 3]),
        ("max", [30, 20, 3]),
        ("min", [1, 2, 3]),
    ],
)
def test_scatter_modes(mode: str, result: list[float]) -> None:
    """Index 1 is updated twice: by 20, then by 10."""
    data, updates = np.array([1, 2, 3], np.float32), np.array([20, 30, 10], np.float32)
    indices = np.array([1, 0, 1], np.int32)
    for name, form in (("scatter", indices), ("scatter_along_axis", indices), ("scatter_nd", indices[:, None])):
        assert run(name, data=data, indices=form, updates=updates, mode=mode) == pytest.approx(np.float32(result)), name


def test_a_negative_index_counts_from_the_end_until_ios16_and_is_refused_from_ios17() -> None:
    x = np.arange(4)
    assert run("gather", x=x, indices=np.array([-1, 0]), opset=6).tolist() == [3, 0]
    with pytest.raises(CannotRun, match=r"indices from -1 to 0 outside \[0, 3\]"):
        run("gather", x=x, indices=np.array([-1, 0]), opset=7)
    with pytest.raises(CannotRun, match="outside"):
        run("gather_along_axis", x=x, indices=np.array([4]), opset=6)


def test_gather_with_batches() -> None:
    x, indices = noise(2, 3, 5), np.array([[0, 2], [1, 1]])
    assert np.array_equal(
        run("gather", x=x, indices=indices, axis=1, batch_dims=1), np.stack([x[0, [0, 2]], x[1, [1, 1]]])
    )
    pairs = np.array([[[0, 4]], [[2, 1]]])
    assert np.array_equal(run("gather_nd", x=x, indices=pairs, batch_dims=1), np.array([[x[0, 0, 4]], [x[1, 2, 1]]]))


def test_blocks_of_space_and_depth() -> None:
    """The examples of tf.nn.space_to_depth, depth_to_space and tf.space_to_batch, transposed to NCHW."""
    image = np.arange(1, 17).reshape(1, 1, 4, 4)
    deep = run("space_to_depth", x=image, block_size=2)
    assert deep[0, :, 0, 0].tolist() == [1, 2, 5, 6]
    assert np.array_equal(run("depth_to_space", x=deep, block_size=2), image)
    batches = run("space_to_batch", x=image, block_shape=[2, 2], paddings=[[0, 0], [0, 0]])
    assert batches[:, 0].reshape(4, 4).tolist() == [[1, 3, 9, 11], [2, 4, 10, 12], [5, 7, 13, 15], [6, 8, 14, 16]]
    assert np.array_equal(run("batch_to_space", x=batches, block_shape=[2, 2], crops=[[0, 0], [0, 0]]), image)
    channels = noise(1, 8, 3, 2)
    assert np.array_equal(
        run("pixel_unshuffle", x=run("pixel_shuffle", x=channels, upscale_factor=2), downscale_factor=2), channels
    )


def test_crops_are_resized() -> None:
    """The whole image in align-corners mode is resize_bilinear; a box outside shows the pad value."""
    x = noise(2, 3, 5, 7)
    whole = run(
        "crop_resize",
        x=x,
        boxes=np.float32([[0, 0, 1, 1]]),
        box_indices=np.array([1]),
        target_height=9,
        target_width=4,
        normalized_coordinates=True,
        sampling_mode="ALIGN_CORNERS",
    )
    resized = run("resize_bilinear", x=x[1:], target_size_height=9, target_size_width=4, sampling_mode="ALIGN_CORNERS")
    assert whole == pytest.approx(resized, abs=1e-6)
    centred = run(
        "crop_resize",
        x=x,
        roi=np.float32([1, 3, 2, 4, 2]).reshape(1, 1, 5, 1, 1),
        target_height=3,
        target_width=5,
        box_coordinate_mode="CENTER_SIZE_WIDTH_FIRST",
        sampling_mode="STRICT_ALIGN_CORNERS",
    )
    assert centred[0, 0] == pytest.approx(x[1, :, 1:4, 1:6], abs=1e-6)
    outside = run(
        "crop_resize",
        x=x,
        boxes=np.float32([[0, 5, 4, 9]]),
        target_height=2,
        target_width=2,
        pad_value=-7.0,
        sampling_mode="ALIGN_CORNERS",
    )
    assert outside[0, :, :, 1].tolist() == [[-7, -7]] * 3
    assert outside[0, :, 0, 0] == pytest.approx(x[0, :, 0, 5])


def test_quantization_rounds_ties_to_even_and_saturates() -> None:
    x = np.float32([-1000, -1.5, -0.5, 0.5, 1.5, 2.4, 1000])
    assert run("quantize", input=x, scale=1.0, output_dtype="int8").tolist() == [-128, -2, 0, 0, 2, 2, 127]
    assert run("quantize", input=x, scale=1.0, zero_point=3, output_dtype="uint8").tolist() == [0, 1, 3, 3, 5, 5, 255]
    per_axis = run(
        "dequantize", input=np.int8([[1, 2], [3, -4]]), scale=np.float32([0.5, 2]), zero_point=np.int8([0, 1]), axis=1
    )
    assert per_axis.tolist() == [[0.5, 2], [1.5, -10]]


def test_lists_and_slices() -> None:
    grown = run("list_write", ls=run("make_list", elem_shape=(2,)), index=2, value=np.ones(2))
    assert run("list_length", ls=grown).item() == 3
    assert run(
        "list_gather", ls=run("list_scatter", ls=grown, indices=[0, 1], value=np.zeros((2, 2))), indices=[2, 0]
    ).tolist() == [[1, 1], [0, 0]]
    x = np.arange(24).reshape(2, 3, 4)
    assert run(
        "slice_by_index",
        x=x,
        begin=[1, 0, 3],
        end=[0, 0, 0],
        stride=[1, 2, -2],
        begin_mask=[False, True, False],
        end_mask=[False, True, True],
        squeeze_mask=[True, False, False],
    ).tolist() == [[15, 13], [23, 21]]
    assert run("slice_by_size", x=x, begin=[0, -2, 1], size=[1, -1, 2]).tolist() == [[[5, 6], [9, 10]]]
    assert run("sliding_windows", x=np.arange(7), axis=0, size=3, stride=2).tolist() == [
        [0, 1, 2],
        [2, 3, 4],
        [4, 5, 6],
    ]
    assert run("concat", values=(x[0], x[1]), axis=0, interleave=True)[:2].tolist() == [
        x[0, 0].tolist(),
        x[1, 0].tolist(),
    ]
    assert run("reverse_sequence", x=np.arange(6).reshape(2, 3), lengths=[2, 3], seq_axis=1).tolist() == [
        [1, 0, 2],
        [5, 4, 3],
    ]
    assert run("reshape", x=np.zeros((2, 50)), shape=[1, 0, -1, 0]).shape == (1, 1, 2, 50)


def test_creation_ops() -> None:
    assert run(
        "one_hot", indices=np.array([1, 5, -1]), one_hot_vector_size=3, axis=0, on_value=2, off_value=1
    ).tolist() == [[1, 1, 1], [2, 1, 1], [1, 1, 1]]
    assert run("cumsum", x=np.array([1, 2, 3]), exclusive=True, reverse=True).tolist() == [5, 3, 0]
    assert run("band_part", x=np.ones((3, 3)), lower=0, upper=1).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert run("range_1d", start=1, end=10, step=4).tolist() == [1, 5, 9]
    assert run("topk", x=np.array([3, 1, 3, 2]), k=2)[1].tolist() == [0, 2]
    assert run("argsort", x=np.array([3, 1, 3, 2]), ascending=True).tolist() == [1, 3, 0, 2]
    assert run("non_zero", x=np.array([[0, 1], [1, 0]])).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("name", "inputs", "reason"),
    [
        (
            "gru",
            {
                "x": noise(1, 1, 2),
                "initial_h": noise(1, 2),
                "weight_ih": noise(6, 2),
                "weight_hh": noise(6, 2),
                "reset_after": True,
            },
            "reset_after",
        ),
        ("gelu", {"x": noise(2), "mode": "BEST"}, "mode 'BEST'"),
        ("pad", {"x": noise(2), "pad": [1, 1], "mode": "symmetric"}, "mode 'symmetric'"),
        ("conv", {"x": noise(1, 1, 3), "weight": noise(1, 1, 1), "pad_type": "full"}, "pad_type 'full'"),
        (
            "rnn",
            {
                "x": noise(1, 1, 2),
                "initial_h": noise(1, 2),
                "weight_ih": noise(2, 2),
                "weight_hh": noise(2, 2),
                "activation": "scaled_tanh",
            },
            "activation 'scaled_tanh'",
        ),
    ],
)
def test_what_is_not_known_is_refused(name: str, inputs: dict[str, Any], reason: str) -> None:
    with pytest.raises(CannotRun, match=reason):
        run(name, **inputs)


def test_gru_by_its_documented_formula() -> None:
    """torch's GRU differs (its reset gate acts after a bias of its own), so Apple's converter never writes this op."""
    x, h, w, r, b = noise(3, 2, 4), noise(2, 5), noise(15, 4), noise(15, 5), noise(15)
    outputs, last = run("gru", x=x, initial_h=h, weight_ih=w, weight_hh=r, bias=b, output_sequence=True)
    for step in range(3):
        gates, hidden = x[step] @ w.T + b, h @ r.T
        reset = 1 / (1 + np.exp(-(gates[:, :5] + hidden[:, :5])))
        update = 1 / (1 + np.exp(-(gates[:, 10:] + hidden[:, 10:])))
        h = (1 - update) * np.tanh(gates[:, 5:10] + reset * hidden[:, 5:10]) + update * h
        assert outputs[step] == pytest.approx(h, abs=1e-6)
    assert last == pytest.approx(h, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("acos", math.acos),
        ("asin", math.asin),
        ("atan", math.atan),
        ("atanh", math.atanh),
        ("ceil", math.ceil),
        ("cos", math.cos),
        ("cosh", math.cosh),
        ("erf", math.erf),
        ("exp", math.exp),
        ("exp2", lambda x: 2**x),
        ("floor", math.floor),
        ("inverse", lambda x: 1 / (x + 1e-4)),
        ("round", round),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("sin", math.sin),
        ("sinh", math.sinh),
        ("softplus", lambda x: math.log(1 + math.exp(x))),
        ("softsign", lambda x: x / (1 + abs(x))),
        ("tan", math.tan),
        ("tanh", math.tanh),
    ],
)
def test_elementwise_ops_against_the_math_module(name: str, function: Any) -> None:
    x = np.float32([-0.95, -0.5, -0.25, 0.125, 0.5, 0.75])
    assert run(name, x=x) == pytest.approx([function(float(value)) for value in x], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("floor_div", lambda x, y: x // y),
        ("mod", lambda x, y: x % y),
        ("real_div", lambda x, y: x / y),
        ("minimum", min),
        ("maximum", max),
        ("equal", lambda x, y: x == y),
        ("not_equal", lambda x, y: x != y),
        ("less", lambda x, y: x < y),
        ("less_equal", lambda x, y: x <= y),
        ("greater", lambda x, y: x > y),
        ("greater_equal", lambda x, y: x >= y),
        ("logical_and", lambda x, y: bool(x) and bool(y)),
        ("logical_or", lambda x, y: bool(x) or bool(y)),
        ("logical_xor", lambda x, y: bool(x) != bool(y)),
    ],
)
def test_binary_ops_against_pythons(name: str, function: Any) -> None:
    x, y = np.int32([-7, 7, 3, 0, 3]), np.int32([3, -3, 3, 2, -2])
    assert run(name, x=x, y=y).tolist() == [function(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("name", "inputs", "result"),
    [
        ("clamped_relu", {"x": np.float32([-4, -1, 2, 9]), "alpha": 0.5, "beta": 3.0}, [-2, -0.5, 2, 3]),
        ("thresholded_relu", {"x": np.float32([-4, 1, 2]), "alpha": 1.0}, [0, 1, 2]),
        ("linear_activation", {"x": np.float32([1, 2]), "alpha": 3.0, "beta": -1.0}, [2, 5]),
        ("sigmoid_hard", {"x": np.float32([-9, 1, 9]), "alpha": 0.25, "beta": 0.5}, [0, 0.75, 1]),
        ("scaled_tanh", {"x": np.float32([0.5]), "alpha": 2.0, "beta": 4.0}, [2 * math.tanh(2)]),
        ("softplus_parametric", {"x": np.ones((1, 2, 1)), "alpha": np.float32([1, 3]), "beta": np.float32([2, 0])},
         [[[math.log(1 + math.exp(2))], [3 * math.log(2)]]]),
        ("gelu", {"x": np.float32([2]), "mode": "SIGMOID_APPROXIMATION"}, [2 / (1 + math.exp(-3.404))]),
        ("batch_norm", {"x": np.float32([[[3], [5]]]), "mean": np.float32([1, 2]), "variance": np.float32([4, 9]),
                        "gamma": np.float32([1, 2]), "beta": np.float32([0, 1]), "epsilon": 0.0}, [[[1], [3]]]),
        ("reduce_prod", {"x": np.float32([[1, 2], [3, 4]]), "axes": [0]}, [3, 8]),
        ("reduce_log_sum", {"x": np.float32([[1, 2], [3, 4]]), "axes": [-1]}, [math.log(3), math.log(7)]),
        ("reduce_sum_square", {"x": np.float32([[1, -2]]), "axes": [1], "keep_dims": True}, [[5]]),
        ("reduce_l1_norm", {"x": np.float32([[1, -2]])}, 3),
        ("shape", {"x": np.zeros((2, 0, 3))}, [2, 0, 3]),
        ("fill", {"shape": [1, 2], "value": 5.0}, [[5, 5]]),
        ("fill_like", {"ref_tensor": np.zeros(2), "value": 7}, [7, 7]),
        ("flatten2d", {"x": np.arange(6).reshape(1, 2, 3), "axis": -1}, [[0, 1, 2], [3, 4, 5]]),
        ("reshape_like", {"x": np.arange(6), "ref_tensors": (np.zeros((2, 9)), np.zeros((5, 3))), "begins": (0, 1),
                          "ends": (1, 0), "end_masks": (False, True)}, [[0, 1, 2], [3, 4, 5]]),
        ("slice_update", {"x": np.zeros((2, 3)), "update": np.ones((1, 2)), "begin": [1, 0], "end": [2, 3],
                          "stride": [1, 2]}, [[0, 0, 0], [1, 0, 1]]),
        ("resize_nearest_neighbor", {"x": np.float32([[[1, 2, 3]]]), "target_size_height": 2, "target_size_width": 5},
         [[[1, 1, 2, 2, 3]] * 2]),
        ("logical_not", {"x": np.array([True, False])}, [False, True]),
        ("list_read", {"ls": [np.zeros(1), np.ones(1)], "index": 1}, [1]),
        ("constexpr_cast", {"source_val": np.float32([0.1]), "output_dtype": "fp32"}, [0.1]),
    ],
)
def test_ops_by_their_documented_formula(name: str, inputs: dict[str, Any], result: Any) -> None:
    assert run(name, **inputs) == pytest.approx(np.asarray(result), rel=1e-6)
