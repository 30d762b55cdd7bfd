"""Outputs whose rows are a set: a TopK or a NonMaxSuppression chose them and put them in order.

    scores -> TopK -> indices -> Gather(boxes) -> boxes [1,300,4]

Two rows whose scores are nearly equal change places with the smallest rounding, and everything behind follows them. The
k-th row of one run is then compared with the k-th of another, although both found the same.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, axis_behind, constant, rank
from edgeq.inference.session import Arrays
from edgeq.ops import KEEPING_AXES, REDUCING, SPATIAL

# The outputs of an op that puts rows in an order, and the axis that counts them. NonZero has that of places, but what
# lies near a threshold comes and goes.
_ORDERING: Final[Mapping[str, Callable[[ir.Node], int]]] = {
    "TopK": lambda node: int(attribute(node, "axis", -1)) % (rank(node.outputs[0]) or 1),
    "NonMaxSuppression": lambda node: 0,
    "NonZero": lambda node: 1,
}
# As KEEPING_AXES, and outside the table of operators that quantization asks.
_NUMBER_BY_NUMBER: Final = KEEPING_AXES | {
    "And", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "LayerNormalization", "Less", "LessOrEqual",
    "Mod", "Not", "Or", "RMSNormalization", "Round", "Sign"}
MOST_PAIRS: Final = 2**22  # of rows that are matched: every distance between two of them is held


@dataclass(frozen=True, slots=True)
class RowSet:
    """axes: output -> the axis that counts the rows, which are in one order in all of these outputs."""

    axes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Rows:
    """The axis of a value that counts rows, and the node that chose them."""

    by: ir.Node
    axis: int


def row_sets(graph: ir.Graph) -> tuple[RowSet, ...]:
    """The outputs whose rows come in the order that some node of the graph has chosen, by that node."""
    known: dict[ir.Value, _Rows] = {}
    for node in graph:
        if node.domain == "" and node.op_type in _ORDERING:
            axis = _ORDERING[node.op_type](node)
            known |= {value: _Rows(node, axis) for value in node.outputs}
        elif node.domain == "":
            rows = _passed(node, known)
            if rows is not None:
                known |= dict.fromkeys(node.outputs, rows)
    found: dict[ir.Node, dict[str, int]] = {}
    for value in graph.outputs:
        rows = known.get(value)
        if rows is not None and rows.axis < rank(value):
            found.setdefault(rows.by, {})[value.name or ""] = rows.axis
    return tuple(RowSet(axes) for axes in found.values())


def _passed(node: ir.Node, known: Mapping[ir.Value, _Rows]) -> _Rows | None:
    """The rows of a node's outputs, given those of its inputs; None where they cannot be followed."""
    rows = [known.get(value) if value is not None else None for value in node.inputs]
    follow = _FOLLOWED.get(node.op_type)
    for index, one in enumerate(rows):
        value = node.inputs[index]
        if one is None or value is None:
            continue
        if follow is not None:
            axis = follow(node, index, one.axis)
        else:
            axis = _aligned_right(node, value, one.axis) if node.op_type in _NUMBER_BY_NUMBER else None
        if axis is not None:
            return _Rows(one.by, axis)
    return None


def _aligned_right(node: ir.Node, value: ir.Value, axis: int) -> int | None:
    """Shapes are broadcast from the last axis on."""
    found = axis + rank(node.outputs[0]) - rank(value)
    joined = node.op_type == "Concat" and attribute(node, "axis", 0) % max(rank(value), 1) == axis
    return None if found < 0 or joined else found


def _gather(node: ir.Node, index: int, axis: int) -> int | None:
    assert node.inputs[0] is not None
    assert node.inputs[1] is not None
    gathered = attribute(node, "axis", 0) % max(rank(node.inputs[0]), 1)
    if index == 1:
        return int(gathered + axis)
    if axis == gathered:
        return None
    return int(axis if axis < gathered else axis + rank(node.inputs[1]) - 1)


def _gather_nd(node: ir.Node, index: int, axis: int) -> int | None:
    """The last axis of the indices is a place in the data."""
    assert node.inputs[1] is not None
    batch = attribute(node, "batch_dims", 0)
    return axis if axis < (rank(node.inputs[1]) - 1 if index == 1 else batch) else None


def _unsqueeze(node: ir.Node, index: int, axis: int) -> int | None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if index or axes is None:
        return None
    added = sorted(int(a) % rank(node.outputs[0]) for a in axes.reshape(-1))
    for new in added:
        axis += new <= axis
    return axis


def _squeeze(node: ir.Node, index: int, axis: int) -> int | None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if index or axes is None or node.inputs[0] is None:
        return None
    gone = [int(a) % rank(node.inputs[0]) for a in axes.reshape(-1)]
    return None if axis in gone else axis - sum(a < axis for a in gone)


def _reshape(node: ir.Node, index: int, axis: int) -> int | None:
    return None if index else axis_behind(node, axis)


def _matmul(node: ir.Node, index: int, axis: int) -> int | None:
    """Rows of the first, columns of the second, or an axis in front; the axis that is summed over is gone."""
    value = node.inputs[index]
    assert value is not None
    from_right = rank(value) - axis
    return None if from_right == (1, 2)[index] or rank(value) < 2 else rank(node.outputs[0]) - from_right


def _gemm(node: ir.Node, index: int, axis: int) -> int | None:
    return 0 if index == 0 and axis == attribute(node, "transA", 0) else None


def _same_shape(node: ir.Node, index: int, axis: int) -> int | None:
    return axis if index <= 1 else None


