"""How wide the steps of a weight grid are, from the weights alone: pure numpy on rows that share a step."""
from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
StepSearch: TypeAlias = Callable[[Array, int], Array]

_CLIPS: Final = np.linspace(1.0, 0.35, 40, dtype=np.float32)
_POWER: Final = 0.7  # of the error, in HQQ's norm: below 1, a few large errors cost less than many small ones


def full(rows: Array, limit: int) -> Array:
    """rows [S,n] -> steps [S] whose grid [-limit, limit] covers the largest magnitude."""
    return np.asarray(np.abs(rows).max(axis=1) / limit, np.float32)


def clipped(rows: Array, limit: int) -> Array:
    """rows [S,n] -> of 40 steps from full range to 0.35 of it, those with the least squared error [S]."""
    best, lowest = full(rows, limit), np.full(len(rows), np.inf)
    for fraction in _CLIPS:
        steps = full(rows, limit) * fraction
        errors = np.square(_error(rows, steps, limit)).sum(axis=1)
        best, lowest = np.where(errors < lowest, steps, best), np.minimum(errors, lowest)
    return np.asarray(best, np.float32)


def half_quadratic(rows: Array, limit: int, *, turns: int = 20) -> Array:
    """rows [S,n] -> steps [S] that leave large errors to few weights, from the least squares fit without these.

    HQQ (Badri and Shaji 2023, mobiusml.github.io/hqq_blog) for symmetric grids: with q the integers and e the errors
    that the norm sum |.|^0.7 prefers to keep, the step is fitted to rows - e, where HQQ moves a zero point.
    """
    peak = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30)
    unit = rows / peak
    best, lowest = np.full(len(rows), 1 / limit, np.float32), np.full(len(rows), np.inf)
    for fraction in _CLIPS[::4]:  # the norm has many minima: begin in a good one
        steps = np.full(len(rows), fraction / limit, np.float32)
        errors = (np.abs(_error(unit, steps, limit))**_POWER).sum(axis=1)
        best, lowest = np.where(errors < lowest, steps, best), np.minimum(errors, lowest)
    steps, beta = best, 10.0
    for _ in range(turns):
        off = _error(unit, steps, limit)
        errors = (np.abs(off)**_POWER).sum(axis=1)
        best, lowest = np.where(errors < lowest, steps, best), np.minimum(errors, lowest)
        shrunk = np.abs(off) - _POWER / beta * np.maximum(np.abs(off), 1e-8)**(_POWER - 1)
        kept = np.sign(off) * np.maximum(shrunk, 0)
        codes = np.clip(np.rint(unit / steps[:, None]), -limit, limit)
        square = np.einsum("sn,sn->s", codes, codes)
        fitted = np.einsum("sn,sn->s", codes, unit - kept) / np.maximum(square, 1)
        steps = np.where(fitted > 0.1 / limit, fitted, steps).astype(np.float32)
        beta *= 1.01
    return np.asarray(best * peak[:, 0], np.float32)


def _error(rows: Array, steps: Array, limit: int) -> Array:
    """What rounding to the nearest takes away [S,n]."""
    steps = np.maximum(steps, 1e-30)[:, None]
    return np.asarray(rows - np.clip(np.rint(rows / steps), -limit, limit) * steps, np.float32)
