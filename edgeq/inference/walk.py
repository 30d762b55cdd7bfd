"""The float network, walked from front to back with all samples at once, so that one change in it costs only what lies
behind it.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.inference.prefix import Arrays, part_session, reads

Columns: TypeAlias = dict[str, list[NDArray[Any]]]  # value name -> its array for each sample


class Walk:
    """The float network, run once from front to back, holding the values that somebody still reads."""

    def __init__(self, network: ir.Model, feeds: Sequence[Arrays], held: Iterable[tuple[str, int]] = ()):
        """held: (value, number of a node) that is wanted until the walk has passed that node."""
        self.network = network
        self.nodes = list(network.graph)
        self.last: dict[str, int] = {}
        for number, node in enumerate(self.nodes):
            self.last.update({value.name or "": number for value in reads(node)})
        for name, place in held:
            self.last[name] = max(self.last.get(name, -1), place + 1)
        self.results = [value for value in network.graph.outputs if value.producer() is not None]
        self.last.update({value.name or "": len(self.nodes) for value in self.results})
        self.values: Columns = {name: [np.asarray(feed[name]) for feed in feeds] for name in feeds[0]}
        self.done = 0
        self._part: tuple[list[ir.Node], list[ir.Value], list[ir.Value]] | None = None
        self._session: Any = None

    def outputs(self) -> Columns:
        return self._run(self.nodes, self.results, self.values)

    def advance(self, place: int) -> None:
        """Run up to the node at `place`, itself included; forget what nobody reads any more."""
        stop = place + 1
        if stop > self.done:
            wanted = [value for node in self.nodes[self.done:stop] for value in node.outputs
                      if self.last.get(value.name or "", -1) >= stop]
            if wanted:
                self.values |= self._run(self.nodes[self.done:stop], wanted, self.values)
            self.done = stop
        self.values = {name: column for name, column in self.values.items() if self.last.get(name, -1) >= stop}

    def rest(self, value: ir.Value, column: list[NDArray[Any]]) -> Columns:
        """The network's outputs when `value` has become `column`."""
        name = value.name or ""
        known = {**self.values, name: column}
        finished = {out.name or "": known[out.name or ""] for out in self.results if out.name in known}
        open_ = [out for out in self.results if out.name not in known]
        needed: set[ir.Node] = set()
        stack = list(open_)
        while stack:
            current = stack.pop()
            producer = current.producer()
            if current.name in known or producer is None or producer in needed:
                continue
            needed.add(producer)
            stack += reads(producer)
        if not open_:
            return finished
        return finished | self._run([node for node in self.nodes if node in needed], open_, known)

    def _run(self, nodes: Sequence[ir.Node], wanted: Sequence[ir.Value], known: Columns) -> Columns:
        made = {value for node in nodes for value in node.outputs}
        read = list(dict.fromkeys(value for node in nodes for value in reads(node) if value not in made))
        given = [value for value in read if value.name in known]
        constants = {value.name or "": value.const_value.numpy() for value in read
                     if value.name not in known and value.const_value is not None}
        part = (list(nodes), list(wanted), given)
        if self._part != part:  # several columns for one value: loading the rest anew outlasts running a small one
            self._part, self._session = part, part_session(
                self.network, nodes, {value: known[value.name or ""][0] for value in given}, constants, wanted)
        count = len(next(iter(known.values())))
        columns: Columns = {value.name or "": [] for value in wanted}
        for k in range(count):
            results = self._session.run(None, {value.name: known[value.name or ""][k] for value in given})
            for column, array in zip(columns.values(), results, strict=True):
                column.append(array)
        return columns
