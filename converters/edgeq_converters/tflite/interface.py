"""Integer inputs and outputs: the grids inside such a model survive."""
from __future__ import annotations

import onnx_ir as ir

from edgeq.graph import constant, label
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE

EIGHT_BITS = (ir.DataType.INT8, ir.DataType.UINT8)


def keep_grids(model: ir.Model) -> ir.Model:
    """A copy in which the real numbers at an integer interface lie on a grid, as those inside do.

        int8 x -> DQ -> Conv          =>     x -> DQ -> Q -> DQ -> Conv
        Conv -> Q -> int8 y           =>     Conv -> Q -> DQ -> Q -> y

    The outer Q and DQ have no partner and become arithmetic (edgeq_converters.integer_ops); without the pairs, the ops
    next to them would run in float.
    """
    if not any(_alone(node) for node in model.graph):
        return model
    model = model.clone()
    for node in [node for node in model.graph if _alone(node)]:
        _add_pair(model.graph, node)
    return model


def _alone(node: ir.Node) -> bool:
    """A DequantizeLinear of computed integers that no QuantizeLinear wrote, or a QuantizeLinear of an output."""
    parameters = node.inputs[1:3]
    if node.op_type not in (QUANTIZE, DEQUANTIZE) or len(parameters) < 2 or any(
            (data := constant(value)) is None or data.ndim for value in parameters):
        return False
    stored = node.inputs[0] if node.op_type == DEQUANTIZE else node.outputs[0]
    real = node.inputs[0] if node.op_type == QUANTIZE else node.outputs[0]
    if stored is None or real is None or stored.dtype not in EIGHT_BITS or real.dtype != ir.DataType.FLOAT:
        return False
    if node.op_type == QUANTIZE:
        return stored.is_graph_output()
    producer = stored.producer()
    return constant(stored) is None and (producer is None or producer.op_type != QUANTIZE)


def _add_pair(graph: ir.Graph, node: ir.Node) -> None:
    """Q and DQ on the node's grid, behind a DequantizeLinear or in front of a QuantizeLinear."""
    before = node.op_type == QUANTIZE
    real, parameters = (node.inputs[0] if before else node.outputs[0]), node.inputs[1:3]
    assert real is not None
    readers = [] if before else list(real.uses())
    quantize = ir.node(QUANTIZE, [real, *parameters], name=f"{label(node)}_grid")
    stored = quantize.outputs[0]
    stored.name, stored.shape = f"{label(node)}_stored", real.shape
    kind = parameters[1].dtype if parameters[1] is not None else None
    stored.type = ir.TensorType(kind or ir.DataType.UINT8)
    dequantize = ir.node(DEQUANTIZE, [stored, *parameters], name=f"{label(node)}_real")
    result = dequantize.outputs[0]
    result.name, result.shape, result.type = f"{label(node)}_on_grid", real.shape, real.type
    if before:
        graph.insert_before(node, [quantize, dequantize])
        node.replace_input_with(0, result)
        return
    graph.insert_after(node, [quantize, dequantize])
    for use in readers:
        use.node.replace_input_with(use.idx, result)
