"""Shapes with free dimensions: what the user may say, what follows, and what becomes constant all the same."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from passes.graphs import assert_close, build, session

from edgeq.dimensions import Shape, free_dimensions
from edgeq.errors import ModelError
from edgeq.frontends import load_model
from edgeq.passes import canonicalize
from edgeq_runtime.dimensions import Choice, Range


def load(text: str, constants: dict[str, Any] | None = None, **inputs: Shape) -> Any:
    return load_model(build(text, constants), inputs=inputs)


def shapes(model: Any) -> dict[str, tuple[int | str, ...]]:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {value.name: tuple(d if isinstance(d, int) else d.value for d in value.shape) for value in values}


def test_a_range_takes_the_name_that_the_model_has() -> None:
    model = load("g (float[N,T] x, int64[T] i) => (float[] y) { y = Gather <axis = 1> (x, i) }", x=(1, "1..16"))
    assert free_dimensions(model) == {"T": Range("T", 1, 16)}
    assert shapes(model) == {"x": (1, "T"), "i": ("T",), "y": (1, "T")}


def test_a_name_joins_dimensions_that_the_model_keeps_apart() -> None:
    model = load("g (float[A,3] x, float[B,3] z) => (float[] y) { y = Add(x, z) }", x=("S=4/8", 3), z=("S", 3))
    assert free_dimensions(model) == {"S": Choice("S", (4, 8))}
    assert shapes(model)["y"] == ("S", 3)


def test_a_dimension_without_a_name_gets_one() -> None:
    model = load("g (float[?,3] x) => (float[] y) { y = Relu(x) }", x=("2..5", 3))
    assert free_dimensions(model) == {"x_0": Range("x_0", 2, 5)}


def test_a_saved_model_is_still_free_unless_something_else_is_said() -> None:
    import onnx_ir as ir

    model = load("g (float[N,T] x) => (float[] y) { y = Relu(x) }", x=(1, "1..16"))
    again = ir.to_proto(model)
    assert free_dimensions(load_model(again)) == {"T": Range("T", 1, 16)}
    fixed = load_model(again, inputs={"x": (1, 7)})
    assert free_dimensions(fixed) == {}
    assert shapes(fixed)["y"] == (1, 7)


def test_axes_of_one_size_under_every_witness_share_a_name() -> None:
    model = load("""g (float[N,T,6] x) => (float[] y, float[] z) {
        a = Slice(x, one, huge, one)  y = Exp(a)  z = Transpose <perm = [2,1,0]> (x) }""",
                 {"one": np.array([1]), "huge": np.array([99])}, x=("2..9", "2..9", 6))
    found = shapes(model)
    assert found["a"] == found["y"] == ("N", "a_1", 6)
    assert found["z"] == (6, "T", "N")


@pytest.mark.parametrize(("inputs", "message"), [
    ({"x": (1, "1..8", 5)}, "input 'x' has 2 axes, NxT; --input gives 1x1..8x5"),
    ({"z": ("2..8", 4)}, "input 'z' is Tx3 with 3 on axis 1; --input gives 2..8x4"),
    ({"x": (1, "1..8"), "z": ("1..9", 3)}, "input 'z' is Tx3 with T=1..8 on axis 0; --input gives 1..9x3"),
    ({"x": ("S=1..4", "S=1..5"), "y": ("S=1..4", 3)}, "S=1..5 was S=1..4 before; two sizes need two names"),
    ({"x": ("1..4",)}, "input 'x' has 2 axes"),
    ({"z": ("T", 3)}, r"input 'y' has free dimensions, NxH; .*--input y:1x\? .* or with limits to keep it free"),
])
def test_what_does_not_fit(inputs: dict[str, Shape], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load("g (float[N,T] x, float[T,3] z, float[N,H] y) => (float[] o) { a = MatMul(x, z) o = Add(a, y) }", **inputs)


def test_sizes_that_the_model_does_not_take_are_said() -> None:
    with pytest.raises(ModelError, match=r"the model does not run with T = 2: 'y' is empty\nlimit the range"):
        load("g (float[1,1,T] x) => (float[] y) { y = Conv(x, w) }", {"w": np.ones((1, 1, 3), np.float32)},
             x=(1, 1, "2..9"))
    with pytest.raises(ModelError, match=r"the model does not run with T = 9: (.|\n)*Reshape(.|\n)*limit the range"):
        load("g (float[T] x) => (float[] y) { y = Reshape(x, s) }", {"s": np.array([-1, 2])}, x=("1..9",))
    assert shapes(load("g (float[T] x) => (float[] y) { y = Reshape(x, s) }", {"s": np.array([-1, 2])},
                       x=("2/4/10",)))["y"] == ("y_0", 2)


# text, constants, what is left, targets of Reshape and Expand
SPLIT = """s = Shape(x)  n = Gather(s, i0)  t = Gather(s, i1)  n1 = Unsqueeze(n, v0)  t1 = Unsqueeze(t, v0)"""
CONSTANTS = {"i0": np.array(0), "i1": np.array(1), "v0": np.array([0]), "heads": np.array([2, 3]), "one": np.array([1]),
             "minus": np.array([-1])}


@pytest.mark.parametrize(("text", "ops", "target"), [
    ("c = Concat <axis = 0> (n1, t1, heads)  y = Reshape(x, c)", ["Reshape"], [0, 0, 2, 3]),
    ("c = Concat <axis = 0> (t1, n1, heads)  y = Reshape(x, c)",
     ["Shape", "Gather", "Gather", "Unsqueeze", "Unsqueeze", "Concat", "Reshape"], None),
    ("m = Mul(n, t)  m1 = Unsqueeze(m, v0)  c = Concat <axis = 0> (m1, heads)  y = Reshape(x, c)",
     ["Reshape"], [-1, 2, 3]),
    ("c = Concat <axis = 0> (n1, minus)  y = Reshape(x, c)", ["Reshape"], [0, -1]),
    ("h = Shape <start = 2> (x)  c = Concat <axis = 0> (minus, h)  y = Reshape(x, c)", ["Reshape"], [-1, 6]),
    ("c = Concat <axis = 0> (heads, n1, t1, one)  y = Expand(x, c)", ["Expand"], [2, 3, 1, 1, 6]),
    ("e = Expand(x, s)  y = Relu(e)", ["Relu"], None),
    ("c = Concat <axis = 0> (one, n1, t1, one)  y = Expand(x, c)", ["Expand"], [1, 1, 1, 6]),
])
def test_computed_shapes_become_constants(text: str, ops: list[str], target: list[int] | None) -> None:
    given = build(f"g (float[N,T,6] x) => (float[] y) {{ {SPLIT} {text} }}", CONSTANTS)
    model = load_model(given, inputs={"x": ("1..5", "1..7", 6)})
    canonicalize(model)
    assert [node.op_type for node in model.graph] == ops
    if target is not None:
        assert list(model.graph.node(-1).inputs[1].const_value.numpy()) == target
    before, after = session(given), session(model)
    for size in ((1, 1, 6), (5, 7, 6), (2, 3, 6)):
        sample = {"x": np.random.default_rng(0).normal(size=size).astype(np.float32)}
        assert_close(before.run(None, sample), after.run(None, sample))


def test_a_size_that_is_a_number_is_taken_out_of_a_shape_that_is_none() -> None:
    model = load("g (float[N,T,6] x) => (float[] y) { s = Shape(x)  w = Gather(s, two)  f = Cast <to = 1> (w)"
                 "  y = Div(x, f) }", {"two": np.array(2)}, x=(1, "1..7", 6))
    canonicalize(model)
    assert [node.op_type for node in model.graph] == ["Div"]
    assert model.graph.node(0).inputs[1].const_value.numpy() == 6
