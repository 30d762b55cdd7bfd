"""Quantization that is no grid between two float ops: integers at the interface, computed scales, QLinear ops.

`edgeq.quant.qdq.fold_qdq` moves a QuantizeLinear with its DequantizeLinears onto a value. Here, before it: what it
would refuse becomes arithmetic in float32 whatever the program's precision (edgeq::Quantize, edgeq::Dequantize,
edgeq::DynamicQuantize, edgeq::IntegerMatMul, edgeq::IntegerConv, and edgeq::Narrow for a Cast to a small float). The
QLinear operators become the float operator between a DequantizeLinear and a QuantizeLinear, as ONNX defines them.
"""
from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import constant, initializer, label
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE

DOMAIN: Final = "edgeq"
LOOSE: Final = {QUANTIZE: "Quantize", DEQUANTIZE: "Dequantize", "Cast": "Narrow",
               "DynamicQuantizeLinear": "DynamicQuantize", "MatMulInteger": "IntegerMatMul",
               "ConvInteger": "IntegerConv"}
ALWAYS: Final = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
NARROWED: Final = frozenset({ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ,
                             ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ})
INTEGERS: Final = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16,
                             ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT32})


def plain_quantization(graph: ir.Graph) -> None:
    """Rewrite, in place, what `fold_qdq` does not take."""
    for node in list(graph):
        if node.op_type == "QLinearConv":
            _dequantized(graph, node, "Conv")
        elif node.op_type == "QLinearMatMul":
            _dequantized(graph, node, "MatMul")
    for node in list(graph):
        if node.op_type == QUANTIZE and not _folds(node):
            readers = [use.node for use in node.outputs[0].uses() if use.node.op_type == DEQUANTIZE]
            for loose in (node, *readers):
                _loosen(loose)
        elif (node.op_type in ALWAYS
              or (node.op_type == "Cast" and node.outputs[0].dtype in NARROWED)
              or (node.op_type == DEQUANTIZE and not _reads_a_grid(node))):
            _loosen(node)


def _loosen(node: ir.Node) -> None:
    node.op_type, node.domain = LOOSE.get(node.op_type, node.op_type), DOMAIN


def _folds(node: ir.Node) -> bool:
    """A constant grid of the whole tensor, whose integers are read on that grid only."""
    stored = node.outputs[0]
    readers = [use.node for use in stored.uses()]
    return (stored.dtype in INTEGERS and not stored.is_graph_output() and _grid(node) is not None
            and all(reader.op_type == DEQUANTIZE and _grid(reader) == _grid(node) for reader in readers))


def _grid(node: ir.Node) -> tuple[float, float] | None:
    """(scale, zero point) of the whole tensor, if they are constants."""
    scale, zero_point = constant(node.inputs[1]), np.zeros(())
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        given = constant(node.inputs[2])
        if given is None:
            return None
        zero_point = given
    if scale is None or scale.size != 1:
        return None
    return float(scale.ravel()[0]), float(zero_point.ravel()[0])


def _reads_a_grid(node: ir.Node) -> bool:
    """Integers known at conversion, or those of a QuantizeLinear."""
    stored = node.inputs[0]
    assert stored is not None
    if stored.dtype not in INTEGERS:
        return False
    producer = stored.producer()
    if producer is not None and producer.op_type == QUANTIZE:
        return True
    known = stored.const_value is not None and not stored.is_graph_input()
    return known and all(given is None or constant(given) is not None for given in node.inputs[1:])


def _dequantized(graph: ir.Graph, node: ir.Node, op_type: str) -> None:
    """QLinear(x, its scale and zero point, w, .., .., scale and zero point of the result, bias)

        =>     QuantizeLinear(op(DequantizeLinear(x), DequantizeLinear(w), DequantizeLinear(bias)))
    """
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    matmul = op_type == "MatMul"
    nodes = [_scaled(graph, node, x, x_scale, x_zero, -2 if matmul else 1),
             _scaled(graph, node, w, w_scale, w_zero, -1 if matmul else 0)]
    if len(node.inputs) > 8 and node.inputs[8] is not None:
        bias, first, second = node.inputs[8], constant(x_scale), constant(w_scale)
        if first is None or second is None:
            return  # a bias on a computed grid: refused by its name
        scale = np.asarray(first.ravel() * second.ravel(), np.float32)
        grid = initializer(graph, f"{label(node)}_bias_scale", scale if scale.size > 1 else scale.reshape(()))
        nodes.append(_scaled(graph, node, bias, grid, None, 0))
    computed = ir.node(op_type, [made.outputs[0] for made in nodes], dict(node.attributes), name=label(node))
    result = node.outputs[0]
    computed.outputs[0].name = f"{result.name}_real"
    computed.outputs[0].type, computed.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), result.shape
    rounded = ir.node(QUANTIZE, [computed.outputs[0], y_scale, y_zero], name=f"{label(node)}_quantize")
    rounded.outputs[0].name, rounded.outputs[0].type, rounded.outputs[0].shape = result.name, result.type, result.shape
    graph.insert_before(node, [*nodes, computed, rounded])
    result.replace_all_uses_with(rounded.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)




def _scaled(graph: ir.Graph, node: ir.Node, stored: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None,
            axis: int) -> ir.Node:
    """stored -> DequantizeLinear. QLinearMatMul's scales of one row or column each may have more than one axis."""
    assert stored is not None
    grid = [scale, zero]
    for index, value in enumerate(grid):
        known = constant(value)
        if known is not None and known.ndim > 1:
            grid[index] = initializer(graph, f"{label(node)}_grid_{index}", known.reshape(-1))
    inputs = [stored, *grid] if zero is not None else [stored, grid[0]]
    made = ir.node(DEQUANTIZE, inputs, {"axis": axis}, name=f"{label(node)}_{stored.name}")
    made.outputs[0].name = f"{label(node)}_{stored.name}_real"
    made.outputs[0].type, made.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), stored.shape
    return made
