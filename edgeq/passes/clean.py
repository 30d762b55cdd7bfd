"""Nodes that do nothing and values that nobody reads."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeq.external_weights import DiskTensor
from edgeq.graph import all_nodes, attribute, constant, dims
from edgeq.ops import RESHAPING
from edgeq.passes.rewrite import bypass, can_bypass, same_shape

_HEAD: Final = 1024  # elements that tell most tensors from each other


def remove_unused(model: ir.Model) -> int:
    """Nodes and initializers that reach no output -> how many are gone."""
    before = _size(model)
    RemoveUnusedNodesPass()(model)
    return before - _size(model)


def deduplicate_initializers(model: ir.Model) -> int:
    """Constants with equal bytes, shape and dtype become one -> how many are gone."""
    return sum(_deduplicate(graph) for graph in model.graphs())


def _deduplicate(graph: ir.Graph) -> int:
    """Tensors whose first bytes differ are never read further: most differ, and a network may be larger than memory."""
    count = 0
    alike: dict[tuple[ir.DataType, tuple[int | str | None, ...], bytes], list[ir.Value]] = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype.is_string() or value.is_graph_input() or value.is_graph_output():
            continue
        others = alike.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), _head(tensor)), [])
        twin = next((other for other in others if _same_bytes(other.const_value, tensor)), None)
        if twin is None:
            others.append(value)
            continue
        value.replace_all_uses_with(twin)
        del graph.initializers[value.name or ""]
        count += 1
    return count


def _head(tensor: ir.TensorProtocol) -> bytes:
    return tensor.head() if isinstance(tensor, DiskTensor) else tensor.numpy().reshape(-1)[:_HEAD].tobytes()


def _same_bytes(a: ir.TensorProtocol | None, b: ir.TensorProtocol) -> bool:
    return a is not None and a.tobytes() == b.tobytes()


def _size(model: ir.Model) -> int:
    return sum(len(graph) + len(graph.initializers) for graph in model.graphs())


def remove_no_ops(model: ir.Model) -> int:
    """Take out nodes whose output is their first input -> how many.

        x -> Dropout -> Reshape(same shape) -> Cast(same type) -> y     =>     x -> y

    A node stays where a graph output would become a graph input, a constant, or a second name of one value.
    """
    return sum(_remove(node) for node in list(all_nodes(model.graph)))


def _remove(node: ir.Node) -> bool:
    does_nothing = _DOES_NOTHING.get(node.op_type) if node.domain == "" else None
    if does_nothing is None or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    data = node.inputs[0]
    if not does_nothing(node) or not can_bypass(node, data):
        return False
    assert data is not None
    bypass(node, data)
    return True


def _always(node: ir.Node) -> bool:
    return True


def _keeps_shape(node: ir.Node) -> bool:
    return node.inputs[0] is not None and same_shape(node.inputs[0], node.outputs[0])


def _keeps_type(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType(attribute(node, "to"))


def _keeps_order(node: ir.Node) -> bool:
    order, shape = attribute(node, "perm"), dims(node.inputs[0])
    if shape is None:
        return False
    order = list(order) if order is not None else list(range(len(shape)))[::-1]
    return order == list(range(len(shape)))


def _takes_all(node: ir.Node) -> bool:
    """A Slice that keeps the shape, forwards: one that reverses keeps the shape too."""
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else np.ones(1)
    return _keeps_shape(node) and steps is not None and bool((steps > 0).all())


def _one_input(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _inference(node: ir.Node) -> bool:
    training = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    return training is not None and not training.any()


_DOES_NOTHING: Final[Mapping[str, Callable[[ir.Node], bool]]] = MappingProxyType({
    "Identity": _always,
    "Dropout": _inference,
    "Cast": _keeps_type,
    "Transpose": _keeps_order,
    "Slice": _takes_all,
    **dict.fromkeys((*RESHAPING, "Expand", "Tile"), _keeps_shape),
    # A Pad that keeps the shape could still crop on one side and pad on the other, so all pads must be zero.
    "Pad": lambda node: (pads := constant(node.inputs[1])) is not None and not pads.any(),
    **dict.fromkeys(("Concat", "Sum", "Max", "Min", "Mean"), _one_input),
})


def rename_clashes(model: ir.Model, given: Collection[ir.Node]) -> None:
    """Every node gets a name that nothing else has, those of bodies too; and every result of a new one.

    given: the nodes that were there before; of these the outermost keep theirs. New names are made from others, and a
    file may well hold 'conv', 'conv_1' and 'conv_2'.
    """
    nodes = list(all_nodes(model.graph))
    new = [node for node in nodes if node not in given]
    inside = [node for node in nodes if node in given and node.graph is not model.graph]
    values = [value for graph in model.graphs() for value in (*graph.inputs, *graph.initializers.values())]
    values += [output for node in nodes if node in given for output in node.outputs]
    taken: Counter[str] = Counter(node.name or "" for node in model.graph if node in given)
    known: Counter[str] = Counter(value.name or "" for value in dict.fromkeys(values))
    for node in (*inside, *new):
        node.name = _free_name(node.name, taken)
    for node in new:
        for output in node.outputs:
            if not output.is_graph_output():
                output.name = _free_name(output.name, known)


def _free_name(name: str | None, taken: Counter[str]) -> str | None:
    if not name:  # an absent output
        return name
    free = name
    while free in taken:
        free = f"{name}_{taken[name]}"
        taken[name] += 1
    taken[free] += 1
    return free
