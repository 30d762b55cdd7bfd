"""Every way in which exporters write an activation out, and graphs that look almost like one."""
from __future__ import annotations

import math

import numpy as np
import pytest
from passes.graphs import Row, check

X = "g (float[2,3,5,4] x) => (float[] y)"
HARD = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6, "five_sixths": 5 / 6, "four": 4.0, "one": 1.0}
GELU = {"root": math.sqrt(2), "inverse": math.sqrt(0.5), "half": 0.5, "one": 1.0, "three": 3.0, "two": 2.0,
        "c": 0.044715, "k": math.sqrt(2 / math.pi), "wrong": 0.045}
SIGMOID = {"one": 1.0, "minus": -1.0, "two": 2.0}

MATCHED = [
    Row("x * relu6(x + 3) / 6", X + "{ a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six) }",
        ["HardSwish"], HARD),
    Row("x * (relu6(3 + x) / 6)", X + "{ a = Add(three, x) c = Clip(a, zero, six) d = Div(c, six) y = Mul(x, d) }",
        ["HardSwish"], HARD),
    Row("relu6(x + 3) * 1/6 * x", X + "{ a = Add(x, three) c = Clip(a, zero, six) d = Mul(c, sixth) y = Mul(d, x) }",
        ["HardSwish"], HARD),
    Row("(x * 1/6) * relu6(x + 3)", X + "{ s = Mul(sixth, x) a = Add(x, three) c = Clip(a, zero, six) y = Mul(s, c) }",
        ["HardSwish"], HARD),
    Row("min(relu(x + 3), 6)", X + "{ a = Add(x, three) r = Relu(a) c = Min(r, six) m = Mul(x, c) y = Div(m, six) }",
        ["HardSwish"], HARD),
    Row("max(min(x + 3, 6), 0)",
        X + "{ a = Add(x, three) r = Min(six, a) c = Max(zero, r) m = Mul(x, c) y = Mul(m, sixth) }",
        ["HardSwish"], HARD),
    Row("hardsigmoid(x) * x", X + "{ h = HardSigmoid <alpha: float = 0.16666667> (x) y = Mul(h, x) }", ["HardSwish"]),
    Row("hardsigmoid alone", X + "{ a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six) }", ["HardSigmoid"], HARD),
    Row("1 / (1 + exp(-x))", X + "{ n = Neg(x) e = Exp(n) a = Add(one, e) y = Div(one, a) }", ["Sigmoid"], SIGMOID),
    Row("reciprocal", X + "{ n = Mul(x, minus) e = Exp(n) a = Add(e, one) y = Reciprocal(a) }", ["Sigmoid"], SIGMOID),
    Row("x / (1 + exp(-x))",
        X + "{ n = Neg(x) e = Exp(n) a = Add(e, one) y = Div(x, a) }", ["Sigmoid", "Mul"], SIGMOID),
    Row("gelu, erf, 0.5 last",
        X + "{ d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half) }", ["Gelu"], GELU),
    Row("gelu, erf, 0.5 x first",
        X + "{ h = Mul(half, x) d = Mul(x, inverse) e = Erf(d) a = Add(one, e) y = Mul(h, a) }", ["Gelu"], GELU),
    Row("gelu, erf, 0.5 on the gate",
        X + "{ d = Mul(inverse, x) e = Erf(d) a = Add(one, e) m = Mul(a, half) y = Mul(m, x) }", ["Gelu"], GELU),
    Row("gelu, erf, halved by division",
        X + "{ d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Div(m, two) }", ["Gelu"], GELU),
    Row("gelu, tanh, pow",
        X + "{ p = Pow(x, three) s = Mul(c, p) t = Add(x, s) u = Mul(k, t) h = Tanh(u) a = Add(one, h)"
        " m = Mul(half, x) y = Mul(m, a) }", ["Gelu"], GELU),
    Row("gelu, tanh, x * x * x",
        X + "{ q = Mul(x, x) p = Mul(q, x) s = Mul(p, c) t = Add(s, x) u = Mul(t, k) h = Tanh(u) a = Add(h, one)"
        " m = Mul(x, a) y = Mul(m, half) }", ["Gelu"], GELU),
    Row("gelu, tanh, x (1 + c x^2)",
        X + "{ q = Mul(x, x) s = Mul(q, c) t = Add(s, one) v = Mul(x, k) u = Mul(v, t) h = Tanh(u) a = Add(h, one)"
        " g = Mul(a, half) y = Mul(x, g) }", ["Gelu"], GELU),
    Row("gelu of a product",
        "g (float[2,3] p, float[2,3] q) => (float[] y) { x = Mul(p, q) d = Div(x, root) e = Erf(d) a = Add(e, one)"
        " m = Mul(x, a) y = Mul(m, half) }", ["Mul", "Gelu"], GELU),
]

