"""Single ops of the interpreter, where Apple's converter has no way to reach them, and its number formats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeq.errors import BundleError
from edgeq.verify.mlpackage.functions import erf
from edgeq.verify.mlpackage.ops import REFUSED, all_ops
from edgeq.verify.mlpackage.ops.resizing import grid
from edgeq.verify.mlpackage.optable import CannotRun
from edgeq.verify.mlpackage.storage import BlobFile
from edgeq.verify.mlpackage.types import BY_NAME, TensorType, round_to_float16, unpack_bits

RANDOM = np.random.default_rng(5)


def run(name: str, **inputs: Any) -> Any:
    handler = all_ops().get(name)
    assert handler is not None
    opset = {"opset": inputs.pop("opset", 8)} if "opset" in handler.provided else {}
    return handler.function(**inputs, **opset)


def noise(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_rounding_to_float16_is_exact() -> None:
    """Every float16, every midpoint between two, and the float32 values next to these, of both signs."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    values = np.concatenate(
        [halves, middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(1e9))]
    )
    values = np.concatenate([values, -values])
    assert np.array_equal(round_to_float16(values), values.astype(np.float16).astype(np.float32))
    extreme = np.array([65519, 65520, -1e30, np.inf, -np.inf, np.nan], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(round_to_float16(extreme), extreme.astype(np.float16).astype(np.float32), equal_nan=True)
    assert round_to_float16(np.float32(0.1)).shape == ()


def test_erf() -> None:
    x = np.linspace(-6, 6, 20001).astype(np.float32)
    assert np.abs(erf(x) - np.array([math.erf(value) for value in x])).max() < 1.3e-7


def test_the_handlers_are_mils_ops_with_mils_inputs() -> None:
    """Every op of coremltools has a handler with exactly its inputs over all versions, or a reason why it has none."""
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    registry = SSAOpRegistry.core_ops
    table = all_ops()
    loader = {"const", "_const_symbolic"}
    assert set(registry) - set(table) - loader == set(REFUSED)
    assert set(table) - set(registry) == {"write_state"}  # coreml_update_state is written as write_state and read_state
    for name in set(table) & set(registry):
        versions = [cls.input_spec.input_types for cls in registry[name].values()]
        handler = table.get(name)
        assert handler is not None
        assert handler.inputs == {key for spec in versions for key in spec if not key.startswith("_")}, name
        required = [
            {key for key, kind in spec.items() if not kind.optional and not key.startswith("_")} for spec in versions
        ]
        assert all(handler.required <= keys for keys in required), name


@pytest.mark.parametrize(
    ("kind", "signed"),
    [("uint1", False), ("uint2", False), ("uint3", False), ("uint4", False), ("int4", True), ("uint6", False)],
)
def test_packed_values_are_read_as_coremltools_packs_them(kind: str, signed: bool) -> None:
    pytest.importorskip("coremltools")
    from coremltools.optimize._utils import pack_elements_into_bits

    bits = BY_NAME[kind].bits
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    values = RANDOM.integers(low, high, 37).astype(np.int8 if signed else np.uint8)
    packed = np.asarray(pack_elements_into_bits(values, bits)).view(np.uint8)
    assert np.array_equal(unpack_bits(packed, values.size, bits, signed), values)


_BLOBS = [
    ("fp16", "float16"),
    ("float", "float32"),
    ("uint8", "uint8"),
    ("int8", "int8"),
    ("int16", "int16"),
    ("uint16", "uint16"),
    ("int4", "int4"),
    ("uint1", "uint1"),
    ("uint2", "uint2"),
    ("uint3", "uint3"),
    ("uint4", "uint4"),
    ("uint6", "uint6"),
    ("int32", "int32"),
    ("uint32", "uint32"),
]


@pytest.mark.parametrize(("writer", "name"), _BLOBS, ids=[row[0] for row in _BLOBS])
def test_weight_files_by_apples_writer(writer: str, name: str, tmp_path: Any) -> None:
    pytest.importorskip("coremltools")
    from coremltools.libmilstoragepython import _BlobStorageWriter

    element = BY_NAME[name]
    values = RANDOM.integers(0, min(2, 1 << element.bits), 13).astype(element.carrier)
    raw = values.astype(np.float16).view(np.uint16) if writer == "fp16" else values
    storage = _BlobStorageWriter(str(tmp_path / "weight.bin"))
    getattr(storage, f"write_{writer}_data")(np.ones(5, np.float32) if writer == "float" else raw[:5])
    offset = getattr(storage, f"write_{writer}_data")(raw)
    del storage
    blobs = BlobFile(tmp_path / "weight.bin")
    assert np.array_equal(blobs.read(offset, TensorType(element, (13,))), values)
    other = BY_NAME["float32" if name != "float32" else "int32"]
    for wrong, type in (
        (offset + 1, TensorType(element, (13,))),
        (offset, TensorType(other, (13,))),
        (offset, TensorType(element, (99,))),
        (10**6, TensorType(element, (13,))),
    ):
        with pytest.raises(BundleError, match=r"weight\.bin at"):
            blobs.read(wrong, type)


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
