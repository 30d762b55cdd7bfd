"""From a histogram to a range: pure numpy, no graph. Every range contains 0, because Relu and padding need it exact."""
from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.calibrate.statistics import BINS, TensorStatistics


class Calibrator(Protocol):
    """What every function of this file is; only some need to know how many levels the grid will have."""

    def __call__(self, statistics: TensorStatistics, bits: int = 8, /) -> tuple[float, float]: ...


def minmax(statistics: TensorStatistics, bits: int = 8) -> tuple[float, float]:
    """The smallest and the largest element -> (low, high); of 16 bits, which can spare levels, several times that."""
    reach = 1.0 if bits <= 8 else policy.WIDE_REACH.value
    return min(statistics.min, 0.0) * reach, max(statistics.max, 0.0) * reach


def percentile(statistics: TensorStatistics, bits: int = 8, *, percent: float = policy.PERCENTILE.value,
               ) -> tuple[float, float]:
    """The range that holds ``percent`` of the elements, as much cut off below as above -> (low, high)."""
    low, high = minmax(statistics)
    total = statistics.count
    if not total:
        return low, high
    tail = (1 - percent / 100) / 2 * total
    edges, below = _edges(statistics), np.concatenate([[0], np.cumsum(statistics.counts)])
    cut_low, cut_high = np.interp([tail, total - tail], below, edges)
    return float(min(max(cut_low, low), 0.0)), float(max(min(cut_high, high), 0.0))


def mse(statistics: TensorStatistics, bits: int = 8, *, candidates: int = policy.MSE_CANDIDATES.value,
        ) -> tuple[float, float]:
    """The range whose ``2**bits`` levels lose the least squared error -> (low, high).

    Each end has ``candidates`` places between 0 and the extreme element. The ends are moved in turn until neither
    moves: the error that one end causes depends on the other only through the step.
    """
    low, high = minmax(statistics)
    if low == high:
        return low, high
    centres, counts = _occupied(statistics)
    fractions = np.linspace(1 / candidates, 1.0, candidates)
    lows, highs = np.unique(low * fractions), np.unique(high * fractions)
    best, before = (low, high), None
    while best != before:
        before = best
        best = (float(lows[_errors(centres, counts, lows, np.full_like(lows, best[1]), bits).argmin()]), best[1])
        best = (best[0], float(highs[_errors(centres, counts, np.full_like(highs, best[0]), highs, bits).argmin()]))
    return best


def entropy(statistics: TensorStatistics, bits: int = 8, *, candidates: int = policy.ENTROPY_CANDIDATES.value,
            ) -> tuple[float, float]:
    """The range whose ``2**bits`` levels keep the most information -> (low, high).

    The Kullback-Leibler divergence of the elements, those outside moved to the ends, from what the levels can tell of
    those inside (Migacz, "8-bit inference with TensorRT", GTC 2017), for both ends in turn, as in `mse`. Zero is exact
    on every grid, so the bin around it does not count. Grids finer than the histogram lose nothing that it could see:
    these get the whole range.
    """
    low, high = minmax(statistics)
    levels = 2**bits
    first, last = (BINS - 1 + int(end / statistics.width) for end in (low, high))
    if last - first < levels:
        return low, high
    counts = statistics.counts.astype(np.float64)
    counts[BINS - 1] = 0
    starts = np.unique(np.linspace(first, BINS - 1, candidates).astype(int))
    ends = np.unique(np.linspace(BINS - 1, last, candidates).astype(int))
    best, before = (first, last), None
    while best != before:
        before = best
        best = (min(starts, key=lambda start: (_divergence(counts, start, best[1], levels), start)), best[1])
        best = (best[0], min(ends, key=lambda end: (_divergence(counts, best[0], end, levels), -end)))
    edges = _edges(statistics)
    return (low if best[0] == first else float(edges[best[0]]), high if best[1] == last else float(edges[best[1] + 1]))


def _divergence(counts: NDArray[np.float64], first: int, last: int, levels: int) -> float:
    """Of all elements, counts [n], from bins first..last told apart by `levels` levels; inf where these are fewer."""
    size = last - first + 1
    if size < levels:
        return np.inf
    inside = counts[first:last + 1]
    total = counts.sum()
    if not total:
        return 0.0
    level = np.arange(size) * levels // size
    occupied = inside > 0
    share = np.bincount(level, inside) / np.maximum(np.bincount(level, occupied), 1)
    told = np.where(occupied, share[level], 0.0)
    true = inside.copy()
    true[0] += counts[:first].sum()
    true[-1] += counts[last + 1:].sum()
    told = np.maximum(told, np.where(true > 0, 0.5, 0.0))  # an end where nothing lay before: half an element
    held = true > 0
    return float((true[held] * np.log(true[held] / told[held] * (told.sum() / total))).sum() / total)


def _errors(centres: NDArray[np.float64], counts: NDArray[np.float64], lows: NDArray[np.float64],
            highs: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """centres, counts [n]; lows, highs [m] -> summed squared error [m] of each range.

    What lies outside loses its distance to the range; what lies inside loses step**2 / 12, the variance of a uniform
    rounding error, except in the bin around zero: zero is exact on every grid.
    """
    outside = np.maximum(centres - highs[:, None], 0) + np.maximum(lows[:, None] - centres, 0)
    clipped = (outside**2) @ counts
    step = (highs - lows) / (2**bits - 1)
    inside = ((outside == 0) & (centres != 0)) @ counts
    return np.asarray(clipped + inside * step**2 / 12, np.float64)


def _occupied(statistics: TensorStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and counts of the bins that hold something, float64 [n] each."""
    occupied = np.flatnonzero(statistics.counts)
    offset = occupied - (BINS - 1)
    return (offset + np.sign(offset) * 0.5) * statistics.width, statistics.counts[occupied].astype(np.float64)


def _edges(statistics: TensorStatistics) -> NDArray[np.float64]:
    """float64 [2 * BINS]: the borders of the bins, ascending; bin 0 is two widths wide."""
    sides = np.arange(1, BINS + 1, dtype=np.float64) * statistics.width
    return np.concatenate([-sides[::-1], sides])


CALIBRATORS: Final[Mapping[str, Calibrator]] = MappingProxyType({
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
})
