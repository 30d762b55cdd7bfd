"""Folding QuantizeLinear and DequantizeLinear onto values keeps what the graph computes, to the last bit."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from opcases import CASES, Case, has_weights, quantize, quantize4, run_onnxruntime, sample
from opcases.unfold import unfold

from edgeq.errors import UnsupportedModel
from edgeq.graph import quant
from edgeq.quant.qdq import fold_qdq
from edgeq.scheme import PerBlock, PerChannel


def parse(body: str, *, outputs: str = "float[2,3] y", constants: str = "") -> ir.Model:
    """A graph of x float[2,3]; s, z, t, u are two uint8 grids, i one of int8."""
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3] x) => ({outputs})
        <float s = {{0.05}}, uint8 z = {{100}}, float t = {{0.1}}, uint8 u = {{90}}, int8 i = {{-28}} {constants}>
        {{ {body} }}""")


FEED = {"x": np.linspace(-4, 5, 6, dtype=np.float32).reshape(2, 3)}


def folded(model: ir.Model) -> ir.Model:
    model = model.clone()
    fold_qdq(model)
    assert not {node.op_type for node in model.graph} & {"QuantizeLinear", "DequantizeLinear"}
    return model


def value(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in model.graph for v in node.outputs if v.name == name)


GRAPHS = {
    "input": "a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) y = Relu(b)",
    "around": """a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = Relu(b)
                 d = QuantizeLinear(c, t, u) e = DequantizeLinear(d, t, u) y = Neg(e)""",
    "at the output": "c = Relu(x) d = QuantizeLinear(c, t, u) y = DequantizeLinear(d, t, u)",
    "two readers of one grid": """c = Neg(x) d = QuantizeLinear(c, t, u) e = DequantizeLinear(d, t, u)
                 f = DequantizeLinear(d, t, u) g = Relu(e) y = Add(f, g)""",
    "real and rounded": """c = Neg(x) d = QuantizeLinear(c, t, u) e = DequantizeLinear(d, t, u) y = Sub(c, e)""",
    "two grids of one value": """c = Neg(x) d = QuantizeLinear(c, t, u) e = DequantizeLinear(d, t, u)
                 f = QuantizeLinear(c, s, z) g = DequantizeLinear(f, s, z) y = Sub(e, g)""",
    "one grid twice": """c = Neg(x) d = QuantizeLinear(c, t, u) e = DequantizeLinear(d, t, u)
                 f = QuantizeLinear(c, t, u) g = DequantizeLinear(f, t, u) y = Add(e, g)""",
    "requantize": """a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z)
                 c = QuantizeLinear(b, t, u) d = DequantizeLinear(c, t, u) y = Neg(d)""",
    "the same again": """a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z)
                 c = QuantizeLinear(b, s, z) d = DequantizeLinear(c, s, z) y = Neg(d)""",
    "default zero point": "a = QuantizeLinear(x, s) b = DequantizeLinear(a, s) y = Neg(b)",
    "output and reader": """c = Neg(x) d = QuantizeLinear(c, t, u) y = DequantizeLinear(d, t, u) y2 = Relu(y)""",
    "signed": "a = QuantizeLinear(x, s, i) b = DequantizeLinear(a, s, i) y = Neg(b)",
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    outputs = "float[2,3] y, float[2,3] y2" if "y2" in GRAPHS[name] else "float[2,3] y"
    model = parse(GRAPHS[name], outputs=outputs)
    expected, found = run_onnxruntime(model, FEED), run_onnxruntime(unfold(folded(model)), FEED)
    assert list(found) == list(expected)
    for output, array in expected.items():
        np.testing.assert_array_equal(found[output], array)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_row_of_the_table(case: Case) -> None:
    """Bit for bit, int8 and (where there are weights) INT4."""
    for model, _ in [quantize(case), quantize(case, foreign=True), *([quantize4(case)] if has_weights(case) else [])]:
        expected = run_onnxruntime(model, sample(case))
        for name, array in run_onnxruntime(unfold(folded(model)), sample(case)).items():
            np.testing.assert_array_equal(array, expected[name])


def test_grids_sit_on_values_and_integers_in_constants() -> None:
    body = """a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) w = DequantizeLinear <axis = 0> (q, k)
              c = MatMul(b, w) d = QuantizeLinear(c, t, u) e = DequantizeLinear(d, t, u) y = Relu(e)"""
    constants = ", int8[3,2] q = {1,2,3,-4,5,6}, float[3] k = {1.0,2.0,3.0}"
    model = folded(parse(body, outputs="float[2,2] y", constants=constants))
    weight = model.graph.initializers["q"]
    grid, product = quant(weight), quant(value(model, "c"))
    assert weight.dtype == ir.DataType.INT8
    assert grid is not None
    assert product is not None
    assert grid.type.granularity == PerChannel(0)
    assert grid.type.symmetric
    assert (product.scale, product.zero_point) == (np.float32(0.1), 90)
    assert quant(model.graph.inputs[0]) is None
    assert quant(model.graph.outputs[0]) is None


def test_blocks() -> None:
    constants = ", int8[3,2] q = {1,2,3,-4,5,6}, float[2,2] k = {1.0,2.0,3.0,4.0}"
    model = folded(parse("w = DequantizeLinear <axis = -2, block_size = 2> (q, k) y = MatMul(x, w)",
                         outputs="float[2,2] y", constants=constants))
    grid = quant(model.graph.initializers["q"])
    assert grid is not None
    assert grid.type.granularity == PerBlock(2, 0)


def test_one_constant_read_with_two_scales() -> None:
    model = parse("v = DequantizeLinear(q, s) w = DequantizeLinear(q, t) a = Mul(x, v) y = Add(a, w)",
                  constants=", int8[2,3] q = {1,2,3,-4,5,6}")
    found = run_onnxruntime(unfold(folded(model)), FEED)["y"]
    np.testing.assert_array_equal(found, run_onnxruntime(model, FEED)["y"])


REFUSED = {
    "a computed scale": ("m = ReduceMax <keepdims = 0> (x) a = QuantizeLinear(x, m, z) b = DequantizeLinear(a, m, z) "
                         "y = Relu(b)", "not a constant"),
    "integers as output": ("a = QuantizeLinear(x, s, z) y = Identity(a)", "without a DequantizeLinear"),
    "integers used": ("a = QuantizeLinear(x, s, z) b = Cast <to = 6> (a) y = Cast <to = 1> (b)",
                      "without a DequantizeLinear"),
    "another scale": ("a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = DequantizeLinear(a, t, z) "
                      "y = Sub(b, c)", "on another grid"),
    "integers from elsewhere": ("a = Cast <to = 2> (x) y = DequantizeLinear(a, s, z)", "not come from"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    body, reason = REFUSED[name]
    outputs = "uint8[2,3] y" if name == "integers as output" else "float[2,3] y"
    with pytest.raises(UnsupportedModel, match=reason):
        fold_qdq(parse(body, outputs=outputs))


def test_every_wrong_node_is_named_at_once() -> None:
    model = parse("""a = QuantizeLinear(x, s, z) b = Cast <to = 1> (a) c = Cast <to = 2> (x)
                     d = DequantizeLinear(c, s, z) e = QuantizeLinear(b, s, z) f = Cast <to = 1> (e)
                     g = Add(d, f) y = Neg(g)""")
    with pytest.raises(UnsupportedModel) as error:
        fold_qdq(model)
    assert len(error.value.problems) == 3
