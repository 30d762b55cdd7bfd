"""Small questions about an onnx_ir graph, asked in more than one place."""
from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.external_weights import DiskTensor, derived
from edgeq.scheme import QuantParams

OPSET: Final = 21
IR_VERSION: Final = 10
QUANTIZED: Final = "edgeq.quantized"  # key of a model's metadata: it came with grids of its own
QUANT: Final = "edgeq.quant"  # key of Value.meta; the value is a QuantParams
LARGEST: Final = "edgeq.largest"  # key of Value.meta; the largest absolute value to expect


def quant(value: ir.Value) -> QuantParams | None:
    """The grid that a value of a folded graph lies on, or None where it is float (see quant.qdq.fold_qdq)."""
    params: QuantParams | None = value.meta.get(QUANT)
    return params


def largest(value: ir.Value) -> float | None:
    """The largest absolute value to expect of a float; None where nothing is known of it."""
    grid, known = quant(value), value.meta.get(LARGEST)
    return float(np.abs(grid.real_range()).max()) if grid is not None else float(known) if known else None


def is_constant(value: ir.Value | None) -> bool:
    """True for an initializer that callers cannot override."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The data of an initializer, or None for a computed or absent value."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def is_finite(value: ir.Value) -> bool:
    """Whether a constant holds numbers and no infinity among them. One that stays on disk is taken for such."""
    tensor = value.const_value
    if tensor is None or isinstance(tensor, DiskTensor | ir.LazyTensor):
        return True
    data = tensor.numpy()
    return bool(data.size and np.isfinite(data.min()) and np.isfinite(data.max()))


def shape(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value.

    Raises:
        ModelError: a dimension is not a number; names the value and the option that fixes it.
    """
    known = static(value)
    if known is None:
        raise ModelError(f"value '{value.name}' has the shape {value.shape}; fix it with --input NAME:1x3x224x224")
    return known


def static(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value where all of it is known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(d) for d in value.shape.numpy())


def value_bytes(value: ir.Value) -> int | None:
    """Bytes of a value's data; None where its size or type is open, and for texts."""
    sizes = static(value)
    if sizes is None or value.dtype is None or value.dtype is ir.DataType.STRING:
        return None
    return math.ceil(math.prod(sizes) * value.dtype.itemsize)


def rank(value: ir.Value) -> int:
    """Number of axes; 0 too where nothing is known."""
    return 0 if value.shape is None else len(value.shape)


def constant_bytes(graph: ir.Graph) -> int:
    """Of the initializers."""
    return sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)


def is_transpose(value: ir.Value, table: ir.Value) -> bool:
    """Whether a constant [D,V] is the transpose of another constant [V,D]; the data is read only where shapes agree."""
    if value is table or len(shape(value)) != 2 or shape(value) != shape(table)[::-1]:
        return False
    data, rows = constant(value), constant(table)
    return data is not None and rows is not None and np.array_equal(data, rows.T)


def dims(value: ir.Value | None) -> tuple[int | str, ...] | None:
    """The shape of a value where all of it is known or has a name: what has one name has one size in every run."""
    if value is None or value.shape is None:
        return None
    found = [d if isinstance(d, int) else d.value for d in value.shape]
    return None if None in found else tuple(d for d in found if d is not None)


def label(node: ir.Node) -> str:
    """A name for messages: the node's own, or its first output's."""
    return node.name or (node.outputs[0].name if node.outputs else None) or "?"


@dataclass(frozen=True, slots=True)
class NodeNote:
    """Why a node is not what a reader expects: kept float, computed in float, or stored otherwise."""

    node: str
    op: str
    reason: str

    @classmethod
    def of(cls, node: ir.Node, reason: str) -> NodeNote:
        return cls(label(node), node.op_type, reason)


def real_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Graph inputs that are not initializers with a default."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, in graph order, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def only_reader(value: ir.Value | None) -> ir.Node | None:
    """The node that alone reads a value which callers do not see, or None."""
    readers = [] if value is None or value.is_graph_output() else consumers(value)
    return readers[0] if len(readers) == 1 else None


def moved_from(value: ir.Value, moves: Collection[str]) -> ir.Value:
    """What a value is computed from by nothing but operators of these types, back through their first inputs."""
    producer = value.producer()
    while producer is not None and producer.op_type in moves and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def axis_behind(node: ir.Node, axis: int) -> int | None:
    """Where an axis of its first input lies behind a Transpose or a Reshape: there, the axis of as many elements with
    as many before it. None where none has.
    """
    if node.op_type == "Transpose":
        order = attribute(node, "perm") or list(range(rank(node.outputs[0])))[::-1]
        return int(list(order).index(axis))
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None:
        return None
    return next((place for place, size in enumerate(after) if size == before[axis]
                 and _elements(after[:place]) == _elements(before[:axis])), None)


def _elements(sizes: Sequence[int | str]) -> tuple[int, list[str]]:
    """Of how many, as the known factor and the names of the others."""
    return (math.prod(size for size in sizes if isinstance(size, int)),
            sorted(size for size in sizes if isinstance(size, str)))


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The Python value of an attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def initializer(graph: ir.Graph, name: str, data: NDArray[Any] | ir.TensorProtocol,
                source: ir.Value | None = None) -> ir.Value:
    """Register constant data under a name that is made unique -> its value. source: where it was computed from."""
    unique, number = name, 1
    while unique in graph.initializers or _taken(graph, unique):
        unique, number = f"{name}_{number}", number + 1
    tensor = derived(data, [source], unique) if isinstance(data, np.ndarray) else data
    shape = ir.Shape(tuple(tensor.shape.numpy()))
    value = ir.Value(name=unique, const_value=tensor, shape=shape, type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def _taken(graph: ir.Graph, name: str) -> bool:
    return any(value.name == name for value in graph.inputs)


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node, those inside control-flow bodies too."""
    yield from ir.traversal.RecursiveGraphIterator(graph)


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a control-flow node runs."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads of its own graph, in the bodies of its attributes too."""
    values = [value for value in node.inputs if value is not None]
    for body in bodies(node):
        inner = list(all_nodes(body))
        read = [value for deep in inner for value in deep.inputs] + list(body.outputs)
        values += [value for value in read if value is not None and value.graph is node.graph]
    return list(dict.fromkeys(values))
