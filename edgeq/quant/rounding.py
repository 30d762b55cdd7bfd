"""Which way to round: pure numpy on weights in units of their step, no data needed."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Steps: TypeAlias = NDArray[np.float32]
Rounding: TypeAlias = Callable[[Steps, int], Steps]


def nearest(steps: Steps, qmax: int) -> Steps:
    """steps (any shape) -> the nearest integers in [-qmax, qmax], ties to even."""
    return np.clip(np.rint(steps), -qmax, qmax)


def sum_preserving(steps: Steps, qmax: int) -> Steps:
    """steps [O,I,K]: O rows that share a scale, I kernels of K weights -> integers whose sums stay within half a step.

    Inputs of a layer are strongly correlated within a kernel, and most have a mean that is not zero: what reaches the
    next layer is mostly the sum of the rounding errors. So of the weights of a kernel, then of a row, as many as the
    sum is off are rounded the other way, those nearest to a tie first. After SQuant (Guo et al. 2022,
    arXiv:2202.07471), without its limit of one flip a kernel in the second stage.
    """
    rows, kernels, size = steps.shape
    rounded = nearest(steps, qmax)
    if size > 1:
        rounded = _balance(steps.reshape(-1, size), rounded.reshape(-1, size), qmax)
    return _balance(steps.reshape(rows, -1), rounded.reshape(rows, -1), qmax).reshape(rows, kernels, size)


def _balance(steps: Steps, rounded: Steps, qmax: int) -> Steps:
    """Flip elements of each row of `rounded` [G,E] until its sum is that of `steps`, to half a step."""
    error = rounded - steps
    surplus = np.rint(error.sum(axis=1, keepdims=True, dtype=np.float64))
    sign = np.sign(surplus).astype(np.float32)
    error *= -sign
    flipped = _smallest(error, np.abs(surplus[:, 0]).astype(np.int64))
    return np.asarray(np.clip(rounded - flipped * sign, -qmax, qmax), np.float32)


def _smallest(values: Steps, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """values [G,E], counts [G] -> which elements are the `counts` smallest of their row; of equal ones the first."""
    last = np.maximum(counts - 1, 0)
    ordered = np.sort(np.partition(values, last.max(), axis=1)[:, :last.max() + 1], axis=1)  # counts are small
    threshold = np.where(counts, np.take_along_axis(ordered, last[:, None], 1)[:, 0], -np.inf)[:, None]
    found, tied = values < threshold, values == threshold
    missing = counts - found.sum(axis=1)
    torn = tied.sum(axis=1) > missing
    tied[torn] &= np.cumsum(tied[torn], axis=1) <= missing[torn, None]
    return np.asarray(found | tied)


ROUNDINGS: Final[Mapping[str, Rounding]] = MappingProxyType({"nearest": nearest, "sum-preserving": sum_preserving})
