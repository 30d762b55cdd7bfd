"""The lowered form means what the QDQ graph means, and its two rewrites fire exactly when they may."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from opcases import CASES, Case, build, has_weights, quantize, quantize4, run_onnxruntime, sample
from opcases.unfold import unfold

from edgeq.graph import quant
from edgeq_converters.prepare import LINEAR, lower_form


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_row_of_the_table(case: Case) -> None:
    """Bit for bit in integers. In float too, because nothing is rewritten but MatMul and Add."""
    for model in [build(case), quantize(case)[0], *([quantize4(case)[0]] if has_weights(case) else [])]:
        before = ir.to_proto(model).SerializeToString()
        found = run_onnxruntime(unfold(lower_form(model)), sample(case))
        for name, array in run_onnxruntime(model, sample(case)).items():
            np.testing.assert_array_equal(found[name], array)
        assert ir.to_proto(model).SerializeToString() == before, "the caller's model is not changed"


GRIDS = {"full": (0.05, 128), "from zero": (0.05, 0), "zero to six": (6 / 255, 0), "nearly six": (0.02355, 0)}


def tail(body: str, grid: str, outputs: str = "float[2,8] y") -> ir.Model:
    """x -> Neg -> c, then ``body`` from c to r, then rounding to a grid."""
    scale, zero = GRIDS[grid]
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 21]> g (float[2,8] x) => ({outputs})
        <float s = {{{scale}}}, uint8 z = {{{zero}}}, float six = {{6.0}}, float zero = {{0.0}}, float one = {{1.0}}>
        {{ c = Neg(x) {body} q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z) }}""")


FEED = {"x": np.linspace(-9, 9, 16, dtype=np.float32).reshape(2, 8)}


@pytest.mark.parametrize(("body", "grid", "dropped"), [
    ("r = Relu(c)", "from zero", True),
    ("r = Relu(c)", "full", False),
    ("r = Clip(c, zero, six)", "zero to six", True),
    ("r = Clip(c, zero, six)", "nearly six", True),
    ("r = Clip(c, zero, six)", "from zero", False),
    ("r = Clip(c, zero)", "from zero", True),
    ("r = Clip(c, , six)", "full", False),
    ("r = Clip(c, one, six)", "zero to six", False),
    ("m = ReduceMax <keepdims = 0> (x) r = Clip(c, zero, m)", "from zero", False),
    ("r = Clip(c)", "full", True),
])
def test_an_activation_goes_when_rounding_does_its_work(body: str, grid: str, dropped: bool) -> None:
    model = tail(body, grid)
    lowered = lower_form(model)
    assert bool({"Relu", "Clip"} & set(ops(lowered))) is not dropped
    np.testing.assert_array_equal(run_onnxruntime(unfold(lowered), FEED)["y"], run_onnxruntime(model, FEED)["y"])


@pytest.mark.parametrize("limit", ["Relu(a)", "Clip(a, zero, six)", "Clip(a, one, six)"])
def test_a_limit_behind_an_integer_op_stays_on_its_grid(limit: str) -> None:
    """Bit for bit: rounding keeps the order of numbers, so it may come before the limit and behind it."""
    model = tail(f"k = QuantizeLinear(c, s, z) d = DequantizeLinear(k, s, z) a = Add(d, d) r = {limit}", "full")
    for given, on_grid in ((False, False), (True, True)):
        lowered = lower_form(model, limits_in_integers=given)
        assert (quant(next(node for node in lowered.graph if node.op_type == "Add").outputs[0]) is not None) == on_grid
        np.testing.assert_array_equal(run_onnxruntime(unfold(lowered), FEED)["y"], run_onnxruntime(model, FEED)["y"])


@pytest.mark.parametrize(("body", "outputs"), [
    ("r = Relu(c) y2 = Exp(c)", "float[2,8] y, float[2,8] y2"),
    ("r = Relu(c)", "float[2,8] y, float[2,8] c"),
    ("r = Relu(c) y2 = Exp(r)", "float[2,8] y, float[2,8] y2"),
])
def test_it_stays_where_somebody_needs_the_numbers_around_it(body: str, outputs: str) -> None:
    model = tail(body, "from zero", outputs)
    lowered = lower_form(model)
    assert "Relu" in ops(lowered)
    found = run_onnxruntime(unfold(lowered), FEED)
    for name, array in run_onnxruntime(model, FEED).items():
        np.testing.assert_array_equal(found[name], array)


def test_an_input_keeps_its_activation() -> None:
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 21]> g (float[2,8] x) => (float[2,8] y) <float s = {0.05}, uint8 z = {0}>
        { r = Relu(x) q = QuantizeLinear(r, s, z) y = DequantizeLinear(q, s, z) }""")
    assert "Relu" in ops(lower_form(model))


def product(body: str, outputs: str = "float[2,4] y") -> ir.Model:
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 21]> g (float[2,3] x, float[3,4] v) => ({outputs})
        <float[3,4] w = {{1,2,3,4,5,6,7,8,9,10,11,12}}, float[4] b = {{1,-2,3,-4}}, float[2,1] row = {{1,2}}>
        {{ {body} }}""")


@pytest.mark.parametrize(("model", "fused"), [
    (product("c = MatMul(x, w) y = Add(c, b)"), True),
    (product("c = MatMul(x, w) y = Add(b, c)"), True),
    (product("c = MatMul(x, w) y = Add(c, row)"), False),
    (product("c = MatMul(x, v) y = Add(c, b)"), False),
    (product("c = MatMul(x, w) y = Sub(c, b)"), False),
    (product("c = MatMul(x, w) y = Add(c, c)"), False),
    (product("c = MatMul(x, w) d = Add(c, b) y = Mul(c, d)"), False),
    (product("c = MatMul(x, w) y = Add(c, b)", "float[2,4] y, float[2,4] c"), False),
])
def test_a_bias_joins_its_product(model: ir.Model, fused: bool) -> None:
    lowered = lower_form(model)
    assert (LINEAR in ops(lowered)) is fused
    feed = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "v": np.ones((3, 4), np.float32)}
    found = run_onnxruntime(unfold(lowered), feed)
    for name, array in run_onnxruntime(model, feed).items():
        np.testing.assert_array_equal(found[name], array)
