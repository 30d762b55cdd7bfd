"""Scattering by indices."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder, NeedsFloat
from edgeq_converters.tflite.ops_index import computed_places, computed_rows, flat_index
from edgeq_converters.tflite.ops_shape import gathered, window
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op

REDUCTIONS: Final = {"none": None, "add": "ADD", "mul": "MUL", "max": "MAXIMUM", "min": "MINIMUM"}


@op("ScatterND")
def scatter_nd(b: Builder, x: Value, index: Value, updates: Value, *, reduction: str = "none") -> Value:
    rows = computed_rows(b, index, x.shape) if index.data is None else flat_index(index.data, x.shape).ravel()
    return scattered(b, x, updates, rows, x.shape[index.shape[-1]:], reduction)


@op("ScatterElements")
def scatter_elements(b: Builder, x: Value, index: Value, updates: Value, *, axis: int = 0,
                     reduction: str = "none") -> Value:
    axis %= x.rank
    if index.data is None:
        return scattered(b, x, updates, computed_places(b, index, x.shape, axis), (), reduction)
    places = list(np.indices(index.shape))
    places[axis] = np.where(index.data < 0, index.data + x.shape[axis], index.data)
    return scattered(b, x, updates, np.ravel_multi_index(tuple(places), x.shape).ravel(), (), reduction)


@op("TensorScatter")
def tensor_scatter(b: Builder, x: Value, updates: Value, index: Value | None = None, *, axis: int = -2,
                   mode: str = "linear") -> Value:
    """DYNAMIC_UPDATE_SLICE moves a slice that would not end inside; ONNX allows none. One place for the whole batch."""
    axis %= x.rank
    if mode != "linear" or (x.shape[0] > 1 and index is not None):
        raise CannotLower(f"mode={mode} with a batch of {x.shape[0]}: LiteRT writes one slice in a row")
    starts = [b.ints([0])] * x.rank
    if index is not None:
        starts[axis] = b.cast(b.read(index, integer=False), np.int32)
    place = b.call("CONCATENATION", starts, (x.rank,), axis=0)
    return b.result(b.call("DYNAMIC_UPDATE_SLICE", [b.read(x), b.read(updates), place], x.shape))


@op("MaxUnpool")
def max_unpool(b: Builder, x: Value, index: Value, shape: Value | None = None, *, kernel_shape: Sequence[int],
               strides: Sequence[int] | None = None, pads: Sequence[int] | None = None) -> Value:
    """Zeros, and the input at indices into the flattened result."""
    known = index.data is not None
    rows = index.data.ravel() if known else b.cast(b.read(index, integer=False), np.int32)  # type: ignore[union-attr]
    return scattered(b, b.value(np.zeros(b.shape, x.dtype)), x, rows, (), "none")


def scattered(b: Builder, x: Value, updates: Value, rows: Tensor | NDArray[np.intp], rest: Sequence[int],
              reduction: str) -> Value:
    """Rows [.., *rest] of the flattened input are replaced by, or joined with, rows of the updates. rows: their
    numbers, computed or constant.
    """
    if b.integer and reduction != "none":
        raise NeedsFloat(f"reduction={reduction}")
    width = max(1, int(np.prod(rest)))
    count, taken = x.size // width, updates.size // width
    base = b.reshape(b.read(x), (count, *rest))
    if not taken:
        return b.result(b.reshape(base, b.shape))
    fresh = b.reshape(b.read(updates), (taken, *rest))
    if b.grid is not None:
        base, fresh = b.convert(base, b.grid), b.convert(fresh, b.grid)
    if isinstance(rows, Tensor):
        made = _at_computed(b, base, fresh, b.reshape(rows, (taken,)), REDUCTIONS[reduction])
    else:
        made = _at_constant(b, base, fresh, rows, REDUCTIONS[reduction])
    return b.result(b.reshape(made, b.shape))


def _at_computed(b: Builder, base: Tensor, fresh: Tensor, rows: Tensor, kernel: str | None) -> Tensor:
    """source [row] = 1 + the update that the row takes (0: none), by SCATTER_ND; then as at constant rows.

    SCATTER_ND adds up what meets in one place, so each row may be named once: TOPK_V2 brings equal ones together, of
    which the last update stays, joined with the others where there is a kernel for that.
    """
    count, taken = base.shape[0], rows.shape[0]
    numbers = b.ints(np.arange(1, taken + 1))
    if taken > 1:
        rows, order = _sorted(b, rows)
        fresh = b.through("GATHER", [fresh, order], fresh.shape, axis=0)
        if kernel is not None:
            fresh = _joined_runs(b, kernel, rows, fresh)
        numbers = b.call("MUL", [numbers, b.cast(_differs_from_before(b, rows), np.int32)], (taken,))
    source = b.call("SCATTER_ND", [b.reshape(rows, (taken, 1)), numbers, b.ints([count])], (count,))
    hit = b.call("GREATER", [source, b.ints(np.zeros((), np.int32))], (count,), dtype=np.bool_, to=None)
    behind = b.call("ADD", [source, b.ints(np.array(count - 1))], (count,))
    picks = b.call("SELECT_V2", [hit, behind, b.ints(np.arange(count))], (count,))
    both = b.through("CONCATENATION", [base, fresh], (count + taken, *base.shape[1:]), axis=0)
    picked = b.through("GATHER", [both, picks], base.shape, axis=0)
    if kernel is None:
        return picked
    mask = b.reshape(hit, (count, *[1] * (base.rank - 1)))
    return b.through("SELECT_V2", [mask, b.through(kernel, [base, picked], base.shape), base], base.shape)


def _sorted(b: Builder, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [M] -> (themselves in falling order, where each was); of equal ones the last comes first."""
    count = rows.shape[0]
    wide = b.call("MUL", [b.cast(rows, np.int64), b.constant(np.array(count, np.int64))], (count,))
    keys = b.call("ADD", [wide, b.constant(np.arange(count, dtype=np.int64))], (count,))
    _, order = b.call_many("TOPK_V2", [keys, b.ints(np.array(count))], [(count,), (count,)], to=None)
    order.dtype = np.dtype(np.int32)
    return b.call("GATHER", [rows, order], (count,), axis=0), order


