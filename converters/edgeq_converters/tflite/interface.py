"""Integer inputs and outputs: the grids inside such a model survive."""
from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeq.graph import QUANT, constant, consumers, label, real_inputs
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import PerTensor, QuantParams

EIGHT_BITS = (ir.DataType.INT8, ir.DataType.UINT8)


def real_interface(model: ir.Model) -> tuple[ir.Model, dict[str, QuantParams]]:
    """A copy whose integer inputs and outputs are the real numbers that they stand for, on their grids, and these grids
    by name: the file's tensors bear them, so that nothing has to compute what they say.

        int8 x -> DQ -> Conv      =>      float x -> Q -> DQ -> Conv
        Conv -> Q -> int8 y       =>      Conv -> Q -> DQ -> float y
    """
    found = {value.name or "": grid for value in (*real_inputs(model.graph), *model.graph.outputs)
             if (grid := _interface_grid(value)) is not None}
    if not found:
        return model, {}
    model = model.clone()
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in found:
            _real_input(graph, value)
    for index, value in enumerate(graph.outputs):
        if value.name in found:
            graph.outputs[index] = _real_output(graph, value)
    return model, found


def mark_grids(graph: ir.Graph, grids: Mapping[str, QuantParams]) -> None:
    """On the folded graph: outputs that are integers in the file keep their grid to the end."""
    for value in graph.outputs:
        if value.name in grids:
            value.meta[QUANT] = grids[value.name or ""]


def _interface_grid(value: ir.Value) -> QuantParams | None:
    """What an input's readers, or an output's writer, say of its integers; None where they say different things."""
    nodes = consumers(value) if value.is_graph_input() else [value.producer()]
    op = DEQUANTIZE if value.is_graph_input() else QUANTIZE
    if value.dtype not in EIGHT_BITS or not nodes or any(
            node is None or node.op_type != op for node in nodes):
        return None
    grids = [grid_of(node) for node in nodes if node is not None]
    first = grids[0]
    if first is None or not isinstance(first.type.granularity, PerTensor):
        return None
    return first if all(first.same_grid(other) for other in grids) else None


def _real_input(graph: ir.Graph, value: ir.Value) -> None:
    readers = consumers(value)
    quantize = ir.node(QUANTIZE, [value, *readers[0].inputs[1:]], name=f"{value.name}_grid")
    stored = quantize.outputs[0]
    stored.name, stored.shape, stored.type = f"{value.name}_stored", value.shape, value.type
    for reader in readers:
        reader.replace_input_with(0, stored)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(graph[0], quantize)


def _real_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    producer = value.producer()
    assert producer is not None
    dequantize = ir.node(DEQUANTIZE, [value, *producer.inputs[1:]], name=f"{value.name}_real")
    real = dequantize.outputs[0]
    real.name, real.shape, real.type = value.name, value.shape, ir.TensorType(ir.DataType.FLOAT)
    value.name = f"{value.name}_stored"
    graph.insert_after(producer, dequantize)
    return real


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
