"""How large the values of a network may become: what decides where half precision is enough."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import ModelError
from edgeq.graph import bodies
from edgeq.inference.reference import Arrays, run_onnx

SCALAR: Final = ir.Shape(())
FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})


def largest_values(network: ir.Model, feeds: Iterable[Arrays], gain: float) -> dict[str, float]:
    """Name of a float value -> the largest absolute value to expect of it, infinite where float32 overflows too.

    gain: how many times as large as the feeds a device's inputs may be, as feeds may be quieter than what it meets; 1
    where they have limits, as pixels have. The network runs on both, which tells what follows its inputs from what a
    normalization holds.

    Values inside the bodies of If are among them. Feeds on which the network fails when they are louder count as they
    are.

    Raises:
        ModelError: onnxruntime cannot run the network.
    """
    probe, found = network.clone(), dict[str, float]()
    _limit_masks(probe)
    measured = list(_Probes().added(probe.graph))
    probe.graph.outputs[:] = [output for _, output in measured]
    names = {str(output.name): name for name, output in measured}
    given = list(islice(feeds, policy.LARGEST_SAMPLES.value))
    for feed in given:
        for name, array in louder(feed, gain).items():
            if array.dtype.kind == "f":
                _raise(found, name, float(np.abs(array).max(initial=0.0)))
    for results in run_onnx(probe, given, fused=True):
        for output, name in names.items():
            _raise(found, name, policy.LARGEST_MARGIN.value * float(results[output]))
    with suppress(ModelError):
        for results in run_onnx(probe, [louder(feed, gain) for feed in given], fused=True):
            for output, name in names.items():
                _raise(found, name, float(results[output]))
    return found


def louder(feed: Arrays, gain: float) -> dict[str, NDArray[np.generic]]:
    """A feed with larger floats. Integers and flags are no measurements, and stay."""
    return {name: array * array.dtype.type(gain) if array.dtype.kind == "f" and not np.isin(array, (0, 1)).all()
            else array for name, array in feed.items()}


def _raise(found: dict[str, float], name: str, size: float) -> None:
    found[name] = max(found.get(name, 0.0), math.inf if math.isnan(size) else float(size))


def _limit_masks(network: ir.Model) -> None:
    least = -policy.LARGEST_MASK.value
    for value in list(network.graph.initializers.values()):
        data = value.const_value.numpy() if value.const_value is not None and value.dtype in FLOATS else None
        if data is not None and data.size and data.min() < least:
            value.const_value = ir.tensor(np.maximum(data, data.dtype.type(least)), name=value.name)


class _Probes:
    """Nodes that compute the largest absolute value of every float of a graph, a double of rank 0."""

    def __init__(self) -> None:
        self._count = 0

    def added(self, graph: ir.Graph) -> Iterator[tuple[str, ir.Value]]:
        """Name of a value -> its largest, which the graph has from now on."""
        for node in list(graph):
            values = list(node.outputs)
            if node.op_type == "If" and node.domain == "":
                yield from self._in_branches(node)
            for value in values:
                if value.dtype in FLOATS and value.shape is not None and 0 not in value.shape:
                    size = self._node("Abs", [value], value.dtype, value.shape)
                    largest = self._node("ReduceMax", [size.outputs[0]], value.dtype, keepdims=0)
                    double = self._node("Cast", [largest.outputs[0]], to=ir.DataType.DOUBLE)
                    graph.insert_after(node, [size, largest, double])
                    yield str(value.name), double.outputs[0]

    def _in_branches(self, node: ir.Node) -> Iterator[tuple[str, ir.Value]]:
        """What is measured in one branch is 0 in the other."""
        branches = bodies(node)
        measured = [(branch, name, value) for branch in branches for name, value in self.added(branch)]
        own = len(node.outputs)
        node.resize_outputs(own + len(measured))
        for (branch, name, value), output in zip(measured, node.outputs[own:], strict=True):
            for other in branches:
                other.outputs.append(value if other is branch else self._zero(other))
            output.name, output.type, output.shape = self._name(), value.type, value.shape
            yield name, output

    def _zero(self, graph: ir.Graph) -> ir.Value:
        node = self._node("Constant", [], value=ir.tensor(np.zeros((), np.float64)))
        graph.append(node)
        return node.outputs[0]

    def _node(self, op: str, inputs: list[ir.Value], dtype: ir.DataType = ir.DataType.DOUBLE,
              shape: ir.Shape = SCALAR, **attributes: Any) -> ir.Node:
        node = ir.node(op, inputs, attributes)
        output = node.outputs[0]
        output.name, output.type, output.shape = self._name(), ir.TensorType(dtype), shape
        return node

    def _name(self) -> str:
        self._count += 1
        return f"edgeq_largest_{self._count}"
