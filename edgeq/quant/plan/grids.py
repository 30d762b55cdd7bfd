"""Which values lie on integer grids, and which of them share one."""
from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from edgeq.graph import is_constant, label, real_inputs
from edgeq.quant.plan.integers import IntegerNodes
from edgeq.quant.plan.units import data_indices, data_inputs, holds_weights, is_float
from edgeq.targets import Fixed, Same


class Grids:
    """planned: the values that get a grid. rounded, readers, fixed: as in QuantPlan. integer_inputs: as in
    QuantScheme.
    """

    def __init__(self, integers: IntegerNodes, *, integer_inputs: bool = False):
        self.integers, self.units = integers, integers.units
        self.planned: dict[ir.Value, None] = {}
        self.rounded: set[str] = set()
        self.readers: set[tuple[str, int]] = set()
        self.fixed: dict[str, Fixed] = {}
        self._group: dict[str, str] = {}
        self._plan_values()
        self._plan_ends(real_inputs(self.units.graph) if integer_inputs else [])
        self._plan_ends(self.units.graph.outputs if integers.integer_outputs else [])
        self._share()

    def groups(self) -> dict[str, str]:
        """Planned value -> leader of its group."""
        return {value.name or "": self._find(value.name or "") for value in self.planned}

    def sources(self) -> tuple[str, ...]:
        """The values that bring numbers into their group; the others only hold a selection of them."""
        chosen = []
        for value in self.planned:
            leader = self._find(value.name or "")
            producer = value.producer()
            selects = (producer is not None and producer in self.integers.nodes and self._is_same(producer)
                       and all(self._find(v.name or "") == leader for v in data_inputs(producer)))
            if not selects and not is_constant(value) and leader not in self.fixed:
                chosen.append(value.name or "")
        return tuple(chosen)

    def _plan_values(self) -> None:
        for node in self._nodes():
            fused = self.integers.fused_input(node)
            for index in data_indices(node):
                value = node.inputs[index]
                if value is not None and value is not fused and is_float(value) and not holds_weights(node, index):
                    self.planned[value] = None
                    self.readers.add((label(node), index))
            for value in self.units.outputs(node):
                if not self.units.may_write_float(node) or self.integers.is_read(value):
                    self.planned[value] = None
                    self.rounded.add(value.name or "")

    def _plan_ends(self, values: Iterable[ir.Value]) -> None:
        """Inputs or outputs of the model that are integers."""
        for value in values:
            if is_float(value) and not is_constant(value):
                self.planned[value] = None
                self.rounded.add(value.name or "")

    def _share(self) -> None:
        """Union-find over Same ops. A value on a fixed grid is not drawn into a group: backends requantize it there."""
        names = {value.name or "" for value in self.planned}
        for node in self._nodes():
            fixed = self.units.constraint(node, Fixed)
            if isinstance(fixed, Fixed):
                self.fixed[self.units.output(node).name or ""] = fixed
        for node in self._nodes():
            if self._is_same(node):
                self._join_around(node, names)
        self.fixed = {self._find(name): fixed for name, fixed in self.fixed.items()}

    def _join_around(self, node: ir.Node, names: Collection[str]) -> None:
        members = [value.name or "" for value in (*data_inputs(node), *self.units.outputs(node))]
        members = [name for name in members if name in names]
        leaders = {self._find(name) for name in members}
        pinned = [name for name in leaders if name in self.fixed]
        if pinned and len(data_inputs(node)) > 1:
            members = [name for name in members if self._find(name) not in self.fixed]
        elif pinned:
            self.fixed.update(dict.fromkeys(leaders, self.fixed[pinned[0]]))
        for name in members[1:]:
            self._group[self._find(name)] = self._find(members[0])

    def _nodes(self) -> list[ir.Node]:
        return [node for node in self.units.graph if node in self.integers.nodes]

    def _is_same(self, node: ir.Node) -> bool:
        return self.units.constraint(node, Same) is not None

    def _find(self, name: str) -> str:
        while self._group.get(name, name) != name:
            name = self._group[name]
        return name
