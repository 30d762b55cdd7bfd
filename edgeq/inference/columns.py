"""Columns of one output that are measured apart: boxes in pixels and scores below 1, which a Concat has joined.

    boxes [1,4,8400], scores [1,80,8400] -> Concat -> y [1,84,8400]     :     y[0:4], y[4:84]

In the error of the whole, boxes of 640 pixels hide scores that are lost altogether.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.graph import attribute, axis_behind, dims, moved_from, rank
from edgeq.inference.session import Arrays
from edgeq.metrics import ErrorPower

_ROUNDINGS: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity", "Cast"})
_MOVES: Final = _ROUNDINGS | {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat"}


@dataclass(frozen=True, slots=True)
class Parts:
    """axis: of an output. ends: of its parts on this axis, the last one its size."""

    axis: int
    ends: tuple[int, ...]

    def of(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        return np.split(array, self.ends[:-1], self.axis)

    @property
    def names(self) -> list[str]:
        """As Python writes them on the axis: "0:4", "4:84"."""
        return [f"{start}:{end}" for start, end in pairwise((0, *self.ends))]


def apart(graph: ir.Graph, outputs: Sequence[Arrays]) -> dict[str, Parts]:
    """The outputs whose parts are of other orders of size, and these parts. outputs: of the float network, one dict a
    sample; parts of about one size stay together.
    """
    found: dict[str, Parts] = {}
    for value in graph.outputs:
        name, joined = value.name or "", _joined(value)
        if joined is None or not outputs or any(
                each[name].ndim <= joined.axis or each[name].shape[joined.axis] != joined.ends[-1] for each in outputs):
            continue
        parts = zip(*(joined.of(each[name].astype(np.float64)) for each in outputs), strict=True)
        sizes = [float(np.sqrt(np.mean([np.square(array).mean() for array in part]))) for part in parts]
        ends = [end for end, (size, after) in zip(joined.ends, pairwise(sizes), strict=False) if _differ(size, after)]
        if ends:
            found[name] = Parts(joined.axis, (*ends, joined.ends[-1]))
    return found


def errors_apart(parts: Parts | None, reference: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]],
                 ) -> list[ErrorPower]:
    """Of each part of an output over all samples; of the whole where it has none."""
    if parts is None:
        return [ErrorPower.of(reference, got)]
    columns = zip(*map(parts.of, reference), strict=True), zip(*map(parts.of, got), strict=True)
    return [ErrorPower.of(*pair) for pair in zip(*columns, strict=True)]


def columns_of(outputs: Sequence[Arrays], parts: Mapping[str, Parts]) -> list[dict[str, NDArray[Any]]]:
    """Outputs with each part in place of the whole, as "y[0:4]"; an output of another shape is left as it is."""
    return [dict(pair for name, array in each.items() for pair in _named(name, array, parts.get(name)))
            for each in outputs]


def _named(name: str, array: NDArray[Any], parts: Parts | None) -> list[tuple[str, NDArray[Any]]]:
    if parts is None:
        return [(name, array)]
    return [(f"{name}[{columns}]", part) for columns, part in zip(parts.names, parts.of(array), strict=True)]


def _differ(size: float, after: float) -> bool:
    """Without a size there is nothing to be measured against."""
    low, high = sorted((size, after))
    return 0 < low * policy.COLUMNS_APART.value <= high


def _joined(value: ir.Value) -> Parts | None:
    """What a Concat of differently computed values has joined, followed through what only moves them."""
    producer = value.producer()
    if producer is None or not producer.inputs or producer.inputs[0] is None:
        return None
    if producer.op_type == "Concat":
        return _concat(producer)
    before = _joined(producer.inputs[0]) if producer.op_type in (*_ROUNDINGS, "Transpose", "Reshape") else None
    if before is None or producer.op_type in _ROUNDINGS:
        return before
    axis = axis_behind(producer, before.axis)
    return None if axis is None else Parts(axis, before.ends)


def _concat(node: ir.Node) -> Parts | None:
    """Parts of which a value of each level has the same are the parts of all levels."""
    inputs = [value for value in node.inputs if value is not None]
    axis, sizes = attribute(node, "axis", 0) % (rank(node.outputs[0]) or 1), [dims(value) for value in inputs]
    inner = [_joined(value) for value in inputs]
    if inner[0] is not None and inner[0].axis != axis and set(inner) == {inner[0]}:
        return inner[0]
    widths = [size[axis] if size is not None else None for size in sizes]
    ways = {producer.op_type if producer is not None else "" for producer in (
        moved_from(value, _MOVES).producer() for value in inputs)}
    if axis == 0 or len(ways) < 2 or not all(isinstance(width, int) for width in widths):
        return None
    return Parts(axis, tuple(int(end) for end in np.cumsum([width for width in widths if isinstance(width, int)])))
