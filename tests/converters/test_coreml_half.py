"""What half precision is too narrow for: sums of squares, products, single values beyond 65504. Against onnxruntime."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from opcases import run_onnxruntime
from small_graphs import network, normal

import edgeq_runtime
from edgeq import convert, policy
from edgeq.backend import EmitOptions
from edgeq.errors import VerificationError
from edgeq.inference.magnitudes import largest_values
from edgeq.metrics import sqnr
from edgeq.verification.compare import compare
from edgeq.verification.mlpackage import open_package
from edgeq_converters.coreml import emit

I64: Final = {"last": np.array([-1]), "map": np.array([2, 3]), "flat": np.array([1, 4, 600]), "two": np.float32(2)}
SEQUENCE: Final = "float[1,12,32] x"
MAP: Final = "float[1,3,20,30] x"
# Graphs from x to y, and a weight: without it, normal numbers give values of about 5.
ROWS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "root mean square": (SEQUENCE, """h = MatMul (x, w)  s = Pow (h, two)  m = ReduceMean (s, last)
        e = Add (m, eps)  r = Sqrt (e)  i = Reciprocal (r)  y = Mul (h, i)""", {
            "w": normal(32, 32, scale=50), "eps": np.float32(1e-5)}),
    "global response": (MAP, """h = Conv <pads = [1,1,1,1]> (x, w)  n = ReduceL2 (h, map)
        m = ReduceMean (n, one)  y = Div (n, m)""", {"w": normal(4, 3, 3, 3, scale=6), "one": np.array([1])}),
    "cosine": (SEQUENCE, """h = MatMul (x, w)  n = LpNormalization <axis = -1> (h)  k = Transpose <perm = [0, 2, 1]> (n)
        y = MatMul (n, k)""", {"w": normal(32, 32, scale=50)}),
    "variance": (MAP, """h = Conv <pads = [1,1,1,1]> (x, w)  m = ReduceMean (h, map)  d = Sub (h, m)  s = Mul (d, d)
        y = ReduceMean (s, map)""", {"w": normal(4, 3, 3, 3, scale=20)}),
    "gram": (MAP, """h = Conv <pads = [1,1,1,1]> (x, w)  f = Reshape (h, flat)  t = Transpose <perm = [0, 2, 1]> (f)
        g = MatMul (f, t)  y = Div (g, many)""", {"w": normal(4, 3, 3, 3, scale=8), "many": np.float32(600)}),
    "linear attention": (SEQUENCE, """h = MatMul (x, w)  q = Relu (h)  t = Transpose <perm = [0, 2, 1]> (q)
        k = MatMul (t, x)  n = MatMul (q, k)  s = ReduceSum (q, two_axes)  d = ReduceSum (q, last)  b = Mul (d, s)
        y = Div (n, b)""", {"w": normal(32, 32, scale=60), "two_axes": np.array([1, 2])}),
    "before a layer norm": (SEQUENCE, """h = MatMul (x, w)  r = Relu (h)  g = MatMul (r, v)
        y = LayerNormalization (g, scale)""", {
            "w": normal(32, 32, scale=60), "v": normal(32, 32, scale=80, seed=1), "scale": np.ones(32, np.float32)}),
    "in the body of an If": (SEQUENCE, """z = Gather <axis = 1> (x, zero)  f = ReduceMax <keepdims = 0> (z)
        c = Less (f, far)  y = If (c) <
            then_branch = t () => (float[1,12,1] u) { h = MatMul (x, w)  s = Mul (h, h)  m = ReduceMean (s, last)
                p = Mul (m, h1)  u = Sqrt (p) },
            else_branch = e () => (float[1,12,1] v) { v = ReduceMax (x, last) }>""", {
            "w": normal(32, 32, scale=80), "far": np.float32(1e9), "zero": np.array(0), "h1": np.float32(1.5)}),
}


def converted(row: str, folder: Path, x: NDArray[np.float32], **options: Any) -> tuple[float, list[dict[str, str]]]:
    """dB of y to what onnxruntime computes, and the notes of the report."""
    shape, text, weights = ROWS[row]
    model = network(f"g ({shape}) => (float[] y) {{ {text} }}", **I64, **weights)
    expected = run_onnxruntime(model, {"x": x})["y"]
    bundle = convert(model, target="coreml", output=folder / "b", **options)
    with edgeq_runtime.load(bundle.path) as opened:
        return sqnr([opened.run({"x": x})["y"]], [expected]), bundle.report["notes"]


def samples(row: str, count: int, scale: float = 1.0) -> list[dict[str, NDArray[np.float32]]]:
    sizes = (1, 12, 32) if ROWS[row][0] == SEQUENCE else (1, 3, 20, 30)
    return [{"x": normal(*sizes, seed=10 + number, scale=scale)} for number in range(count)]


@pytest.mark.parametrize("row", ROWS)
def test_without_samples(row: str, tmp_path: Path) -> None:
    decibels, _ = converted(row, tmp_path, samples(row, 1)[0]["x"], bits=16)
    assert decibels > 50


@pytest.mark.parametrize("row", ROWS)
def test_samples_20_times_too_quiet(row: str, tmp_path: Path) -> None:
    quiet = samples(row, 4, 1 / 20)
    decibels, _ = converted(row, tmp_path, 20 * quiet[0]["x"], bits=8, calibration=quiet, activations="float")
    assert decibels > 35


def test_what_computes_in_float32_is_said(tmp_path: Path) -> None:
    _, notes = converted("variance", tmp_path, samples("variance", 1)[0]["x"], bits=16)
    assert {note["op"] for note in notes} >= {"Mul"}
    assert all("half precision ends" in note["reason"] for note in notes)
    for row in ("root mean square", "global response", "cosine"):  # roots of sums of squares stay in half precision
        _, none = converted(row, tmp_path / row, samples(row, 1)[0]["x"], bits=8, calibration=samples(row, 4),
                            activations="float")
        assert none == []


def test_an_overflow_that_was_not_foreseen_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeq.conversion.pipeline as pipeline

    monkeypatch.setattr(pipeline, "largest_values", lambda *_: {})
    with pytest.raises(VerificationError, match=r"half precision ends at 65504, and mul 's_mul' passes it; .*--bits"):
        converted("variance", tmp_path, samples("variance", 1)[0]["x"], bits=16)


ROOTS: Final[dict[str, tuple[float, bool]]] = {  # text -> epsilon, whether it is the mean
    "y = ReduceL2 <keepdims = 0> (x, last)": (0.0, False),
    "s = Pow (x, two)  m = ReduceMean <keepdims = 0> (s, last)  e = Add (m, small)  y = Sqrt (e)": (1e-12, True),
    "s = Mul (x, x)  m = ReduceSum <keepdims = 0> (s, last)  e = Add (one, m)  y = Sqrt (e)": (1.0, False),
}


@pytest.mark.parametrize("scale", [3e-5, 1.0, 2000.0])
@pytest.mark.parametrize("text", ROOTS)
def test_roots_of_squares_in_half_precision(text: str, scale: float, tmp_path: Path) -> None:
    """From where squares are 0 in float16 to where the largest is 4e7; nothing is float32 but the interface."""
    model = network(f"g (float[3,40] x) => (float[3] y) {{ {text} }}", last=np.array([-1]), two=np.float32(2),
                    small=np.float32(1e-12), one=np.float32(1))
    x = normal(3, 40, scale=scale)
    artifact = emit(model, tmp_path, EmitOptions())
    program = open_package(tmp_path / artifact.entry)
    epsilon, mean = ROOTS[text]
    power = np.square(x.astype(np.float64)).sum(-1) / (40 if mean else 1) + epsilon
    np.testing.assert_allclose(program.run({"x": x})["y"], np.sqrt(power), rtol=4e-3)
    kinds = {step.outputs[0].type.element.name for step in program.steps if step.outputs[0].type is not None
             and step.op not in ("cast", "identity")}
    assert kinds == {"float16"}


def test_largest_values_follow_louder_inputs() -> None:
    model = network("""g (float[2,3] x, bool c) => (float[2,3] y) {
        a = Mul (x, x)  b = Sigmoid (a)  d = Add (b, mask)  e = Softmax (d)  y = If (c) <
            then_branch = t () => (float[2,3] u) { i = Mul (e, hundred)  u = Neg (i) },
            else_branch = f () => (float[2,3] v) { v = Exp (a) }> }""", mask=np.float32(-1e9), hundred=np.float32(100))
    found = largest_values(model, [{"x": np.full((2, 3), 0.5, np.float32), "c": np.array(True)}], 32.0)
    assert (found["x"], found["a"], found["b"], found["i"]) == (16.0, 256.0, pytest.approx(
        policy.LARGEST_MARGIN.value / (1 + np.exp(-0.25))), pytest.approx(policy.LARGEST_MARGIN.value * 100 / 3))
    assert found["d"] < 65504 < 1e9  # a mask is no magnitude
    assert found["v"] == 0.0  # the branch that was not taken


def test_an_infinite_output_is_the_worst() -> None:
    difference, = compare([{"y": np.ones(3)}], [{"y": np.array([1, np.inf, 1])}])
    assert difference.sqnr_db == -200