REFUSED = [
    Row("5/6 instead of 1/6", X + "{ a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Mul(m, five_sixths) }",
        ["Add", "Clip", "Mul", "Mul"], HARD),
    Row("+ 4 instead of + 3", X + "{ a = Add(x, four) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six) }",
        ["Add", "Clip", "Mul", "Div"], HARD),
    Row("bounded at 4", X + "{ a = Add(x, three) c = Clip(a, zero, four) m = Mul(x, c) y = Div(m, six) }",
        ["Add", "Clip", "Mul", "Div"], HARD),
    Row("bounded below at 1", X + "{ a = Add(x, three) c = Clip(a, one, six) m = Mul(x, c) y = Div(m, six) }",
        ["Add", "Clip", "Mul", "Div"], HARD),
    Row("another x", "g (float[2,3] x, float[2,3] z) => (float[] y) { a = Add(z, three) c = Clip(a, zero, six)"
        " m = Mul(x, c) y = Div(m, four) }", ["Add", "Clip", "Mul", "Div"], HARD),
    Row("6 / ..", X + "{ a = Add(x, three) c = Clip(a, zero, six) p = Add(c, one) y = Div(six, p) }",
        ["Add", "Clip", "Add", "Div"], HARD),
    Row("hardsigmoid of 0.2", X + "{ h = HardSigmoid(x) y = Mul(h, x) }", ["HardSigmoid", "Mul"]),
    Row("x of another shape", "g (float[3,1] x, float[3,4] z) => (float[] y) { h = HardSigmoid <alpha = 0.16666667> (x)"
        " y = Mul(h, z) }", ["HardSigmoid", "Mul"]),
    Row("2 + exp(-x)", X + "{ n = Neg(x) e = Exp(n) a = Add(e, two) y = Div(x, a) }", ["Neg", "Exp", "Add", "Div"],
        SIGMOID),
    Row("exp(x)", X + "{ e = Exp(x) a = Add(e, one) y = Div(one, a) }", ["Exp", "Add", "Div"], SIGMOID),
    Row("(1 + exp(-x)) / x", X + "{ n = Neg(x) e = Exp(n) a = Add(e, one) y = Div(a, x) }",
        ["Neg", "Exp", "Add", "Div"], SIGMOID),
    Row("erf(x / 2)", X + "{ d = Div(x, two) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half) }",
        ["Div", "Erf", "Add", "Mul", "Mul"], GELU),
    Row("gelu without the half", X + "{ d = Div(x, root) e = Erf(d) a = Add(e, one) y = Mul(x, a) }",
        ["Div", "Erf", "Add", "Mul"], GELU),
    Row("x^2 (1 + erf) / 2",
        X + "{ d = Div(x, root) e = Erf(d) a = Add(e, one) q = Mul(x, x) m = Mul(q, a) y = Mul(m, half) }",
        ["Div", "Erf", "Add", "Mul", "Mul", "Mul"], GELU),
    Row("0.045 instead of 0.044715",
        X + "{ p = Pow(x, three) s = Mul(wrong, p) t = Add(x, s) u = Mul(k, t) h = Tanh(u) a = Add(one, h)"
        " m = Mul(half, x) y = Mul(m, a) }", ["Pow", "Mul", "Add", "Mul", "Tanh", "Add", "Mul", "Mul"], GELU),
    Row("x^2 instead of x^3",
        X + "{ p = Pow(x, two) s = Mul(c, p) t = Add(x, s) u = Mul(k, t) h = Tanh(u) a = Add(one, h)"
        " m = Mul(half, x) y = Mul(m, a) }", ["Pow", "Mul", "Add", "Mul", "Tanh", "Add", "Mul", "Mul"], GELU),
]


@pytest.mark.parametrize("row", MATCHED, ids=str)
def test_recognized(row: Row) -> None:
    check(row)


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_not_taken_for_one(row: Row) -> None:
    check(row)


def test_gelu_keeps_its_kind() -> None:
    kinds = {row.name: check(row).graph.node(0).attributes["approximate"].value
             for row in MATCHED if row.ops == ["Gelu"]}
    assert all(kind == ("tanh" if "tanh" in name else "none") for name, kind in kinds.items())


def test_the_parts_that_others_read_stay() -> None:
    row = Row("gate is an output", "g (float[2,3] x) => (float[] y, float[2,3] c) { a = Add(x, three)"
              " c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six) }", ["Add", "Clip", "HardSwish"], HARD)
    check(row)


def test_constants_may_carry_axes() -> None:
    wide = {name: np.full((1, 1, 1, 1), HARD[name], np.float32) for name in ("three", "sixth")}
    row = Row("rank 4", X + "{ a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Mul(m, sixth) }",
              ["HardSwish"], {**HARD, **wide})
    check(row)
