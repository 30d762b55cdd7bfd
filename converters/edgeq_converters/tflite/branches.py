"""If with a computed condition: both branches are computed, and the condition chooses between their results."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import constant, initializer, label, static


def compute_both_branches(model: ir.Model) -> ir.Model:
    """A copy without If whose branches give results of one static shape; LiteRT's own IF needs a graph per branch, and
    most delegates refuse it.

        c -> If(then: x -> Exp -> t, else: x -> Sin -> e) -> y     =>     Where(c, Exp(x), Sin(x)) -> y

    A random number or a loop without end in a branch stays what it is: such ops are refused anyway.
    """
    if not any(node.op_type == "If" for node in model.graph):
        return model
    model = model.clone()
    while any(_flatten(node, model.graph) for node in list(model.graph) if node.op_type == "If"):
        pass
    return model


def _flatten(node: ir.Node, graph: ir.Graph) -> bool:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    condition = node.inputs[0]
    pairs = list(zip(*(branch.outputs for branch in branches), strict=True))
    if condition is None or constant(condition) is not None or not all(_alike(*pair) for pair in pairs):
        return False
    for branch, name in zip(branches, ("then", "else"), strict=True):
        branch.outputs.clear()
        for value in list(branch.initializers.values()):
            del branch.initializers[str(value.name)]
            value.name = f"{label(node)}_{name}_{value.name}"
            graph.register_initializer(value)
        body = list(branch)
        for inner in body:
            for output in inner.outputs:
                output.name = f"{label(node)}_{name}_{output.name}"
        branch.remove(body)
        graph.insert_before(node, body)
    scalar = initializer(graph, f"{label(node)}_scalar", np.zeros(0, np.int64))
    flag = ir.node("Reshape", [condition, scalar], name=f"{label(node)}_condition")
    flag.outputs[0].name, flag.outputs[0].shape = f"{label(node)}_flag", ir.Shape(())
    flag.outputs[0].type = ir.TensorType(ir.DataType.BOOL)
    graph.insert_before(node, flag)
    for output, (yes, no) in zip(node.outputs, pairs, strict=True):
        chosen = ir.node("Where", [flag.outputs[0], yes, no], name=f"{label(node)}_{output.name}")
        made = chosen.outputs[0]
        made.name, made.shape, made.type = output.name, yes.shape, yes.type
        output.name = f"{output.name}_if"
        graph.insert_before(node, chosen)
        output.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return True


def _alike(yes: ir.Value, no: ir.Value) -> bool:
    sizes = static(yes)
    return sizes is not None and sizes == static(no) and yes.dtype == no.dtype and isinstance(yes.type, ir.TensorType)
