"""Which values lie on integer grids, which share one, and which ops stay float and why: decided before any data is
seen.
"""
from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant, consumers, is_constant, label
from edgeq.scheme import Granularity, PerBlock, PerChannel, PerTensor, QuantScheme, QuantType
from edgeq.targets import ABSORBED, DATA_INPUTS, MULTIPLY_ACCUMULATE, Fixed, Same, Target

# Shares of a network's weights, up to which these layers stay at 8 bits in a network of 4.
FIRST: Final = 0.02
LAST: Final = 0.15  # a language model's head of 12 % costs as much at 4 bits as 40 % of all its other layers
SMALLEST: Final = 0.05

MASK = 1e4  # a constant this negative is an attention mask: one step of a grid that covers it is larger than any score


@dataclass(frozen=True, slots=True)
class Kept:
    """A node that stays float in a quantized model."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Weight:
    """How the constant operand of one multiply-accumulate node is stored.

    value: its initializer's name. bias: the initializer that is added to the product, or "".
    """

    node: str
    value: str
    type: QuantType
    bias: str = ""


@dataclass(frozen=True, slots=True)
class Bias:
    """An int32 operand on the product grid of an activation and a weight."""

    node: str
    value: str
    activation: str
    weight: str


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """What `quantize` does to a model.

    activation: the type of every grid. groups: planned value -> leader of the values that share its grid. sources: the
    values to observe, which together cover every group. fixed: leader -> the grid that an engine prescribes. rounded:
    planned values whose every reader sees the rounded value (the kernel stores integers). readers: (node, input
    index) that read the rounded value where others read the float one.
    """

    activation: QuantType | None
    groups: Mapping[str, str]
    sources: tuple[str, ...]
    fixed: Mapping[str, Fixed]
    rounded: frozenset[str]
    readers: frozenset[tuple[str, int]]
    weights: tuple[Weight, ...]
    biases: tuple[Bias, ...]
    kept: tuple[Kept, ...]


def make_plan(model: ir.Model, targets: Sequence[Target], scheme: QuantScheme, *, keep_float: Iterable[str] = (),
              ) -> QuantPlan:
    """Plan `scheme` for all `targets` at once, under the union of their constraints, so that they share every grid.

    keep_float: regular expressions; a node whose name (or first output's name) matches one stays float altogether.
    """
    planner = _Planner(model.graph, targets, scheme, [re.compile(pattern) for pattern in keep_float])
    return planner.plan()


class _Planner:
    """The state of one planning run; every method adds to what the ones before it found."""

    def __init__(self, graph: ir.Graph, targets: Sequence[Target], scheme: QuantScheme, keep: list[re.Pattern[str]]):
        self.graph, self.targets, self.scheme, self.keep = graph, targets, scheme, keep
        self.kept: dict[ir.Node, str] = {}
        self.integer: set[ir.Node] = set()
        self.bias_add: dict[ir.Node, ir.Node] = {}  # MatMul -> the Add of its bias
        self.absorbed: dict[ir.Node, ir.Node] = {}  # Relu or Clip -> the op whose grid performs it
        self.group: dict[str, str] = {}
        self.delicate: set[ir.Node] = set()  # layers that stay at 8 bits
        self.fixed: dict[str, Fixed] = {}  # value -> grid that its engine prescribes

    def plan(self) -> QuantPlan:
        self.find_units()
        if self.scheme.activation is not None:
            self.find_integer_nodes()
            self.keep_tails()
            self.demote_islands()
        weights, biases = self.plan_weights()
        planned, rounded, readers = self.plan_values()
        fixed = self.share_grids(planned)
        groups = {value.name or "": self.find(value.name or "") for value in planned}
        kept = tuple(Kept(label(node), node.op_type, reason) for node, reason in self.kept.items())
        return QuantPlan(self.scheme.activation, groups, self.sources(planned), fixed, frozenset(rounded),
                         frozenset(readers), weights, biases, kept)

    # -- units: ops that one kernel computes together ------------------------------------------------------------------

    def find_units(self) -> None:
        """MatMul + Add(bias), and any op + Relu: the value between them never exists as integers."""
        for node in self.graph:
            if node.op_type == "MatMul" and is_constant(node.inputs[1]) and len(self.shape(node.inputs[1])) == 2:
                reader = self.only_reader(node.outputs[0])
                if reader is not None and reader.op_type == "Add" and self.is_bias(node, reader):
                    self.bias_add[node] = reader
        for node in self.graph:
            if node.op_type in ABSORBED and node.inputs[0] is not None:
                producer = node.inputs[0].producer()
                if producer is not None and self.only_reader(node.inputs[0]) is node and self.has_row(producer):
                    self.absorbed[node] = producer

    def is_bias(self, product: ir.Node, add: ir.Node) -> bool:
        other = next((value for value in add.inputs if value is not product.outputs[0]), None)
        return is_constant(other) and self.shape(other) == (self.shape(product.inputs[1])[1],)

    def only_reader(self, value: ir.Value) -> ir.Node | None:
        readers = consumers(value)
        return readers[0] if len(readers) == 1 and not value.is_graph_output() else None

    def unit_output(self, node: ir.Node) -> ir.Value:
        """The value that the kernel of a node writes, behind its bias and activation."""
        node = self.bias_add.get(node, node)
        reader = self.only_reader(node.outputs[0])
        if reader is not None and self.absorbed.get(reader) is node:
            return reader.outputs[0]
        return node.outputs[0]

    def unit_head(self, node: ir.Node) -> ir.Node:
        """The node that computes a unit, from its bias Add or activation."""
        node = self.absorbed.get(node, node)
        return next((product for product, add in self.bias_add.items() if add is node), node)

    # -- which nodes compute on integers -------------------------------------------------------------------------------

    def find_integer_nodes(self) -> None:
        inside = set(self.bias_add.values()) | set(self.absorbed)
        for node in self.graph:
            if node in inside or not self.has_row(node) or not self.is_float(node.outputs[0]):
                continue
            reason = self.reason_to_keep(node)
            if reason:
                self.kept[node] = reason
            else:
                self.integer.add(node)

    def reason_to_keep(self, node: ir.Node) -> str:
        members = [node, self.bias_add.get(node, node)]
        if any(pattern.search(label(member)) for pattern in self.keep for member in members):
            return "kept float by --keep-float"
        for value in node.inputs:
            data = constant(value)
            if data is not None and data.dtype.kind == "f" and data.size and np.min(data) <= -MASK:
                return "adds an attention mask, which no 8-bit grid can hold beside the scores"
        if node.op_type == "MatMul" and is_constant(node.inputs[0]):
            return "its left operand is a constant"
        if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
                                       or attribute(node, "transA", 0)):
            return "integer kernels know no alpha, beta or transA"
        if node.op_type in ("Conv", "ConvTranspose") and not is_constant(node.inputs[1]):
            return "its weights are computed"
        if node.op_type == "Resize" and attribute(node, "mode", "nearest") == "cubic":
            return "cubic interpolation leaves the range of its input"
        return ""

    def keep_tails(self) -> None:
        """From the graph outputs back to the last multiply-accumulate ops: scores, boxes and pixels need more than 8
        bits.
        """
        tail = self.find_tail()
        for node in self.graph:
            if node in tail and node in self.integer:
                self.integer.discard(node)
                self.kept[node] = "behind the last weights: its values are the model's answer"

    def find_tail(self) -> set[ir.Node]:
        """The nodes between the last multiply-accumulate ops and the graph outputs."""
        tail: set[ir.Node] = set()
        for node in reversed(list(self.graph)):
            if not self.is_multiply(node) and self.feeds_only(node.outputs[0], tail):
                tail.add(node)
        return tail

    @staticmethod
    def feeds_only(value: ir.Value, tail: set[ir.Node]) -> bool:
        readers = consumers(value)
        return bool(readers or value.is_graph_output()) and all(reader in tail for reader in readers)

    def is_multiply(self, node: ir.Node) -> bool:
        return self.unit_head(node).op_type in MULTIPLY_ACCUMULATE

    def demote_islands(self) -> None:
        """A cheap op gains nothing from integers when its inputs arrive in float or nobody reads its integers."""
        changed = True
        while changed:
            changed = False
            for node in self.graph:
                if node not in self.integer or self.holds_weights(node, 1):
                    continue
                if not all(self.arrives_as_integers(value) for value in self.data_inputs(node)):
                    reason = "an input arrives in float"
                elif not self.is_read_as_integers(self.unit_output(node)):
                    reason = "only float ops read its result"
                else:
                    continue
                self.integer.discard(node)
                self.kept[node] = reason
                changed = True

    def arrives_as_integers(self, value: ir.Value) -> bool:
        producer = value.producer()
        return is_constant(value) or producer is None or self.unit_head(producer) in self.integer

    def is_read_as_integers(self, value: ir.Value) -> bool:
        return any(self.unit_head(reader) in self.integer and self.unit_head(reader) is reader
                   for reader in consumers(value))

    # -- weights -------------------------------------------------------------------------------------------------------

    def plan_weights(self) -> tuple[tuple[Weight, ...], tuple[Bias, ...]]:
        weights, biases = [], []
        self.delicate = self.find_delicate()
        for node in self.graph:
            if node.op_type in MULTIPLY_ACCUMULATE and self.scheme.weight is not None and node.domain == "":
                weight = node.inputs[1]
                keep = self.kept.get(node, "").startswith("kept float by")
                if weight is None or not is_constant(weight) or keep or not self.is_float(weight):
                    continue
                kind = self.weight_type(node, weight)
                bias = self.bias_of(node)
                weights.append(Weight(label(node), weight.name or "", kind, bias.name or "" if bias else ""))
                if node in self.integer and bias is not None and not isinstance(kind.granularity, PerBlock):
                    assert node.inputs[0] is not None
                    biases.append(Bias(label(self.bias_add.get(node, node)), bias.name or "", node.inputs[0].name or "",
                                       weight.name or ""))
        return tuple(weights), tuple(biases)

    def bias_of(self, node: ir.Node) -> ir.Value | None:
        if node in self.bias_add:
            return next(value for value in self.bias_add[node].inputs if is_constant(value))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return bias if is_constant(bias) and self.shape(bias) == (self.output_channels(node),) else None

    def output_channels(self, node: ir.Node) -> int:
        shape = self.shape(node.inputs[1])
        return shape[channel_axis(node)] * (int(attribute(node, "group", 1)) if node.op_type == "ConvTranspose" else 1)

    def weight_type(self, node: ir.Node, weight: ir.Value) -> QuantType:
        wanted = self.scheme.weight
        assert wanted is not None
        bits = 8 if wanted.bits < 8 and node in self.delicate else wanted.bits
        granularity = self.granularity(node, weight, wanted.granularity if bits == wanted.bits else PerChannel())
        return QuantType(bits, granularity=granularity)

    def find_delicate(self) -> set[ir.Node]:
        """Layers that stay at 8 bits in a network of 4: the first to break, where they hold few of the weights.

        Depthwise filters, the first layer and the last; and as many of the smallest layers as fit into a twentieth.
        """
        layers = [node for node in self.graph if node.op_type in MULTIPLY_ACCUMULATE and is_constant(node.inputs[1])]
        sizes = {node: math.prod(self.shape(node.inputs[1])) for node in layers}
        total = sum(sizes.values())
        found = {node for node in layers if node.op_type == "Conv" and int(attribute(node, "group", 1)) > 1
                 and self.shape(node.inputs[1])[1] == 1}
        found |= {node for node in layers if node.inputs[0] is not None and node.inputs[0].is_graph_input()
                  and sizes[node] <= FIRST * total}
        tail = self.find_tail()
        found |= {node for node in layers if self.feeds_only(self.unit_output(node), tail)
                  and sizes[node] <= LAST * total}
        room = SMALLEST * total
        for node in sorted((node for node in layers if node not in found), key=sizes.__getitem__):
            room -= sizes[node]
            if room < 0:
                break
            found.add(node)
        return found

    def granularity(self, node: ir.Node, weight: ir.Value, wanted: Granularity) -> Granularity:
        axis = channel_axis(node)
        if node.op_type == "ConvTranspose" and int(attribute(node, "group", 1)) > 1:
            return PerTensor()  # the output channel is spread over two axes
        match wanted:
            case PerBlock(size, _) if node.op_type in ("MatMul", "Gemm") and self.shape(weight)[1 - axis] % size == 0:
                return PerBlock(size, 1 - axis)
            case PerTensor():
                return PerTensor()
            case _:
                return PerChannel(axis) if len(self.shape(weight)) > 1 else PerTensor()

    # -- activations ---------------------------------------------------------------------------------------------------

    def plan_values(self) -> tuple[list[ir.Value], set[str], set[tuple[str, int]]]:
        planned: dict[ir.Value, None] = {}
        rounded: set[str] = set()
        readers: set[tuple[str, int]] = set()
        for node in self.graph:
            if node not in self.integer:
                continue
            for index in self.data_indices(node):
                value = node.inputs[index]
                if value is not None and self.is_float(value) and not self.holds_weights(node, index):
                    planned[value] = None
                    readers.add((label(node), index))
            for value in self.outputs(node):
                if not self.may_write_float(node) or self.is_read_as_integers(value):
                    planned[value] = None
                    rounded.add(value.name or "")
        return list(planned), rounded, readers

    def outputs(self, node: ir.Node) -> list[ir.Value]:
        return [self.unit_output(node)] if len(node.outputs) == 1 else [v for v in node.outputs if consumers(v)]

    def may_write_float(self, node: ir.Node) -> bool:
        return all(target.rows[node.op_type].float_output for target in self.targets if node.op_type in target.rows)

    def holds_weights(self, node: ir.Node, index: int) -> bool:
        return node.op_type in MULTIPLY_ACCUMULATE and index == 1 and is_constant(node.inputs[1])

    def data_indices(self, node: ir.Node) -> tuple[int, ...]:
        indices = DATA_INPUTS.get(node.op_type, tuple(range(len(node.inputs))))
        return tuple(index for index in indices if index < len(node.inputs))

    def data_inputs(self, node: ir.Node) -> list[ir.Value]:
        return [value for index in self.data_indices(node) if (value := node.inputs[index]) is not None]

    def sources(self, planned: Collection[ir.Value]) -> tuple[str, ...]:
        """The values that bring numbers into their group; the others only hold a selection of them."""
        chosen = []
        for value in planned:
            leader = self.find(value.name or "")
            producer = value.producer()
            selects = (producer is not None and producer in self.integer and self.has_constraint(producer, Same)
                       and all(self.find(v.name or "") == leader for v in self.data_inputs(producer)))
            if not selects and not is_constant(value) and leader not in self.fixed:
                chosen.append(value.name or "")
        return tuple(chosen)

    # -- shared and fixed grids ----------------------------------------------------------------------------------------

    def share_grids(self, planned: Collection[ir.Value]) -> dict[str, Fixed]:
        """Union-find over Same ops. A value on a fixed grid is not drawn into a group: backends requantize it there."""
        names = {value.name or "" for value in planned}
        for node in self.graph:
            fixed = self.has_constraint(node, Fixed)
            if node in self.integer and isinstance(fixed, Fixed):
                self.fixed[self.unit_output(node).name or ""] = fixed
        for node in self.graph:
            if node not in self.integer or not self.has_constraint(node, Same):
                continue
            members = [value.name or "" for value in (*self.data_inputs(node), *self.outputs(node))]
            members = [name for name in members if name in names]
            leaders = {self.find(name) for name in members}
            pinned = [name for name in leaders if name in self.fixed]
            if pinned and len(self.data_inputs(node)) > 1:
                members = [name for name in members if self.find(name) not in self.fixed]
            elif pinned:
                self.fixed.update(dict.fromkeys(leaders, self.fixed[pinned[0]]))
            for name in members[1:]:
                self.join(members[0], name)
        self.fixed = {self.find(name): fixed for name, fixed in self.fixed.items()}
        return self.fixed

    def has_constraint(self, node: ir.Node, kind: type) -> object:
        """The first constraint of this kind that any target puts on the node, or None."""
        found = (target.rows[node.op_type].constraint for target in self.targets if node.op_type in target.rows)
        return next((constraint for constraint in found if isinstance(constraint, kind)), None)

    def find(self, name: str) -> str:
        while self.group.get(name, name) != name:
            name = self.group[name]
        return name

    def join(self, a: str, b: str) -> None:
        self.group[self.find(b)] = self.find(a)

    # -- small questions -----------------------------------------------------------------------------------------------

    def has_row(self, node: ir.Node) -> bool:
        return node.domain == "" and any(node.op_type in target.rows for target in self.targets)

    @staticmethod
    def is_float(value: ir.Value | None) -> bool:
        return value is not None and value.dtype == ir.DataType.FLOAT

    @staticmethod
    def shape(value: ir.Value | None) -> tuple[int, ...]:
        assert value is not None
        assert value.shape is not None
        return tuple(int(d) for d in value.shape.numpy())


def channel_axis(node: ir.Node) -> int:
    """The axis of the weight that counts output channels (within a group, for ConvTranspose)."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, -1) % _rank(node)


def _rank(node: ir.Node) -> int:
    assert node.inputs[1] is not None
    assert node.inputs[1].shape is not None
    return len(node.inputs[1].shape)

