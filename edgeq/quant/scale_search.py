"""The scales of weights, chosen from the weights alone: pure numpy on rows that share a scale."""
from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array: TypeAlias = NDArray[np.float32]
ScaleSearch: TypeAlias = Callable[[Array, int], Array]


def full(rows: Array, qmax: int) -> Array:
    """rows [S,n] -> scales [S] with which [-qmax, qmax] covers the largest magnitude."""
    return np.asarray(np.abs(rows).max(axis=1) / qmax, np.float32)


def clipped(rows: Array, qmax: int) -> Array:
    """rows [S,n] -> of `policy.CLIPS` scales from full range downwards, those with the least squared error [S]."""
    best, lowest = full(rows, qmax), np.full(len(rows), np.inf)
    for fraction in _fractions():
        scales = full(rows, qmax) * fraction
        errors = np.square(_rounding_error(rows, scales, qmax)).sum(axis=1)
        best, lowest = np.where(errors < lowest, scales, best), np.minimum(errors, lowest)
    return np.asarray(best, np.float32)


def half_quadratic(rows: Array, qmax: int, *, turns: int = policy.HQQ_TURNS.value) -> Array:
    """rows [S,n] -> scales [S] that leave large errors to few weights, from the least squares fit without these.

    HQQ (Badri and Shaji 2023, mobiusml.github.io/hqq_blog) for symmetric grids: with q the integers and e the errors
    that the norm sum |.|^0.7 prefers to keep, the scale is fitted to rows - e, where HQQ moves a zero point.
    """
    power, (first_beta, growth) = policy.HQQ_POWER.value, policy.HQQ_BETA.value
    peak = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30)
    unit = rows / peak
    best, lowest = np.full(len(rows), 1 / qmax, np.float32), np.full(len(rows), np.inf)
    for fraction in _fractions()[::4]:  # the norm has many minima: begin in a good one
        scales = np.full(len(rows), fraction / qmax, np.float32)
        errors = (np.abs(_rounding_error(unit, scales, qmax))**power).sum(axis=1)
        best, lowest = np.where(errors < lowest, scales, best), np.minimum(errors, lowest)
    scales, beta = best, first_beta
    for _ in range(turns):
        off = _rounding_error(unit, scales, qmax)
        errors = (np.abs(off)**power).sum(axis=1)
        best, lowest = np.where(errors < lowest, scales, best), np.minimum(errors, lowest)
        shrunk = np.abs(off) - power / beta * np.maximum(np.abs(off), 1e-8)**(power - 1)
        kept = np.sign(off) * np.maximum(shrunk, 0)
        integers = np.clip(np.rint(unit / scales[:, None]), -qmax, qmax)
        norms = np.einsum("sn,sn->s", integers, integers)
        fitted = np.einsum("sn,sn->s", integers, unit - kept) / np.maximum(norms, 1)
        scales = np.where(fitted > 0.1 / qmax, fitted, scales).astype(np.float32)
        beta *= growth
    return np.asarray(best * peak[:, 0], np.float32)


def _fractions() -> Array:
    return np.linspace(1.0, policy.SMALLEST_CLIP.value, policy.CLIPS.value, dtype=np.float32)


def _rounding_error(rows: Array, scales: Array, qmax: int) -> Array:
    """What rounding to the nearest takes away [S,n]."""
    scales = np.maximum(scales, 1e-30)[:, None]
    return np.asarray(rows - np.clip(np.rint(rows / scales), -qmax, qmax) * scales, np.float32)
