"""Number formats in float operators: bit by bit against ml_dtypes and onnxruntime's own kernels."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from passes.graphs import build, noise, session

from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes.shapes import fix_shapes
from edgeq_converters.integer_ops import plain_numbers
from edgeq_converters.prepare import lower_form

FORMATS = {17: "float8_e4m3fn", 18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 16: "bfloat16"}


def plain(given: onnx.ModelProto) -> ir.Model:
    """The model without the nodes that no backend has."""
    model = load_model(given)
    assert plain_numbers(model) > 0
    fix_shapes(model)
    left = {node.op_type for node in model.graph}
    assert not left & {"QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger"}
    return model


def run(model: ir.Model, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return next(iter(next(run_onnx(model, [feed])).values()))


def awkward(bits: str) -> NDArray[np.float32]:
    """Every number of a format, the middles between neighbours, their nearest floats, and what lies beyond its ends."""
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, bits))
    codes = np.arange(2**(8 * kind.itemsize), dtype=np.uint32).astype(f"u{kind.itemsize}").view(kind)
    numbers = np.sort(codes.astype(np.float32))
    numbers = np.unique(numbers[np.isfinite(numbers) & (np.abs(numbers) < 1e37)])[::1 if kind.itemsize == 1 else 23]
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = [np.nextafter(middles, np.float32(sign) * np.inf) for sign in (1, -1)]
    return np.concatenate([numbers, middles, *near, noise(500) * 100, [np.inf, -np.inf, np.nan, 1e9, -1e9]]).astype(
        np.float32)


# bfloat16 has infinity and no other way to overflow.
ROUNDINGS = [(code, saturate) for code in FORMATS for saturate in (1, 0) if saturate or code != 16]


@pytest.mark.parametrize(("code", "saturate"), ROUNDINGS, ids=lambda value: FORMATS.get(value, str(value)))
def test_rounding_to_a_narrow_format(code: int, saturate: int) -> None:
    """onnxruntime's Cast, at every number and tie of the format."""
    x = awkward(FORMATS[code])
    if code == 16:
        x = x[(np.abs(x) >= 2.0**-100) | (x == 0) | ~np.isfinite(x)]  # float32 itself has no bits left below
    text = (f"g (float[{x.size}] x) => (float[] y)"
            f" {{ a = Cast <to = {code}, saturate = {saturate}> (x) y = Cast <to = 1> (a) }}")
    given = build(text if code != 16 else text.replace(f", saturate = {saturate}", ""))
    np.testing.assert_array_equal(run(plain(given), {"x": x}), session(given).run(None, {"x": x})[0])


GRIDS = {"s": np.array([0.5, 0.25, 2], np.float32), "z": np.array([3, 0, 250], np.uint8)}
ROWS = {
    "Q": ("g (float[2,3,4] x) => (uint8[] y) { y = QuantizeLinear(x, s, z) }", GRIDS),
    "Q by blocks": ("g (float[2,4] x) => (int8[] y) { y = QuantizeLinear <block_size = 2> (x, s, z) }",
                    {"s": np.array([[0.5, 0.1], [2, 0.3]], np.float32), "z": np.array([[1, 2], [-3, 0]], np.int8)}),
    "Q of 16 bits": ("g (float[2,3] x) => (uint16[] y) { y = QuantizeLinear(x, s, z) }",
                     {"s": np.array(1e-4, np.float32), "z": np.array(30000, np.uint16)}),
    "DQ": ("g (uint8[2,3,4] x) => (float[] y) { y = DequantizeLinear(x, s, z) }", GRIDS),
    "Q read as integers": ("g (float[2,3,4] x) => (int32[] y) { q = QuantizeLinear(x, s, z) y = Cast <to = 6> (q) }",
                           GRIDS),
    "two grids": ("""g (float[2,3] x) => (float[] y) { q = QuantizeLinear(x, s, z)
                     y = DequantizeLinear(q, t, z) }""",
                  {"s": np.array(0.5, np.float32), "t": np.array(0.1, np.float32), "z": np.array(7, np.uint8)}),
    "products": ("g (uint8[2,5,4] x) => (int32[] y) { y = MatMulInteger(x, w, a, b) }",
                 {"w": np.arange(12, dtype=np.uint8).reshape(4, 3), "a": np.array(9, np.uint8),
                  "b": np.array([3, 0, 7], np.uint8)}),
    "300 terms": ("g (uint8[2,300] x) => (int32[] y) { y = MatMulInteger(x, w) }",
                  {"w": np.full((300, 3), 255, np.uint8)}),
    "5000 terms": ("g (uint8[2,5000] x) => (int32[] y) { y = MatMulInteger(x, w, a) }",
                   {"w": np.random.default_rng(0).integers(-128, 128, (5000, 3)).astype(np.int8),
                    "a": np.array(200, np.uint8)}),
    "convolution": ("g (uint8[1,2,5,6] x) => (int32[] y) { y = ConvInteger <pads = [1, 0, 2, 1]> (x, w, a, b) }",
                    {"w": np.arange(36, dtype=np.uint8).reshape(3, 2, 3, 2), "a": np.array(9, np.uint8),
                     "b": np.array(5, np.uint8)}),
}


@pytest.mark.parametrize("name", ROWS)
def test_integers(name: str) -> None:
    text, constants = ROWS[name]
    given = build(text, constants)
    reference = session(given)
    shape = reference.get_inputs()[0].shape
    x = noise(*shape) * 40
    if "uint8[" in text.split("x)")[0]:
        x = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(run(plain(given), {"x": x}), reference.run(None, {"x": x})[0])


@pytest.mark.parametrize(("terms", "handled"), [(300, ("MatMulInteger",)), (1 << 16, ())])
def test_sums_that_float32_cannot_hold_stay(terms: int, handled: tuple[str, ...]) -> None:
    """300 products of 255 * 255 pass 2^24, which an engine of integers does not mind; 2^16 of 16 * 16 do for all."""
    given = build(f"g (uint8[1,{terms}] x) => (int32[] y) {{ y = MatMulInteger(x, w) }}",
                  {"w": np.full((terms, 1), 255, np.uint8)})
    assert plain_numbers(load_model(given), handled) == 0


def test_grids_stay() -> None:
    given = build("""g (float[2,3] x) => (float[] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        v = DequantizeLinear(w, s, z) y = MatMul(d, v) }""",
                  {"s": np.array(0.5, np.float32), "z": np.array(7, np.uint8), "w": np.zeros((3, 2), np.uint8)})
    assert plain_numbers(load_model(given)) == 0


def test_what_a_backend_lacks_becomes_what_defines_it() -> None:
    given = build("g (float[2,3] x) => (float[] y) { y = Mish(x) }")
    model, x = load_model(given), noise(2, 3)
    assert [node.op_type for node in lower_form(model).graph] == ["Mish"]
    lowered = lower_form(model, {"Softplus", "Tanh", "Mul"})
    assert [node.op_type for node in lowered.graph] == ["Softplus", "Tanh", "Mul"]
    np.testing.assert_allclose(run(lowered, {"x": x}), session(given).run(None, {"x": x})[0], rtol=1e-6)
