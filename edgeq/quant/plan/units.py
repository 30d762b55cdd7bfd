"""Units: the ops that one kernel computes together, and small questions about nodes that every part of a plan asks."""
from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from edgeq import graph as graphs
from edgeq import policy
from edgeq.graph import attribute, constant, consumers, is_constant, only_reader
from edgeq.ops import LIMITING, MULTIPLY_ACCUMULATE, RECURRENT, WEIGHTED, weight_inputs
from edgeq.ops import data_inputs as data_inputs_of
from edgeq.targets import Target


class Units:
    """MatMul + Add(bias), and any op + Relu: the value between them never exists as integers.

    A unit goes by its head, the node that computes. bias_add: MatMul -> the Add of its bias. absorbed: Relu or Clip ->
    the op whose grid performs it.
    """

    def __init__(self, graph: ir.Graph, targets: Sequence[Target]):
        self.graph, self.targets = graph, targets
        self.bias_add: dict[ir.Node, ir.Node] = {}
        self.absorbed: dict[ir.Node, ir.Node] = {}
        for node in graph:
            if node.op_type == "MatMul" and is_constant(node.inputs[1]) and len(shape(node.inputs[1])) == 2:
                reader = only_reader(node.outputs[0])
                if reader is not None and reader.op_type == "Add" and _is_bias(node, reader):
                    self.bias_add[node] = reader
        for node in graph:
            if node.op_type in LIMITING and node.inputs[0] is not None:
                producer = node.inputs[0].producer()
                if producer is not None and only_reader(node.inputs[0]) is node and self.has_row(producer):
                    self.absorbed[node] = producer

    def heads(self) -> list[ir.Node]:
        """Every node but those that another one's unit holds."""
        inside = set(self.bias_add.values()) | set(self.absorbed)
        return [node for node in self.graph if node not in inside]

    def head(self, node: ir.Node) -> ir.Node:
        """The node that computes a unit, from its bias Add or activation."""
        node = self.absorbed.get(node, node)
        return next((product for product, add in self.bias_add.items() if add is node), node)

    def output(self, node: ir.Node) -> ir.Value:
        """The value that the kernel of a node writes, behind its bias and activation."""
        node = self.bias_add.get(node, node)
        reader = only_reader(node.outputs[0])
        if reader is not None and self.absorbed.get(reader) is node:
            return reader.outputs[0]
        return node.outputs[0]

    def outputs(self, node: ir.Node) -> list[ir.Value]:
        found = [self.output(node)] if len(node.outputs) == 1 else [v for v in node.outputs if consumers(v)]
        return [value for value in found if is_float(value)]

    def tail(self) -> set[ir.Node]:
        """The nodes between the last ops that multiply and the graph outputs."""
        tail: set[ir.Node] = set()
        for node in reversed(list(self.graph)):
            if self.head(node).op_type not in WEIGHTED and feeds_only(node.outputs[0], tail):
                tail.add(node)
        return tail

    # -- what the targets say ------------------------------------------------------------------------------------------

    def has_row(self, node: ir.Node) -> bool:
        return node.domain == "" and any(node.op_type in target.rows for target in self.targets)

    def may_write_float(self, node: ir.Node) -> bool:
        return all(target.rows[node.op_type].float_output for target in self.targets if node.op_type in target.rows)

    def fused_input(self, node: ir.Node) -> ir.Value | None:
        """The input that a kernel takes from another's accumulators: of several, the first."""
        rows = [target.rows[node.op_type] for target in self.targets if node.op_type in target.rows]
        for value in data_inputs(node) if rows else ():
            producer = value.producer()
            if producer is not None and only_reader(value) is node and all(producer.op_type in r.fused for r in rows):
                return value
        return None

    def constraint(self, node: ir.Node, kind: type) -> object:
        """The first constraint of this kind that any target puts on the node, or None."""
        found = (target.rows[node.op_type].constraint for target in self.targets if node.op_type in target.rows)
        return next((constraint for constraint in found if isinstance(constraint, kind)), None)

    @property
    def keeps_embeddings(self) -> str:
        """Why tables of embeddings stay float, or '': targets that share a plan agree."""
        reasons = [target.keeps_embeddings for target in self.targets]
        return reasons[0] if reasons and all(reasons) else ""


def _is_bias(product: ir.Node, add: ir.Node) -> bool:
    other = next((value for value in add.inputs if value is not product.outputs[0]), None)
    return is_constant(other) and shape(other) == (shape(product.inputs[1])[1],)


def feeds_only(value: ir.Value, nodes: set[ir.Node]) -> bool:
    readers = consumers(value)
    return bool(readers or value.is_graph_output()) and all(reader in nodes for reader in readers)


def holds_weights(node: ir.Node, index: int) -> bool:
    return node.op_type in MULTIPLY_ACCUMULATE and index == 1 and is_constant(node.inputs[1])


def weights_of(node: ir.Node) -> list[ir.Value]:
    """The float constants that a node multiplies its inputs with, or picks rows of: two for a recurrent layer, else one
    or none.
    """
    if (table := embedding_of(node)) is not None:
        return [table]
    inputs = [value for index, value in enumerate(node.inputs) if _multiplies(node, index)]
    return [value for value in inputs if value is not None and is_constant(value) and is_float(value)]


def embedding_of(node: ir.Node) -> ir.Value | None:
    """The table [rows, ..] of an embedding that is worth a scale for each row: constant, looked up by computed indices.

    A layer may multiply with the same table where its output channels are the rows, as a language model's head.
    """
    if node.op_type != "Gather" or node.domain != "" or attribute(node, "axis", 0) != 0:
        return None
    table, indices = node.inputs
    if table is None or not is_constant(table) or not is_float(table) or is_constant(indices):
        return None
    sizes = shape(table)
    saves = 3 * math.prod(sizes) - 4 * sizes[0] if len(sizes) > 1 else 0
    by_row = all(channel_axis(use.node) == 0 for use in table.uses() if _multiplies(use.node, use.idx))
    return table if saves >= policy.EMBEDDING_SAVES_BYTES.value and by_row else None


def _multiplies(node: ir.Node, index: int) -> bool:
    return node.domain == "" and index in weight_inputs(node.op_type)


def data_indices(node: ir.Node) -> tuple[int, ...]:
    """The inputs that carry data; the others are sizes, axes and limits."""
    indices = data_inputs_of(node.op_type, len(node.inputs))
    if node.op_type != "Pad" or len(node.inputs) < 3:
        return indices
    value = constant(node.inputs[2])  # what is put beside the data must lie on its grid too; 0 lies on every grid
    return indices if value is None or not value.any() else (*indices, 2)


def data_inputs(node: ir.Node) -> list[ir.Value]:
    return [value for index in data_indices(node) if (value := node.inputs[index]) is not None]


def is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def shape(value: ir.Value | None) -> tuple[int, ...]:
    assert value is not None
    return graphs.shape(value)


def channel_axis(node: ir.Node) -> int:
    """The axis of the weight that counts output channels (within a group, for ConvTranspose; those of all gates, for a
    recurrent layer); of a table the axis that counts rows.
    """
    if node.op_type == "Gather":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    assert node.inputs[1] is not None
    assert node.inputs[1].shape is not None
    axes = {"Conv": 0, "ConvTranspose": 1, **dict.fromkeys(RECURRENT, 1)}
    return axes.get(node.op_type, -1) % len(node.inputs[1].shape)