def _reduce(node: ir.Node, index: int, axis: int) -> int | None:
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = given.reshape(-1) if given is not None else [attribute(node, "axis")] if node.op_type == "ArgMax" else None
    if index or axes is None or node.inputs[0] is None:
        return None
    gone = [int(a or 0) % rank(node.inputs[0]) for a in axes]
    return None if axis in gone else axis - (0 if attribute(node, "keepdims", 1) else sum(a < axis for a in gone))


def _batch(node: ir.Node, index: int, axis: int) -> int | None:
    return 0 if index == 0 and axis == 0 else None


_FOLLOWED: Final[Mapping[str, Callable[[ir.Node, int, int], int | None]]] = {
    "Gather": _gather, "GatherND": _gather_nd, "GatherElements": _same_shape, "Transpose": _reshape,
    "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Reshape": _reshape, "Flatten": _reshape, "MatMul": _matmul,
    "Gemm": _gemm, "ArgMax": _reduce, "RoiAlign": lambda node, index, axis: 0 if index == 1 and axis == 0 else None,
    **dict.fromkeys(("Expand", "Tile"), lambda node, index, axis: (
        _aligned_right(node, node.inputs[0], axis) if index == 0 and node.inputs[0] is not None else None)),
    **dict.fromkeys(REDUCING, _reduce), **dict.fromkeys(SPATIAL, _batch),
    **dict.fromkeys(("ScatterElements", "ScatterND"), lambda node, index, axis: None if index else axis),
}


# -- the rows of two runs ----------------------------------------------------------------------------------------------

def in_one_order(reference: Sequence[Arrays], got: Sequence[Arrays], sets: Sequence[RowSet],
                 ) -> tuple[list[dict[str, NDArray[Any]]], list[dict[str, NDArray[Any]]]]:
    """Both runs, with the rows of `got` in the order of those in `reference` that they are nearest to.

    A row without partner stands beside zeros. Where the rows lie nearer to each other as they came, they stay.
    """
    pairs = [(dict(r), dict(g)) for r, g in zip(reference, got, strict=True)]
    for first, second in pairs:
        for rows in sets:
            _match(first, second, rows.axes)
    return [first for first, _ in pairs], [second for _, second in pairs]


def _match(reference: dict[str, NDArray[Any]], got: dict[str, NDArray[Any]], axes: Mapping[str, int]) -> None:
    tables = [(_table(reference[name], axis), _table(got[name], axis)) for name, axis in axes.items()]
    if any(r is None or g is None or r.shape[1] != g.shape[1] for r, g in tables):
        return
    scales = [1 / (np.sqrt(np.square(r).sum(1).mean()) or 1.0) for r, _ in tables if r is not None and len(r)]
    counts = {(len(r), len(g)) for r, g in tables if r is not None and g is not None}
    if len(counts) != 1 or len(scales) != len(tables) or max(r * g for r, g in counts) > MOST_PAIRS:
        return
    first = np.hstack([r * scale for (r, _), scale in zip(tables, scales, strict=True) if r is not None])
    second = np.hstack([g * scale for (_, g), scale in zip(tables, scales, strict=True) if g is not None])
    order = nearest_rows(first, second)
    if order is not None:
        for name, axis in axes.items():
            reference[name], got[name] = _reordered(reference[name], got[name], axis, order)


def _table(array: NDArray[Any], axis: int) -> NDArray[np.float64] | None:
    """[rows, numbers], finite; None for text, and where a batch has several orders."""
    if array.dtype.kind in "OSU" or array.ndim <= axis or np.prod(array.shape[:axis]) != 1:
        return None
    rows = np.moveaxis(array, axis, 0)
    return np.nan_to_num(rows.reshape(len(rows), -1).astype(np.float64), posinf=0.0, neginf=0.0)


def nearest_rows(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """[n,c], [m,c] -> [n], the row of `second` beside each of `first` or -1; the nearest pair is taken first.

    None where all stay where they are.
    """
    distances = (np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T).clip(0)
    order = np.full(len(first), -1)
    rows, partners = np.arange(len(first)), np.arange(len(second))
    while rows.size and partners.size:  # the nearest pair of all is each other's nearest, so every turn finds one
        left = distances[np.ix_(rows, partners)]
        nearest, back = left.argmin(1), left.argmin(0)
        mutual = back[nearest] == np.arange(len(rows))
        order[rows[mutual]] = partners[nearest[mutual]]
        rows, partners = rows[~mutual], np.delete(partners, nearest[mutual])
    in_place = np.arange(len(first))
    if len(first) == len(second) and distances[in_place, order].sum() >= distances[in_place, in_place].sum():
        return None
    return order


def side_by_side(reference: NDArray[np.float64], got: NDArray[np.float64],
                 ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n,..], [m,..] -> both with the rows that are nearest to each other beside each other."""
    order = nearest_rows(*(array.reshape(len(array), -1) for array in (reference, got)))
    return (reference, got) if order is None else _reordered(reference, got, 0, order)


def _reordered(reference: NDArray[Any], got: NDArray[Any], axis: int, order: NDArray[np.int64],
               ) -> tuple[NDArray[Any], NDArray[Any]]:
    first, second = np.moveaxis(reference, axis, 0), np.moveaxis(got, axis, 0)
    partners = np.zeros(first.shape, second.dtype)
    partners[order >= 0] = second[order[order >= 0]]
    alone = second[~np.isin(np.arange(len(second)), order)]
    first, second = np.concatenate([first, np.zeros_like(alone, first.dtype)]), np.concatenate([partners, alone])
    return np.moveaxis(first, 0, axis), np.moveaxis(second, 0, axis)
