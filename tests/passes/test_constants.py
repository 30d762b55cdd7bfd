"""Operators that constants decide: Compress, CastLike, Fourier transforms, the layout of recurrent layers."""
from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from passes.graphs import Row, assert_close, build, check, feeds, noise, session

from edgeq.frontends import load_model
from edgeq.graph import shape
from edgeq.inference.reference import run_onnx
from edgeq.passes.constants import (
    cast_like_to_cast,
    compress_to_gather,
    conv_integer_to_conv,
    fold_quantized_weights,
    plain_optionals,
)
from edgeq.passes.fourier import MAX_ELEMENTS, dft_matrix, dft_to_matmul, stft_to_matmul
from edgeq.passes.recurrent import steps_first

COMPRESS = "g (float[3,4] x) => (float[] y) { y = Compress <axis = 1> (x, c) }"
TURNED = ["Transpose", "MatMul", "Reshape", "Transpose"]


@pytest.mark.parametrize("row", [
    Row("an axis", COMPRESS, ["Gather"], {"c": np.array([False, True, True])}),
    Row("a negative axis", COMPRESS.replace("axis = 1", "axis = -2"), ["Gather"], {"c": np.array([True, False, True])}),
    Row("of all elements", COMPRESS.replace("<axis = 1>", ""), ["Reshape", "Gather"],
        {"c": np.array([True, False, True, False, True])}),
], ids=str)
def test_compress(row: Row) -> None:
    check(row, compress_to_gather)


def test_a_computed_condition_stays() -> None:
    model = load_model(build("g (float[3] x, bool[3] c) => (float[] y) { y = Compress(x, c) }"), open_sizes=True)
    assert compress_to_gather(model) == 0


def test_cast_like() -> None:
    row = Row("CastLike", "g (float[3] x) => (int32[] y) { y = CastLike(x, l) }", ["Cast"],
              {"l": np.zeros(2, np.int32)})
    check(row, cast_like_to_cast)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("length", [7, 8, 5, 12])
def test_the_matrix_is_numpys_transform(length: int, inverse: bool) -> None:
    """Against numpy's own FFT: cut (5), padded with zeros (12), even and odd."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=8) + 1j * rng.normal(size=8)
    matrix = dft_matrix(8, 2, length, inverse=inverse, one_sided=False)
    got = np.einsum("np,npkq->kq", np.stack([x.real, x.imag], axis=-1), matrix)
    exact = np.fft.ifft(x, length) if inverse else np.fft.fft(x, length)
    np.testing.assert_allclose(got[:, 0] + 1j * got[:, 1], exact, atol=1e-12)


@pytest.mark.parametrize("length", [8, 9])
def test_a_real_signal_and_back(length: int) -> None:
    x = np.random.default_rng(0).normal(size=length)
    there = np.einsum("n,nkq->kq", x, dft_matrix(length, 1, length, inverse=False, one_sided=True)[:, 0])
    np.testing.assert_allclose(there[:, 0] + 1j * there[:, 1], np.fft.rfft(x), atol=1e-12)
    back = np.einsum("np,npk->k", there, dft_matrix(len(there), 2, length, inverse=True, one_sided=True)[..., 0])
    np.testing.assert_allclose(back, x, atol=1e-12)


@pytest.mark.parametrize(("axis", "attributes", "parts"), [
    (1, "", 1), (2, "", 2), (-2, "inverse = 1", 2), (1, "onesided = 1", 1)])
def test_dft(axis: int, attributes: str, parts: int) -> None:
    text = f'g (float[2,6,5,{parts}] x) => (float[] y) {{ y = DFT <{attributes}> (x, "", a) }}'.replace("<>", "")
    given = build(text, {"a": np.array(axis)})
    model, sample = load_model(given), {"x": noise(2, 6, 5, parts)}
    assert dft_to_matmul(model) == 1
    assert "DFT" not in {node.op_type for node in model.graph}
    assert_close(ReferenceEvaluator(given).run(None, sample), list(next(run_onnx(model, [sample])).values()))


def test_a_long_transform_stays() -> None:
    size = int(MAX_ELEMENTS**0.5)
    model = load_model(build(f'g (float[1,{size},2] x) => (float[] y) {{ y = DFT(x) }}'))
    assert dft_to_matmul(model) == 0


@pytest.mark.parametrize(("given", "constants"), [
    ('x, s, w', {"w": np.hanning(6).astype(np.float32)}),
    ('x, s, "", n', {"n": np.array(6)}),
    ('x, s, w, n', {"w": np.hanning(6).astype(np.float32), "n": np.array(6)}),
])
@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(given: str, constants: dict[str, np.ndarray], onesided: int) -> None:
    proto = build(f"g (float[2,17,1] x) => (float[] y) {{ y = STFT <onesided = {onesided}> ({given}) }}",
                  {"s": np.array(3), **constants})
    model, sample = load_model(proto), {"x": noise(2, 17, 1)}
    assert stft_to_matmul(model) == 1
    result = next(run_onnx(model, [sample]))["y"]
    assert shape(model.graph.outputs[0]) == result.shape
    assert_close(ReferenceEvaluator(proto).run(None, sample), [result])


def test_an_stft_that_says_nothing_of_its_sides_has_one() -> None:
    """onnx infers two, onnxruntime computes one."""
    model = load_model(build("g (float[1,16,1] x) => (float[] y) { y = STFT(x, s, w) }",
                             {"s": np.array(4), "w": np.ones(8, np.float32)}))
    assert shape(model.graph.outputs[0]) == (1, 3, 5, 2)


@pytest.mark.parametrize(("op", "gates", "states"), [("LSTM", 4, 2), ("GRU", 3, 1), ("RNN", 1, 1)])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_steps_first(op: str, gates: int, states: int, direction: str) -> None:
    """The same layer given with steps first, run by onnxruntime, which refuses the batch in front."""
    d = 2 if direction == "bidirectional" else 1
    constants = {"w": noise(d, gates * 3, 5), "r": noise(d, gates * 3, 3), "b": noise(d, gates * 6)}
    outputs = ["y", "h", "c"][:1 + states]
    text = (f'g (float[{{x}}] x, {", ".join(f"float[{{s}}] {name}0" for name in outputs[1:])}) => '
            f'({", ".join(f"float[] {name}" for name in outputs)}) {{{{ {", ".join(outputs)} = {op} '
            f'<hidden_size = 3, direction = "{direction}" {{layout}}> '
            f'(x, w, r, b, "", {", ".join(f"{name}0" for name in outputs[1:])}) }}}}')
    turned = build(text.format(x="2,4,5", s=f"2,{d},3", layout=", layout = 1"), constants)
    plain = session(build(text.format(x="4,2,5", s=f"{d},2,3", layout=""), constants))
    model = load_model(turned)
    assert steps_first(model) == 1
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    sample = feeds(plain)
    swapped = {name: value.transpose(1, 0, 2) for name, value in sample.items()}
    y, *last = plain.run(None, sample)
    got = next(run_onnx(model, [swapped]))
    assert_close([y.transpose(2, 0, 1, 3), *(value.transpose(1, 0, 2) for value in last)], list(got.values()))
    assert [shape(output) for output in model.graph.outputs] == [value.shape for value in got.values()]


def test_quantized_weights_become_integers() -> None:
    """Rounded to even, clipped, per channel: as onnxruntime's QuantizeLinear does it."""
    weight = np.array([[0.25, -0.75, 100], [0.5, 1.5, -100]], np.float32)
    row = Row("Q of weights", "g (float[4,2] x) => (float[] y) {"
              " q = QuantizeLinear <axis = 0> (w, s, z) d = DequantizeLinear <axis = 0> (q, s, z) y = MatMul(x, d) }",
              ["DequantizeLinear", "MatMul"],
              {"w": weight, "s": np.array([0.5, 1], np.float32), "z": np.zeros(2, np.int8)})
    model = check(row, fold_quantized_weights)
    integers = next(node for node in model.graph if node.op_type == "DequantizeLinear").inputs[0]
    assert integers is not None
    assert integers.const_value is not None
    assert integers.const_value.numpy().tolist() == [[0, -2, 127], [0, 2, -100]]


