"""The few questions and moves that all rewrites are made of."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import all_nodes, constant, dims, initializer

SAME: Final = 1e-5  # relative difference up to which a constant is the one of a formula (float32 rounds at 6e-8)


def nodes_of(model: ir.Model, *ops: str) -> list[ir.Node]:
    """The nodes of the default domain with one of these operators, bodies of control flow included."""
    return [node for node in all_nodes(model.graph) if node.domain == "" and node.op_type in ops]


def producer(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that computes a value, where it is one of these operators."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in ops else None


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant of one element."""
    one = value is not None and value.const_value is not None and value.const_value.size == 1
    data = constant(value) if one else None  # the numbers of a large tensor may be on disk
    return float(data.reshape(())) if data is not None and data.dtype.kind in "fiu" else None


def is_number(value: ir.Value | None, expected: float) -> bool:
    """True for a constant of one element that equals a number, but for the rounding of float32."""
    return close(scalar(value), expected)


def close(number: float | None, expected: float) -> bool:
    return number is not None and abs(number - expected) <= SAME * abs(expected)


def with_scalar(value: ir.Value | None, op: str) -> tuple[ir.Value, float] | None:
    """A value computed by a commutative ``op`` of something and one number, on either side -> (something, number)."""
    node = producer(value, op)
    if node is None or len(node.inputs) != 2:
        return None
    for data, other in (node.inputs, node.inputs[::-1]):
        number = scalar(other)
        if data is not None and number is not None and scalar(data) is None:
            return data, number
    return None


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    return dims(a) is not None and dims(a) == dims(b)


def float_weight(node: ir.Node) -> NDArray[Any] | None:
    """Input 1 where it is a constant of floats, else None."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return weight if weight is not None and np.issubdtype(weight.dtype, np.floating) else None


def bypass(node: ir.Node, value: ir.Value) -> None:
    """Let the readers of a node's only output read ``value``, and remove the node. Names of graph outputs stay."""
    old = node.outputs[0]
    if old.is_graph_output():
        name, old.name = old.name, None
        value.name = name
    value.shape, value.type = value.shape or old.shape, value.type or old.type
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def can_bypass(node: ir.Node, value: ir.Value | None) -> bool:
    """False where the graph's interface needs the node: its output would be an input, a constant or another output."""
    if value is None:
        return False
    free = value.producer() is not None and not value.is_graph_output() and value.graph is node.graph
    return free or not node.outputs[0].is_graph_output()


def replace(node: ir.Node, op: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Node:
    """Put one new node in the place of another -> the new one. Its output takes over name, shape, dtype and readers."""
    assert node.graph is not None
    old = node.outputs[0]
    new = ir.node(op, inputs, attributes=attributes or None, name=node.name)
    node.graph.insert_before(node, new)
    output = new.outputs[0]
    output.name, output.shape, output.type = old.name, old.shape, old.type
    if old.is_graph_output():
        old.name = None
    old.replace_all_uses_with(output, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    return new


def inserted(before: ir.Node, op: str, inputs: Sequence[ir.Value | None], suffix: str, like: ir.Value, *,
             shape: Sequence[int] | None = None, **attributes: Any) -> ir.Value:
    """What a new node in front of another computes. suffix: to the names of that other and of its output. like: has the
    type of the new value, and its shape where none is given.
    """
    assert before.graph is not None
    node = ir.node(op, inputs, attributes=attributes or None, name=f"{before.name}_{suffix}")
    value = node.outputs[0]
    value.name, value.type = f"{before.outputs[0].name}_{suffix}", like.type
    value.shape = like.shape if shape is None else ir.Shape(shape)
    before.graph.insert_before(before, node)
    return value


def constant_like(node: ir.Node, name: str, data: NDArray[Any]) -> ir.Value:
    """Constant data for an input of a node, named after the node's output."""
    assert node.graph is not None
    return initializer(node.graph, f"{node.outputs[0].name}_{name}", data)
