"""Scales of single blocks that lose the least: closed forms for given levels, over a few ways to choose these."""
from __future__ import annotations

from typing import Final

import numpy as np

from edgeq.quant.formats.grid import Array, Levels, Whole

# How much wider or narrower than the block's extent the levels are laid, in levels. ggml tries as many:
# https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c (make_qx_quants, make_qkx3_quants)
_STRETCHES: Final = tuple(np.linspace(-1.2, 1.2, 17).tolist())


def symmetric_scales(x: Array, weights: Array, levels: Levels) -> Array:
    """x, weights [B,k] -> scales [B] with the least weighted squared error of scale * level. A scale may be negative:
    the level of the largest number is the one whose range reaches further.
    """
    low, high = levels.ends
    far = low if -low >= high else high
    peak = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)[:, 0]
    best = np.zeros(len(x), np.float32)
    gain = np.zeros(len(x))
    is_zero = peak == 0
    peak = np.where(is_zero, 1, peak)
    for sign in (1.0, -1.0) if -low != high else (1.0,):
        for stretch in _STRETCHES:
            unit = peak / (sign * (far + np.copysign(stretch, far) * abs(far) / max(abs(far), 8)))
            found = levels.nearest(x / unit[:, None])
            product, square = (weights * x * found).sum(1), (weights * found * found).sum(1)
            scale = product / np.where(square > 0, square, 1)
            better = product * scale > gain  # what the error is below that of zeros
            gain = np.where(better, product * scale, gain)
            best = np.where(better, scale, best).astype(np.float32)
    return np.where(is_zero, 0, best).astype(np.float32)


def affine_scales(x: Array, weights: Array, levels: Whole, *, minimum_at_most_zero: bool) -> tuple[Array, Array]:
    """x, weights [B,k] -> (scale, offset) [B]: the least weighted squared error of scale * level + offset.

    minimum_at_most_zero: offsets are no larger than 0, as K formats store them.
    """
    low, high = x.min(1), x.max(1)
    if minimum_at_most_zero:
        low = np.minimum(low, 0)
    extent = np.where(high > low, high - low, 1)
    best_scale, best_offset = np.where(high > low, extent / levels.high, 0).astype(np.float32), low.astype(np.float32)
    total, first = weights.sum(1), (weights * x).sum(1)
    lowest = _error(x, weights, best_scale, best_offset, levels)
    for stretch in _STRETCHES:
        unit = extent / (levels.high + stretch)
        found = levels.nearest((x - low[:, None]) / unit[:, None])
        second, square = (weights * found).sum(1), (weights * found * found).sum(1)
        product = (weights * x * found).sum(1)
        determinant = total * square - second * second
        safe = np.where(determinant > 0, determinant, 1)
        scale = np.where(determinant > 0, (total * product - second * first) / safe, unit)
        offset = np.where(determinant > 0, (square * first - second * product) / safe, low)
        if minimum_at_most_zero:
            above = offset > 0
            scale = np.where(above, product / np.where(square > 0, square, 1), scale)
            offset = np.where(above, 0, offset)
        error = _error(x, weights, scale, offset, levels)
        better = error < lowest
        lowest = np.where(better, error, lowest)
        best_scale = np.where(better, scale, best_scale).astype(np.float32)
        best_offset = np.where(better, offset, best_offset).astype(np.float32)
    return best_scale, best_offset


def _error(x: Array, weights: Array, scale: Array, offset: Array, levels: Levels) -> Array:
    safe = np.where(scale == 0, 1, scale)[:, None]
    found = levels.nearest((x - offset[:, None]) / safe)
    off = scale[:, None] * found + offset[:, None] - x
    return np.asarray((weights * off * off).sum(1))
