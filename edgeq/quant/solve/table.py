"""Weights that are one of 16 numbers of a table, instead of a multiple of a scale: pure numpy.

A table costs nothing on an engine that stores 4-bit weights as tables anyway (Core ML), and puts its numbers where the
weights are.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.solve.layer import Settings, best_correction
from edgeq.quant.solve.moments import Moments, mean_error, objective, output_error

Array = NDArray[np.float32]
ENTRIES: Final = 16
_FINEST: Final = 127  # entries are kept as 8-bit integers times one scale, so that a graph without tables holds them


def choose_tables(rows: Array, importance: Array, entries: int = ENTRIES) -> Array:
    """rows, importance [S,n] -> ascending tables [S,entries] with little sum of importance * (row - nearest entry)^2.

    k-means on a line, begun from a uniform grid over the row and from its quantiles, whichever ends better. With the
    diagonal of the inputs' moments as importance it is the Hessian-weighted k-means of Choi et al. 2017
    (arXiv:1612.01543, section 3.3). importance must be positive.
    """
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    uniform = low + (high - low) * np.linspace(0, 1, entries, dtype=np.float32)
    quantiles = np.quantile(rows, (np.arange(entries) + 0.5) / entries, axis=1).T.astype(np.float32)
    trials = [_k_means(rows, importance, begin) for begin in (uniform, quantiles)]
    errors = np.array([_error(rows, importance, tables) for tables in trials])
    return np.asarray(np.where((errors[0] <= errors[1])[:, None], *trials), np.float32)


def _k_means(rows: Array, importance: Array, tables: Array) -> Array:
    count, entries = tables.shape
    first = np.arange(count)[:, None] * entries
    for _ in range(policy.TABLE_TURNS.value):
        index = (nearest_entry(rows, tables) + first).ravel()
        weight = np.bincount(index, importance.ravel(), count * entries).reshape(tables.shape)
        total = np.bincount(index, (importance * rows).ravel(), count * entries).reshape(tables.shape)
        moved = np.where(weight > 0, total / np.where(weight > 0, weight, 1), tables).astype(np.float32)
        if np.array_equal(moved, tables):
            break
        tables = np.asarray(np.sort(moved, axis=1), np.float32)
    return tables


def nearest_entry(rows: NDArray[Any], tables: Array) -> NDArray[np.int64]:
    """rows [S,n], ascending tables [S,E] -> the index of the entry nearest to each weight [S,n]."""
    middles = (tables[:, 1:] + tables[:, :-1]) / 2
    found = np.zeros(rows.shape, np.int64)
    for column in middles.T:
        found += rows > column[:, None]
    return found


def _error(rows: Array, importance: Array, tables: Array) -> NDArray[np.float64]:
    off = rows - np.take_along_axis(tables, nearest_entry(rows, tables), 1)
    return np.asarray((importance * off**2).sum(axis=1, dtype=np.float64))


def fit_to_tables(target: Array, hessian: Array, tables: Array, *,
                  passes: int = policy.DESCENT_PASSES.value) -> Array:
    """target [G,R,n], hessian [G,n,n] positive definite, tables [G,R,E] -> weights [G,R,n], each an entry of its table.

    Coordinate descent from the nearest entries: each weight in turn takes the entry that is best with all others as
    they are, until a pass changes none.
    """
    groups, rows, size = target.shape
    flat = tables.reshape(groups * rows, -1)
    begin = np.take_along_axis(flat, nearest_entry(target.reshape(-1, size), flat), 1)
    weight = begin.reshape(target.shape).astype(np.float32)
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    slope = (weight - target) @ hessian
    for _ in range(passes):
        changed = False
        for j in range(size):
            wanted = (weight[:, :, j] - slope[:, :, j] / diagonal[:, j][:, None]).reshape(-1, 1)
            best = np.take_along_axis(flat, nearest_entry(wanted, flat), 1).reshape(groups, rows)
            move = best - weight[:, :, j]
            if move.any():
                changed = True
                weight[:, :, j] = best
                slope += move[:, :, None] * hessian[:, None, j]
        if not changed:
            break
    return weight


@dataclass(frozen=True, slots=True, eq=False)
class Tabled:
    """integers: [G,R,n] of 8 bits, at most 16 different ones where channels share a table. scale: [G*R], of each
    row. shift: what to add to the bias [G,R], or None.
    """

    integers: Array
    scale: Array
    shift: Array | None = None

    @property
    def weight(self) -> Array:
        """The real weights [G,R,n]."""
        return np.asarray(self.integers * self.scale.reshape(*self.integers.shape[:2], 1), np.float32)


def round_to_tables(weight: Array, channels: int) -> Tabled:
    """weight [G,R,n] -> entries of tables for each `channels` rows, or the next divisor below, without samples.

    As if inputs were independent around a common mean as large as their deviation: so the sum of a row's errors nearly
    vanishes, as with `rounding.sum_preserving`.
    """
    tables, scale = _tables(weight, np.ones_like(weight), channels)
    groups, _, size = weight.shape
    hessian = np.broadcast_to(np.eye(size, dtype=np.float32) + 1, (groups, size, size))
    return _coded(fit_to_tables(weight, hessian, _spread(tables, weight)), scale, None)


def solve_tables(weight: Array, channels: int, training: Moments, validation: Moments, has_bias: bool,
                 settings: Settings) -> Tabled:
    """As `solve.layer.solve`, for tables: fitted to `training`, judged on `validation` beside rounding, fitted to
    both.
    """
    free = settings.bias and has_bias
    correction = best_correction(weight, training, validation, free, settings)

    def attempt(moments: Moments) -> Tabled:
        problem = objective(weight, moments, free_bias=free, correction=correction, damping=settings.damping)
        importance = np.broadcast_to(np.diagonal(problem.hessian, axis1=1, axis2=2)[:, None, :], weight.shape)
        tables, scale = _tables(problem.target, importance, channels)
        found = fit_to_tables(problem.target, problem.hessian, _spread(tables, weight), passes=settings.passes)
        return _coded(found, scale, mean_error(weight, found, moments) if free else None)

    def error(trial: Tabled) -> float:
        return float(output_error(weight, trial.weight, trial.shift, validation).sum())

    plain = round_to_tables(weight, channels)
    return plain if error(plain) < error(attempt(training)) else attempt(training.merge(validation))


def _tables(weight: Array, importance: Array, channels: int) -> tuple[Array, Array]:
    """-> tables [S,16] of multiples of their scale, scale [G*R]."""
    count = weight.shape[0] * weight.shape[1]
    channels = next(size for size in range(min(channels, count), 0, -1) if count % size == 0)
    shape = (count // channels, -1)
    found = choose_tables(weight.reshape(shape), np.maximum(importance.reshape(shape), 1e-12))
    scale = np.maximum(np.abs(found).max(axis=1), 1e-12) / _FINEST
    snapped = np.rint(found / scale[:, None]) * scale[:, None]
    return np.asarray(snapped, np.float32), np.repeat(scale, channels).astype(np.float32)


def _spread(tables: Array, weight: Array) -> Array:
    """The table of every row [G,R,16]."""
    rows = weight.shape[0] * weight.shape[1]
    return np.repeat(tables, rows // len(tables), axis=0).reshape(*weight.shape[:2], -1)


def _coded(weight: Array, scale: Array, shift: Array | None) -> Tabled:
    return Tabled(np.rint(weight / scale.reshape(*weight.shape[:2], 1)).astype(np.float32), scale, shift)
