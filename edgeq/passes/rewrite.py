"""The few moves that all rewrites are made of."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant


def only_reader(value: ir.Value | None, node: ir.Node) -> bool:
    """True when ``node`` alone reads a computed value, once, and callers do not see it."""
    return value is not None and not value.is_graph_output() and [use.node for use in value.uses()] == [node]


def bypass(node: ir.Node, value: ir.Value) -> None:
    """Let the readers of a node's only output read ``value``, and remove the node. Names of graph outputs stay."""
    old = node.outputs[0]
    if old.is_graph_output():
        name, old.name = old.name, None
        value.name = name
    value.shape, value.type = old.shape or value.shape, old.type or value.type
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def can_bypass(node: ir.Node, value: ir.Value | None) -> bool:
    """False where the graph's interface needs the node: an output that would be an input, a constant, or another output."""
    if value is None:
        return False
    return not node.outputs[0].is_graph_output() or (value.producer() is not None and not value.is_graph_output()
                                                     and value.graph is node.graph)


def float_weight(node: ir.Node) -> NDArray[Any] | None:
    """Input 1 where it is a constant of floats, else None."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return weight if weight is not None and np.issubdtype(weight.dtype, np.floating) else None