def _differs_from_before(b: Builder, rows: Tensor) -> Tensor:
    """Of sorted numbers [M], whether each begins a run of equal ones: bool [M]."""
    before = b.call("CONCATENATION", [b.ints([-1]), window(b, rows, {0: (0, rows.shape[0] - 1)})], rows.shape, axis=0)
    return b.call("NOT_EQUAL", [rows, before], rows.shape, dtype=np.bool_, to=None)


def _joined_runs(b: Builder, kernel: str, rows: Tensor, fresh: Tensor) -> Tensor:
    """Each update joined with those behind it that go to the same row, in every turn with twice as many."""
    step, taken = 1, rows.shape[0]
    while step < taken:
        kept = taken - step
        shape = (kept, *fresh.shape[1:])
        near, far = (window(b, fresh, {0: (first, kept)}) for first in (0, step))
        ends = [window(b, rows, {0: (first, kept)}) for first in (0, step)]
        same = b.reshape(b.call("EQUAL", ends, (kept,), dtype=np.bool_, to=None), (kept, *[1] * (len(shape) - 1)))
        joined = b.through("SELECT_V2", [same, b.through(kernel, [near, far], shape), near], shape)
        fresh = b.through("CONCATENATION", [joined, window(b, fresh, {0: (kept, step)})], fresh.shape, axis=0)
        step *= 2
    return fresh


def _at_constant(b: Builder, base: Tensor, fresh: Tensor, rows: NDArray[np.intp], kernel: str | None) -> Tensor:
    """A GATHER from the input and the updates, one after the other; several updates of one row are taken in order."""
    count, both_count = base.shape[0], base.shape[0] + fresh.shape[0]
    for chosen in _rounds(rows) if kernel else [_final(rows)]:
        both = b.through("CONCATENATION", [base, fresh], (both_count, *base.shape[1:]), axis=0)
        order = np.arange(count)
        order[rows[chosen]] = count + chosen
        picked = gathered(b, both, order, 0)
        if kernel is None:
            base = picked
            continue
        mask = np.zeros((count, *[1] * (base.rank - 1)), np.bool_)
        mask[rows[chosen]] = True
        joined = b.through(kernel, [base, picked], base.shape)
        base = b.through("SELECT_V2", [b.constant(mask), joined, base], base.shape)
    return base


def _final(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each row the number of its last update."""
    return np.array(sorted({int(row): number for number, row in enumerate(rows)}.values()), np.intp)


def _rounds(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Update numbers in groups without a row twice."""
    seen: dict[int, int] = {}
    groups: list[list[int]] = []
    for number, row in enumerate(rows.tolist()):
        turn = seen[row] = seen.get(row, -1) + 1
        groups += [[]] if turn == len(groups) else []
        groups[turn].append(number)
    return [np.array(group, np.intp) for group in groups]
