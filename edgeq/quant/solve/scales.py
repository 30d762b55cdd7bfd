"""Scales of weights that lose the least on samples: pure numpy."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which weights of [G,R,n] share a scale: each `size` along n of each row, or all of them where `rows` is False."""

    rows: bool
    size: int

    def split(self, weight: Array) -> Array:
        """[G,R,n] -> [S, weights of each]."""
        return weight.reshape(-1, self.size) if self.rows else weight.reshape(1, -1)

    def spread(self, scales: Array, shape: tuple[int, ...]) -> Array:
        """scales [S] -> [G,R,n] of `shape`, the scale of every weight."""
        if not self.rows:
            return np.full(shape, scales.reshape(()), np.float32)
        spread: Array = np.repeat(scales, self.size).reshape(shape)
        return spread


def clipped_scales(weight: Array, hessian: Array, blocks: Blocks, qmax: int, least: Array, *,
                  candidates: int = policy.CLIPS.value) -> Array:
    """weight [G,R,n], hessian [G,n,n] -> scales [S]: the best of `candidates` clips of the largest magnitude.

    Errors count by how much enters there, the diagonal of `hessian`. least: scales must not be smaller [S].
    """
    importance = np.broadcast_to(np.diagonal(hessian, axis1=1, axis2=2)[:, None, :], weight.shape)
    weight, importance = blocks.split(weight), blocks.split(np.ascontiguousarray(importance))
    peak = np.abs(weight).max(axis=1)
    best, lowest = np.maximum(peak / qmax, least), np.full(len(peak), np.inf)
    for fraction in np.linspace(1.0, policy.SMALLEST_CLIP.value, candidates, dtype=np.float32):
        scales = np.maximum(peak * fraction / qmax, least)
        off = np.clip(np.rint(weight / scales[:, None]), -qmax, qmax) * scales[:, None] - weight
        errors = np.einsum("sn,sn,sn->s", off, off, importance)
        best, lowest = np.where(errors < lowest, scales, best), np.minimum(errors, lowest)
    return np.asarray(best, np.float32)


def refitted_scales(integers: Array, target: Array, hessian: Array, scales: Array, blocks: Blocks, least: Array,
                    ) -> Array:
    """The scales [S] that fit integers [G,R,n] best: least squares, one number per row or tensor.

    Blocks of one row interact, so each is solved for with the others as they are, one after the other.
    """
    groups, rows, _ = integers.shape
    if not blocks.rows:
        slope = integers @ hessian
        steep = np.einsum("grn,grn->", slope, integers, dtype=np.float64)
        fitted = np.einsum("grn,grn->", slope, target, dtype=np.float64) / steep if steep > 0 else float(scales[0])
        return np.maximum(np.array([fitted], np.float32), least) if fitted > 0 else scales
    scales = scales.reshape(groups, rows, -1).copy()
    least = least.reshape(scales.shape)
    off = integers * np.repeat(scales, blocks.size, axis=2) - target
    for block in range(scales.shape[2]):
        inside = slice(block * blocks.size, (block + 1) * blocks.size)
        part = integers[:, :, inside]
        slope = part @ hessian[:, inside, :]
        steep = np.einsum("grn,grn->gr", slope[:, :, inside], part, dtype=np.float64)
        change = -np.einsum("grn,grn->gr", slope, off, dtype=np.float64) / np.where(steep > 0, steep, np.inf)
        fitted = np.maximum(scales[:, :, block] + change, least[:, :, block]).astype(np.float32)
        off[:, :, inside] += part * (fitted - scales[:, :, block])[:, :, None]
        scales[:, :, block] = fitted
    return scales.reshape(-1)
