"""Numbers that LiteRT's kernels do not take, by their bits; If; integers at the interface."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from opcases import run_onnxruntime
from small_graphs import network, normal

from .tflite_files import RESOLVERS, emitted, kernels, off, run

WIDTHS = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}


def graph(text: str, **constants: Any) -> ir.Model:
    return network("g " + text, **constants)


def edges(dtype: str) -> np.ndarray:
    """Numbers whose bits are all, none, the highest, the lowest, alternating, and random ones."""
    top = np.iinfo(dtype).max
    some = np.random.default_rng(1).integers(0, top, 40, np.uint64 if dtype == "uint64" else np.int64)
    return np.array([top, 0, 1, top // 2, top // 2 + 1, top // 3, *some], dtype)


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_shifts_and_bits_of_every_width(dtype: str, resolver: str) -> None:
    """Against NumPy; shifts by the width and more leave nothing, which NumPy does not promise."""
    x = edges(dtype)
    y, amount = x[::-1].copy(), (np.arange(x.size) * 3 % (WIDTHS[dtype] + 9)).astype(dtype)
    model = graph(f"""({dtype}[46] x, {dtype}[46] y, {dtype}[46] s)
        => ({dtype}[46] l, {dtype}[46] r, {dtype}[46] a, {dtype}[46] o, {dtype}[46] e, {dtype}[46] n) {{
        l = BitShift <direction = "LEFT"> (x, s) r = BitShift <direction = "RIGHT"> (x, s) a = BitwiseAnd (x, y)
        o = BitwiseOr (x, y) e = BitwiseXor (x, y) n = BitwiseNot (x) }}""")
    found = run(emitted(model)[0], {"x": x, "y": y, "s": amount}, resolver)
    inside = amount < WIDTHS[dtype]
    bounded = np.where(inside, amount, 0).astype(dtype)
    expected = {"l": np.where(inside, x << bounded, 0), "r": np.where(inside, x >> bounded, 0), "a": x & y, "o": x | y,
                "e": x ^ y, "n": ~x}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_uint64_beyond_the_signed_range(resolver: str) -> None:
    x = edges("uint64")
    y = x[::-1].copy()
    model = graph("""(uint64[46] x, uint64[46] y) => (uint64[46] s, uint64[46] p, bool[46] l, uint64[46] m, float[46] f,
        uint32[46] u, uint64[46] c) { s = Add (x, y) p = Mul (x, y) l = Less (x, y) m = Max (x, y) f = Cast <to = 1> (x)
        u = Cast <to = 12> (x) c = Concat <axis = 0> (x) }""")
    found = run(emitted(model)[0], {"x": x, "y": y}, resolver)
    expected = {"s": x + y, "p": x * y, "l": x < y, "m": np.maximum(x, y), "u": x.astype(np.uint32), "c": x}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    np.testing.assert_allclose(found["f"], x.astype(np.float32), rtol=3e-7)


EIGHT_BIT_FLOATS = {"float8e4m3fn": 17, "float8e4m3fnuz": 18, "float8e5m2": 19, "float8e5m2fnuz": 20, "bfloat16": 16}


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("name", EIGHT_BIT_FLOATS)
def test_narrow_floats_are_carried(name: str, saturate: int) -> None:
    """Every tie and every step of the format, what is too small and too large; a Reshape keeps the carrier.

    Without saturation against ml_dtypes: there ONNX Runtime 1.31 rounds 480 to 448 in float8e4m3fn, and what rounds up
    to infinity in float8e5m2 to no number.
    """
    number = EIGHT_BIT_FLOATS[name]
    sizes = np.ldexp(np.arange(8, 16.25, 0.25)[None], np.arange(-24, 17)[:, None]).astype(np.float32).ravel()
    x = np.concatenate([sizes, -sizes, [0, np.inf, -np.inf, np.nan, 3e38, -1e-30]]).astype(np.float32)
    extra = "" if name == "bfloat16" else f", saturate = {saturate}"
    model = graph(f"""(float[{x.size}] x) => (float[{x.size}] y) <{name}[{x.size}] a, {name}[2,{x.size // 2}] b,
        {name}[{x.size}] c> {{ a = Cast <to = {number}{extra}> (x) b = Reshape (a, two) c = Reshape (b, one)
        y = Cast <to = 1> (c) }}""", two=np.array([2, -1]), one=np.array([-1]))
    if saturate:
        expected = run_onnxruntime(model, {"x": x})["y"]
    else:
        expected = x.astype(ir.DataType(number).numpy()).astype(np.float32)
    np.testing.assert_array_equal(run(emitted(model)[0], {"x": x})["y"], expected)


@pytest.mark.parametrize(("name", "number", "wide"), [("int4", 22, 3), ("uint4", 21, 2)])
def test_four_bits_wrap(name: str, number: int, wide: int) -> None:
    x = np.array([-20.25, -9, -8.5, -8, -1.5, -0.75, -0.5, 0, 0.5, 1.5, 2.5, 7.25, 7.5, 8, 15, 15.5, 16, 31],
                 np.float32)
    model = graph(f"""(float[18] x) => ({'u' if wide == 2 else ''}int8[18] y) <{name}[18] a> {{
        a = Cast <to = {number}> (x) y = Cast <to = {wide}> (a) }}""")
    np.testing.assert_array_equal(run(emitted(model)[0], {"x": x})["y"], run_onnxruntime(model, {"x": x})["y"])


@pytest.mark.parametrize("flag", [True, False])
def test_both_branches_are_computed(flag: bool) -> None:
    """The branches use one name for different values, and a constant of their own."""
    model = graph("""(bool c, float[2,3] x) => (float[2,3] z) {
        y = If (c) <then_branch = t () => (float[2,3] r) { a = Exp (x) r = Mul (a, a) },
                    else_branch = e () => (float[2,3] r) { a = Sin (x) r = Add (a, x) }>
        z = Neg (y) }""")
    feeds = {"c": np.array(flag), "x": normal(2, 3)}
    assert off(run(emitted(model)[0], feeds)["z"], run_onnxruntime(model, feeds)["z"]) < 1e-5


def test_an_integer_interface_keeps_its_kernels() -> None:
    """uint8 in, int8 kernels, uint8 out: one step at most, and no kernel but the arithmetic at both ends on float."""
    model = graph("""(uint8[1,3,9,7] x) => (uint8[1,4,9,7] y) {
        r = DequantizeLinear (x, sx, zx) w = DequantizeLinear <axis = 0> (q, sw)
        c = Conv <pads = [1,1,1,1]> (r, w) y = QuantizeLinear (c, sy, zy) }""",
                  sx=np.float32(0.02), zx=np.uint8(120), sy=np.float32(0.1), zy=np.uint8(130),
                  q=np.random.default_rng(0).integers(-127, 127, (4, 3, 3, 3), np.int8),
                  sw=np.array([0.01, 0.02, 0.005, 0.03], np.float32))
    content, artifact = emitted(model)
    assert "Conv" not in {node.op for node in artifact.float_nodes}
    assert kernels(content)["CONV_2D"] == 1
    feeds = {"x": np.random.default_rng(1).integers(0, 255, (1, 3, 9, 7), np.uint8)}
    found, expected = run(content, feeds)["y"], run_onnxruntime(model, feeds)["y"]
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_the_first_node_may_read_what_is_no_float32(kind: str) -> None:
    """The cast that widens an input belongs to the node that reads it, also where no node came before."""
    x = np.array([[-1.5, 2, -3], [0, -0.25, 4]], kind)
    found = run(emitted(graph(f"({kind}[2,3] x) => ({kind}[2,3] y) {{ y = Abs (x) }}"))[0], {"x": x}, "AUTO")
    np.testing.assert_array_equal(found["y"], np.abs(x))
