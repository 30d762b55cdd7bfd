"""An If whose condition is a constant is the branch it takes."""
from __future__ import annotations

import onnx_ir as ir

from edgeq.graph import constant
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
