"""An If whose condition is a constant is the branch it takes; the weights of the others belong to the main graph."""
from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from edgeq.graph import all_nodes, constant, initializer, is_constant
from edgeq.ops import stored_inputs
from edgeq.passes.rewrite import nodes_of


def inline_constant_if(model: ir.Model) -> int:
    """If with a constant condition becomes the nodes of the branch that it takes -> how many.

        true -> If(then: x -> Relu -> y, else: ...) -> y     =>     x -> Relu -> y
    """
    return sum(_inline(node) for node in nodes_of(model, "If"))


def _inline(node: ir.Node) -> bool:
    condition, graph = constant(node.inputs[0]), node.graph
    if condition is None or graph is None:
        return False
    branch = node.attributes["then_branch" if condition.all() else "else_branch"].as_graph()
    results = list(branch.outputs)
    # A branch may hand on a value from outside; only what it computes itself can take over the name of a graph output.
    if any(output.is_graph_output() and result.graph is not branch for output, result in
           zip(node.outputs, results, strict=True)):
        return False
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        graph.register_initializer(value)
    body = list(branch)
    branch.remove(body)
    graph.insert_before(node, body)
    for output, result in zip(node.outputs, results, strict=True):
        if output.is_graph_output():
            output.name, result.name = None, output.name
        output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def weights_to_main_graph(model: ir.Model) -> int:
    """Weights that belong to the body of an If, Loop or Scan become initializers of the main graph -> how many.

        If(then: Conv(x, w), w in the body) -> y     =>     If(then: Conv(x, w), w in the main graph) -> y

    There they are quantized like all others, and dequantized outside of every loop.
    """
    moved = 0
    for node in all_nodes(model.graph):
        for index in stored_inputs(node.op_type):
            weight = node.inputs[index]
            body = weight.graph if weight is not None else None
            if weight is None or not is_constant(weight) or body in (None, model.graph) or weight.is_graph_output():
                continue
            assert body is not None
            assert weight.const_value is not None
            weight.replace_all_uses_with(initializer(model.graph, weight.name or "", weight.const_value))
            del body.initializers[weight.name or ""]
            moved += 1
    if moved:
        NameFixPass()(model)
    return moved