def test_activations_stay_quantized_at_run_time() -> None:
    model = load_model(build("g (float[3] x) => (float[] y) {"
                             " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
                             {"s": np.array(0.5, np.float32), "z": np.array(1, np.uint8)}))
    assert fold_quantized_weights(model) == 0


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_zero_point_per_channel(group: int) -> None:
    given = build(f"g (uint8[1,4,5,6] x) => (int32[] y) {{ y = ConvInteger <group = {group}, pads = [1,0,1,2]>"
                  " (x, w, a, b) }",
                  {"w": np.arange(4 * (4 // group) * 6, dtype=np.uint8).reshape(4, -1, 3, 2),
                   "a": np.array(9, np.uint8), "b": np.array([1, 0, 200, 7], np.uint8)})
    sample = {"x": np.random.default_rng(0).integers(0, 256, (1, 4, 5, 6)).astype(np.uint8)}
    model = load_model(given)
    assert conv_integer_to_conv(model) == 1
    x = np.pad(sample["x"].astype(np.int64) - 9, ((0, 0), (0, 0), (1, 1), (0, 2)))
    stored = onnx.numpy_helper.to_array(given.graph.initializer[0]).astype(np.int64)
    w = stored - np.array([1, 0, 200, 7])[:, None, None, None]
    exact = np.zeros((1, 4, 5, 7), np.int64)
    each = 4 // group
    for o in range(4):
        part = x[0, (o // each) * each:(o // each) * each + each]
        for i in range(5):
            for j in range(7):
                exact[0, o, i, j] = (part[:, i:i + 3, j:j + 2] * w[o]).sum()
    np.testing.assert_array_equal(next(run_onnx(model, [sample]))["y"], exact)


def test_optionals_that_are_there() -> None:
    row = Row("optional", "g (float[3] x) => (float[] y, bool[] z) {"
              " y = OptionalGetElement(x) z = OptionalHasElement(x) }",
              ["Identity", "Identity"])
    check(row, plain_optionals)


def test_an_optional_that_is_not_there() -> None:
    check(Row("none", "g (float[3] x) => (float[] y, bool[] z) { y = Relu(x) z = OptionalHasElement() }",
              ["Relu", "Identity"]), plain_optionals)
