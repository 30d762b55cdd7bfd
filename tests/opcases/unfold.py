"""The folded graph written out again, so that ONNX Runtime can say what it means."""
from __future__ import annotations

import onnx_ir as ir

from edgeq.graph import QUANT, initializer, quant
from edgeq.scheme import PerBlock, PerChannel, QuantParams
from edgeq_converters.prepare import DOMAIN


def unfold(model: ir.Model) -> ir.Model:
    """A folded model -> QDQ: every computed value with a grid is rounded, every constant with one is dequantized."""
    model = model.clone()
    graph = model.graph
    for node in list(graph):
        for value in node.outputs:
            grid = quant(value)
            if grid is not None:
                _round(graph, node, value, grid)
    for value in [value for value in graph.initializers.values() if value.meta.get(QUANT) is not None]:
        node = _dequantize(graph, value, value.meta[QUANT], f"{value.name}_read")
        for use in list(value.uses()):
            if use.node is not node:
                use.node.replace_input_with(use.idx, node.outputs[0])
        graph.insert_before(graph[0], node)
    for node in [node for node in graph if node.domain == DOMAIN]:
        _split_linear(graph, node)
    model.opset_imports.pop(DOMAIN, None)
    return model


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, grid: QuantParams) -> None:
    readers = list(value.uses())
    write = ir.node("QuantizeLinear", [value, *_operands(graph, str(value.name), grid)], name=f"{value.name}_round")
    write.outputs[0].name = f"{value.name}_integers"
    read = _dequantize(graph, write.outputs[0], grid, f"{value.name}_rounded")
    for use in readers:
        use.node.replace_input_with(use.idx, read.outputs[0])
    graph.insert_after(node, [write, read])


def _dequantize(graph: ir.Graph, value: ir.Value, grid: QuantParams, name: str) -> ir.Node:
    attributes = {}
    if isinstance(grid.type.granularity, PerChannel | PerBlock):
        attributes["axis"] = grid.type.granularity.axis
    if isinstance(grid.type.granularity, PerBlock):
        attributes["block_size"] = grid.type.granularity.size
    node = ir.node("DequantizeLinear", [value, *_operands(graph, name, grid)], attributes, name=name)
    node.outputs[0].name = name
    return node


def _operands(graph: ir.Graph, name: str, grid: QuantParams) -> list[ir.Value]:
    dtype = ir.DataType[f"{'' if grid.type.signed else 'U'}INT{grid.type.bits}"].numpy()
    return [initializer(graph, f"{name}_unfold_scale", grid.scale),
            initializer(graph, f"{name}_unfold_zero_point", grid.zero_point.astype(dtype))]


def _split_linear(graph: ir.Graph, node: ir.Node) -> None:
    """edgeq::Linear(x, w, b)     =>     MatMul(x, w) -> Add(b)."""
    product = ir.node("MatMul", node.inputs[:2], name=f"{node.name}_product")
    product.outputs[0].name = f"{node.outputs[0].name}_product"
    add = ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{node.name}_bias")
    old = node.outputs[0]
    name, old.name = old.name, f"{old.name}_before"
    add.outputs[0].name, add.outputs[0].shape, add.outputs[0].type = name, old.shape, old.type
    graph.insert_before(node, [product, add])
    old.replace_all_uses_with(add.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
