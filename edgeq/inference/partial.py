"""A network run piece by piece over all samples at once, so that a change in it costs only what lies behind it."""
from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import reads
from edgeq.inference.comparable import comparable_values
from edgeq.inference.session import Arrays, open_session

Columns: TypeAlias = dict[str, list[NDArray[Any]]]  # value name -> its array for each sample
_NOTHING: Arrays = MappingProxyType({})


class PartialRun:
    """A network that has been run as far as some node, for all samples; holds the values that are still read.

    values: what is held, by name.
    """

    def __init__(self, network: ir.Model, feeds: Sequence[Arrays], *, needed: Iterable[ir.Node] | None = None,
                 held: Iterable[tuple[str, int]] = (), replaced: Arrays = _NOTHING):
        """needed: nodes whose inputs will be asked for; what these do not need is not computed, and there are no
        outputs then. held: (value, number of a node) that is wanted until that node has been run. replaced:
        initializers that are other than the network has them; whatever is in it when a node's turn comes holds.
        """
        self._network, self._replaced, self._count = network, replaced, len(feeds)
        self._nodes, self._results = _nodes_for(network, needed)
        self.position = {node: number for number, node in enumerate(self._nodes)}
        self._last: dict[str, int] = {}  # value name -> number of the last node that reads it
        for node, number in self.position.items():
            self._last.update({value.name or "": number for value in reads(node)})
        for name, number in held:
            self._last[name] = max(self._last.get(name, -1), number + 1)
        self._last.update({value.name or "": len(self._nodes) for value in self._results})
        self.values: Columns = {name: [np.asarray(feed[name]) for feed in feeds]
                                for name in feeds[0] if name in self._last}
        self._proto = cache(ir.to_proto)  # a network's rest is built anew for every value that changes
        self._done = 0
        self._rest: tuple[object, _Piece] | None = None

    def run_until(self, node: ir.Node) -> None:
        """Run everything in front of a node."""
        self.advance(self.position[node])

    def inputs(self, node: ir.Node, index: int) -> list[NDArray[Any]]:
        """One input of the node that was last run until, for every sample."""
        value = node.inputs[index]
        assert value is not None
        return self.values[value.name or ""]

    def advance(self, stop: int) -> None:
        """Run the first `stop` nodes, as far as they have not been run; forget what nobody reads any more."""
        if stop > self._done:
            nodes = self._nodes[self._done:stop]
            wanted = [value for node in nodes for value in node.outputs if self._last.get(value.name or "", -1) >= stop]
            self.values |= self._run(nodes, wanted)
            self._done = stop
        self.values = {name: column for name, column in self.values.items() if self._last.get(name, -1) >= stop}

    def outputs(self) -> Columns:
        """The outputs of the whole network, from what is held now."""
        open_ = [value for value in self._results if value.name not in self.values]
        return self._run(self._nodes[self._done:], open_) | self._finished(self.values)

    def rest(self, value: ir.Value, column: list[NDArray[Any]]) -> Columns:
        """The network's outputs when `value` has become `column`."""
        known = {**self.values, value.name or "": column}
        open_ = [out for out in self._results if out.name not in known]
        behind = producers(open_, known)
        key = (value, self._done)
        if open_ and (self._rest is None or self._rest[0] != key):  # loading outlasts running where networks are small
            nodes = [node for node in self._nodes if node in behind]
            self._rest = key, _Piece(self._network, nodes, known, open_, self._replaced, self._proto)
        found = self._rest[1].run(known, self._count) if open_ and self._rest is not None else {}
        return self._finished(known) | found

    def _run(self, nodes: Sequence[ir.Node], wanted: Sequence[ir.Value]) -> Columns:
        if not wanted:
            return {}
        return _Piece(self._network, nodes, self.values, wanted, self._replaced, self._proto).run(
            self.values, self._count)

    def _finished(self, known: Columns) -> Columns:
        return {out.name or "": known[out.name or ""] for out in self._results if out.name in known}


def _nodes_for(network: ir.Model, needed: Iterable[ir.Node] | None) -> tuple[list[ir.Node], list[ir.Value]]:
    """The nodes to run, in order, and what two runs of the network are compared by."""
    if needed is None:
        return list(network.graph), comparable_values(network)
    wanted = set(needed)
    wanted |= producers([value for node in wanted for value in reads(node)])
    return [node for node in network.graph if node in wanted], []


def producers(values: Iterable[ir.Value], known: Container[str | None] = ()) -> set[ir.Node]:
    """All nodes that some values depend on. known: names of values that have been computed."""
    found: set[ir.Node] = set()
    open_ = list(values)
    while open_:
        value = open_.pop()
        producer = value.producer()
        if producer is not None and value.name not in known and producer not in found:
            found.add(producer)
            open_ += reads(producer)
    return found


def run_nodes(network: ir.Model, nodes: Sequence[ir.Node], known: Mapping[str, Sequence[NDArray[Any]]],
              wanted: Sequence[ir.Value], count: int, replaced: Arrays = _NOTHING) -> Columns:
    """Run a piece of a network -> the wanted values of each of `count` samples.

    known: what the piece reads of values that are computed elsewhere, and more. replaced: initializers that are other
    than the network has them.

    Raises:
        ModelError: onnxruntime cannot run the piece.
    """
    return _Piece(network, nodes, known, wanted, replaced).run(known, count) if wanted else {}


class _Piece:
    """A session with some nodes of a network, without a file: a piece has less than the 2 GB that a protobuf holds."""

    def __init__(self, network: ir.Model, nodes: Sequence[ir.Node], known: Mapping[str, Sequence[NDArray[Any]]],
                 wanted: Sequence[ir.Value], replaced: Arrays, proto: Callable[[ir.Node], Any] = ir.to_proto):
        import onnx

        made = {value for node in nodes for value in node.outputs}
        read = dict.fromkeys(value for node in nodes for value in reads(node) if value not in made)
        self._given = [value.name or "" for value in read if value.name in known and value.name not in replaced]
        self._names = [value.name or "" for value in wanted]
        graph = onnx.GraphProto(name="piece", node=map(proto, nodes))
        for name in self._given:
            kind = onnx.helper.np_dtype_to_tensor_dtype(known[name][0].dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
        for value in read:
            if value.name not in self._given:
                assert value.const_value is not None, f"'{value.name}' has not been computed"
                data = replaced.get(value.name or "")
                graph.initializer.append(onnx.numpy_helper.from_array(
                    value.const_value.numpy() if data is None else data, value.name))
        graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, self._names))
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in network.opset_imports.items()]
        proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=network.ir_version)
        self._session = open_session(proto.SerializeToString(), fused=True)

    def run(self, known: Mapping[str, Sequence[NDArray[Any]]], count: int) -> Columns:
        found = [self._session.run(self._names, {name: known[name][sample] for name in self._given})
                 for sample in range(count)]
        return {name: [outputs[k] for outputs in found] for k, name in enumerate(self._names)}
