"""Nodes that do nothing, chains, axes, whole-image means, LayerNormalization written out, constant conditions."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from passes.graphs import Row, check, noise

from edgeq.graph import attribute

X = "g (float[2,3,5,4] x) => (float[] y)"
I64: dict[str, Any] = {name: np.array(value) for name, value in {
    "zero": [0], "one": [1], "two": [2], "big": [99], "three": [3], "minus": [-1], "last": [-1], "back": [-99],
    "same": [2, 3, 5, 4], "flat": [2, 60], "square": [6, 20], "nopad": [0] * 8, "unit": [1, 1, 1, 1],
    "crop": [0, 0, 0, 1, 0, 0, 0, -1],
    "hw": [2, 3], "nhw": [-2, -1], "c": [1], "all": [1, 2, 3],
}.items()}

REMOVED = [
    Row("Identity", X + "{ a = Identity(x) b = Relu(a) y = Identity(b) }", ["Relu"]),
    Row("Dropout", X + "{ a, mask = Dropout(x) y = Relu(a) }", ["Relu"]),
    Row("Cast to its own type", X + "{ a = Cast <to = 1> (x) y = Relu(a) }", ["Relu"]),
    Row("Reshape to its own shape", X + "{ a = Reshape(x, same) y = Relu(a) }", ["Relu"], I64),
    Row("Expand to its own shape", X + "{ a = Expand(x, same) y = Relu(a) }", ["Relu"], I64),
    Row("Tile once", X + "{ a = Tile(x, unit) y = Relu(a) }", ["Relu"], I64),
    Row("Transpose to the same order", X + "{ a = Transpose <perm = [0, 1, 2, 3]> (x) y = Relu(a) }", ["Relu"]),
    Row("Slice of all", X + "{ a = Slice(x, zero, big, last) y = Relu(a) }", ["Relu"], I64),
    Row("Pad by nothing", X + "{ a = Pad(x, nopad) y = Relu(a) }", ["Relu"], I64),
    Row("Concat of one", X + "{ a = Concat <axis = 1> (x) y = Relu(a) }", ["Relu"]),
    Row("opposite Transposes",
        X + "{ a = Transpose <perm = [0, 2, 3, 1]> (x) b = Transpose <perm = [0, 3, 1, 2]> (a) y = Relu(b) }",
        ["Relu"]),
    Row("two Transposes",
        X + "{ a = Transpose <perm = [0, 2, 3, 1]> (x) y = Transpose <perm = [1, 0, 3, 2]> (a) }", ["Transpose"]),
    Row("chain of reshapes",
        X + "{ a = Unsqueeze(x, one) b = Flatten <axis = 3> (a) y = Reshape(b, flat) }", ["Reshape"],
        I64),
    Row("reshape there and back", X + "{ a = Reshape(x, flat) b = Reshape(a, same) y = Relu(b) }", ["Relu"], I64),
    Row("Relu and Min", X + "{ a = Relu(x) y = Min(a, six) }", ["Clip"], {"six": 6.0}),
    Row("Max of Clip", X + "{ a = Clip(x, low, six) y = Max(half, a) }", ["Clip"],
        {"six": 6.0, "low": -1.0, "half": 0.5}),
    Row("bounds that exclude each other", X + "{ a = Min(x, low) y = Relu(a) }", ["Clip"], {"low": -1.0}),
    Row("a Sum of three, which broadcasts", X + "{ y = Sum(half, x, x) }", ["Add", "Add"],
        {"half": np.full(4, 0.5, np.float32)}),
    Row("an unused branch", X + "{ y = Relu(x) z = Exp(x) }", ["Relu"]),
]

STAYING = [
    Row("an input that is an output", X + "{ y = Identity(x) }", ["Identity"]),
    Row("one value, two outputs", "g (float[2,3] x) => (float[] y, float[] z) { y = Relu(x) z = Identity(y) }",
        ["Relu", "Identity"]),
    Row("Cast to another type",
        "g (float[2,3] x) => (int64[] y) { a = Relu(x) y = Cast <to = 7> (a) }", ["Relu", "Cast"]),
    Row("Slice backwards", X + "{ a = Slice(x, last, back, three, minus) y = Relu(a) }", ["Slice", "Relu"], I64),
    Row("Slice of a part", X + "{ a = Slice(x, one, big, three) y = Relu(a) }", ["Slice", "Relu"], I64),
    Row("Pad that crops as much as it adds", X + "{ a = Pad(x, crop) y = Relu(a) }", ["Pad", "Relu"], I64),
    Row("Transpose of equal axes",
        "g (float[2,4,4] x) => (float[] y) { a = Transpose <perm = [0, 2, 1]> (x) y = Relu(a) }",
        ["Transpose", "Relu"]),
    Row("reshapes with a reader between",
        "g (float[2,3,5,4] x) => (float[] y, float[] z) { a = Reshape(x, flat) y = Reshape(a, square) z = Relu(a) }",
        ["Reshape", "Reshape", "Relu"], I64),
    Row("bounds with a reader between", "g (float[2,3] x) => (float[] y, float[] a) { a = Relu(x) y = Min(a, six) }",
        ["Relu", "Clip"], {"six": 6.0}),
    Row("Min that broadcasts", "g (float[3] x) => (float[] y) { y = Min(x, six) }", ["Min"],
        {"six": np.full((1, 1), 6, np.float32)}),
    Row("Max of two computed values", X + "{ a = Exp(x) y = Max(x, a) }", ["Exp", "Max"]),
]

MEANS = [
    Row("kept axes", X + "{ y = ReduceMean(x, hw) }", ["GlobalAveragePool"], I64),
    Row("negative axes", X + "{ y = ReduceMean(x, nhw) }", ["GlobalAveragePool"], I64),
    Row("dropped axes", X + "{ y = ReduceMean <keepdims = 0> (x, hw) }", ["GlobalAveragePool", "Flatten"], I64),
    Row("of channels", X + "{ y = ReduceMean(x, c) }", ["ReduceMean"], I64),
    Row("of everything but the batch", X + "{ y = ReduceMean(x, all) }", ["ReduceMean"], I64),
    Row("of features", "g (float[2,5,4] x) => (float[] y) { y = ReduceMean(x, two) }", ["ReduceMean"], I64),
    Row("a maximum", X + "{ y = ReduceMax(x, hw) }", ["ReduceMax"], I64),
]

S = "g (float[2,5,4] x) => (float[] y)"
LN = {"last": np.array([-1]), "front": np.array([1]), "both": np.array([1, 2]), "two": 2.0, "three": 3.0, "eps": 1e-3,
      "one": 1.0, "s": noise(4, seed=1), "b": noise(4, seed=2), "s2": noise(5, 4), "column": noise(5, 1)}
HEAD = "{ m = ReduceMean(x, last) d = Sub(x, m) p = Pow(d, two) v = ReduceMean(p, last) e = Add(v, eps) r = Sqrt(e)"

NORMS = [
    Row("bare", S + HEAD + " y = Div(d, r) }", ["LayerNormalization"], LN),
    Row("scale", S + HEAD + " n = Div(d, r) y = Mul(s, n) }", ["LayerNormalization"], LN),
    Row("scale and bias", S + HEAD + " n = Div(d, r) q = Mul(n, s) y = Add(q, b) }", ["LayerNormalization"], LN),
    Row("d * d, computed twice, epsilon first",
        S + "{ m = ReduceMean(x, last) d = Sub(x, m) f = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, last)"
        " e = Add(eps, v) r = Sqrt(e) n = Div(f, r) q = Mul(n, s) y = Add(b, q) }", ["LayerNormalization"], LN),
    Row("times the reciprocal",
        S + HEAD + " i = Reciprocal(r) n = Mul(d, i) y = Mul(n, s) }", ["LayerNormalization"], LN),
    Row("two axes", S + HEAD.replace("last", "both") + " n = Div(d, r) y = Mul(n, s2) }", ["LayerNormalization"], LN),
    Row("a scale per row stays", S + HEAD + " n = Div(d, r) y = Mul(n, column) }", ["LayerNormalization", "Mul"], LN),
    Row("not the last axis", S + HEAD.replace("last", "front") + " y = Div(d, r) }",
        ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div"], LN),
    Row("variance over other axes", S + HEAD.replace("ReduceMean(p, last)", "ReduceMean(p, both)") + " y = Div(d, r) }",
        ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div"], LN),
    Row("a third power", S + HEAD.replace("Pow(d, two)", "Pow(d, three)").replace("Add(v, eps)", "Add(v, big)")
        + " y = Div(d, r) }", ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div"], {**LN, "big": 1e3}),
    Row("not centred",
        S + HEAD + " y = Div(x, r) }", ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div"], LN),
    Row("RMS only", S + "{ p = Pow(x, two) v = ReduceMean(p, last) e = Add(v, eps) r = Sqrt(e) y = Div(x, r) }",
        ["Pow", "ReduceMean", "Add", "Sqrt", "Div"], LN),
]


@pytest.mark.parametrize("row", REMOVED, ids=str)
def test_does_nothing_or_merges(row: Row) -> None:
    check(row)


@pytest.mark.parametrize("row", STAYING, ids=str)
def test_does_something(row: Row) -> None:
    check(row)


@pytest.mark.parametrize("row", MEANS, ids=str)
def test_means(row: Row) -> None:
    check(row)


@pytest.mark.parametrize(("pads", "counted"), [([0, 0, 0, 0], 0), ([0, 1, 0, 0], 1)])
def test_padding_is_counted_where_there_is_some(pads: list[int], counted: int) -> None:
    """Two windows stick out, which ceil_mode lets them: that is no padding."""
    row = Row("an average", X + "{ y = AveragePool<kernel_shape = [2, 3], strides = [2, 2], ceil_mode = 1,"
              f" count_include_pad = 1, pads = {pads}>(x) }}", ["AveragePool"])
    assert attribute(check(row).graph.node(0), "count_include_pad", 0) == counted


@pytest.mark.parametrize("row", NORMS, ids=str)
def test_layer_norm(row: Row) -> None:
    check(row)


def test_axes_count_from_the_front() -> None:
    row = Row("Slice", X + "{ y = Slice(x, one, big, last) }", ["Slice"], I64)
    model = check(row)
    assert model.graph.node(0).inputs[3].const_value.numpy().tolist() == [3]


@pytest.mark.parametrize(("condition", "left"), [(True, ["Relu"]), (False, ["Neg", "Exp"])])
def test_if_with_a_constant_condition_is_its_branch(condition: bool, left: list[str]) -> None:
    row = Row("If",
              "g (float[2,3] x) => (float[] y) { y = If (k) <then_branch = t () => (float[2,3] a) { a = Relu(x) },"
              " else_branch = e () => (float[2,3] b) { n = Neg(x) b = Exp(n) }> }", left, {"k": np.bool_(condition)})
    check(row)


def test_if_that_depends_on_an_input_stays() -> None:
    row = Row("If", "g (float[2,3] x, bool k) => (float[] y) { y = If (k) <then_branch = t () => (float[2,3] a)"
              " { a = Relu(x) }, else_branch = e () => (float[2,3] b) { b = Neg(x) }> }", ["If"])
    check(row)


def test_names_of_axes_do_not_stop_onnxruntime() -> None:
    """It calls a constant of its own squeeze_axes when two Gathers of one value become a Split and a Squeeze."""
    row = Row("keys and values", "g (float[2,1,5,4] x) => (float[] y) { squeeze = Squeeze(x, back) k = Gather(squeeze, "
              "first) v = Gather(squeeze, second) y = Add(k, v) }", ["Squeeze", "Gather", "Gather", "Add"],
              {"back": np.array([-3]), "first": np.array(0), "second": np.array(1)})
    model = check(row)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
