"""How wide the steps of a weight grid are, from the weights alone: pure numpy on rows that share a step."""
from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array: TypeAlias = NDArray[np.float32]
StepSearch: TypeAlias = Callable[[Array, int], Array]


def full(rows: Array, limit: int) -> Array:
    """rows [S,n] -> steps [S] whose grid [-limit, limit] covers the largest magnitude."""
    return np.asarray(np.abs(rows).max(axis=1) / limit, np.float32)


def clipped(rows: Array, limit: int) -> Array:
    """rows [S,n] -> of `policy.CLIPS` steps from full range downwards, those with the least squared error [S]."""
    best, lowest = full(rows, limit), np.full(len(rows), np.inf)
    for fraction in _fractions():
        steps = full(rows, limit) * fraction
        errors = np.square(_error(rows, steps, limit)).sum(axis=1)
        best, lowest = np.where(errors < lowest, steps, best), np.minimum(errors, lowest)
    return np.asarray(best, np.float32)


def half_quadratic(rows: Array, limit: int, *, turns: int = policy.HQQ_TURNS.value) -> Array:
    """rows [S,n] -> steps [S] that leave large errors to few weights, from the least squares fit without these.

    HQQ (Badri and Shaji 2023, mobiusml.github.io/hqq_blog) for symmetric grids: with q the integers and e the errors
    that the norm sum |.|^0.7 prefers to keep, the step is fitted to rows - e, where HQQ moves a zero point.
    """
    power, (first_beta, growth) = policy.HQQ_POWER.value, policy.HQQ_BETA.value
    peak = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30)
    unit = rows / peak
    best, lowest = np.full(len(rows), 1 / limit, np.float32), np.full(len(rows), np.inf)
    for fraction in _fractions()[::4]:  # the norm has many minima: begin in a good one
        steps = np.full(len(rows), fraction / limit, np.float32)
        errors = (np.abs(_error(unit, steps, limit))**power).sum(axis=1)
        best, lowest = np.where(errors < lowest, steps, best), np.minimum(errors, lowest)
    steps, beta = best, first_beta
    for _ in range(turns):
        off = _error(unit, steps, limit)
        errors = (np.abs(off)**power).sum(axis=1)
        best, lowest = np.where(errors < lowest, steps, best), np.minimum(errors, lowest)
        shrunk = np.abs(off) - power / beta * np.maximum(np.abs(off), 1e-8)**(power - 1)
        kept = np.sign(off) * np.maximum(shrunk, 0)
        codes = np.clip(np.rint(unit / steps[:, None]), -limit, limit)
        square = np.einsum("sn,sn->s", codes, codes)
        fitted = np.einsum("sn,sn->s", codes, unit - kept) / np.maximum(square, 1)
        steps = np.where(fitted > 0.1 / limit, fitted, steps).astype(np.float32)
        beta *= growth
    return np.asarray(best * peak[:, 0], np.float32)


def _fractions() -> Array:
    return np.linspace(1.0, policy.SMALLEST_CLIP.value, policy.CLIPS.value, dtype=np.float32)


def _error(rows: Array, steps: Array, limit: int) -> Array:
    """What rounding to the nearest takes away [S,n]."""
    steps = np.maximum(steps, 1e-30)[:, None]
    return np.asarray(rows - np.clip(np.rint(rows / steps), -limit, limit) * steps, np.float32)
