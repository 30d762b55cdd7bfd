"""From a range to a grid."""
from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from edgeq.scheme import PerTensor, QuantParams, QuantType

# 2**-100: far above float32's smallest normal number (2**-126), so that neither 1 / scale nor a product with a weight's
# scale leaves the normal range; far below any activation that means something.
SMALLEST_SCALE: Final = 2.0**-100


def grid(low: float, high: float, type: QuantType) -> QuantParams:
    """The per-tensor grid of ``type`` that covers [low, high] and 0 within half a step, with 0 exactly on it.

    Asymmetric: scale = (high - low) / levels, and the zero point is rounded, as in Jacob et al. 2018, section 3
    (arXiv:1712.05877). Symmetric: scale = max(-low, high) / largest integer, zero point 0. A range without extent gets
    scale 1: its only number, 0, is exact on every grid.

    Raises:
        ValueError: a bound is NaN or infinite, or low > high.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"not a range: [{low}, {high}]")
    low, high = min(low, 0.0), max(high, 0.0)
    smallest, largest = type.range
    extent = max(-low, high) / largest if type.symmetric else (high - low) / (largest - smallest)
    scale = np.float32(max(extent, SMALLEST_SCALE) if extent > 0 else 1.0)
    zero_point = 0
    if not type.symmetric and extent > 0:
        zero_point = int(np.clip(np.rint(smallest - low / float(scale)), smallest, largest))
    return QuantParams(replace(type, granularity=PerTensor()), np.array(scale), np.array(zero_point, np.int32))
