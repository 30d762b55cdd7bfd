"""Steps of weight grids that lose the least: pure numpy."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which weights of [G,R,n] share a step: each `size` along n of each row, or all of them where `rows` is False."""

    rows: bool
    size: int

    def split(self, weight: Array) -> Array:
        """[G,R,n] -> [steps, weights of each]."""
        return weight.reshape(-1, self.size) if self.rows else weight.reshape(1, -1)

    def spread(self, steps: Array, shape: tuple[int, ...]) -> Array:
        """steps [steps] -> [G,R,n] of `shape`, the step of every weight."""
        if not self.rows:
            return np.full(shape, steps.reshape(()), np.float32)
        spread: Array = np.repeat(steps, self.size).reshape(shape)
        return spread


def clipped_steps(weight: Array, square: Array, blocks: Blocks, limit: int, least: Array, *,
                  candidates: int = policy.CLIPS.value) -> Array:
    """weight [G,R,n], square [G,n,n] -> steps [steps]: the best of `candidates` clips of the largest magnitude.

    Errors count by how much enters there, the diagonal of `square`. least: steps must not be smaller [steps].
    """
    importance = np.broadcast_to(np.diagonal(square, axis1=1, axis2=2)[:, None, :], weight.shape)
    weight, importance = blocks.split(weight), blocks.split(np.ascontiguousarray(importance))
    peak = np.abs(weight).max(axis=1)
    best, lowest = np.maximum(peak / limit, least), np.full(len(peak), np.inf)
    for fraction in np.linspace(1.0, policy.SMALLEST_CLIP.value, candidates, dtype=np.float32):
        steps = np.maximum(peak * fraction / limit, least)
        off = np.clip(np.rint(weight / steps[:, None]), -limit, limit) * steps[:, None] - weight
        errors = np.einsum("sn,sn,sn->s", off, off, importance)
        best, lowest = np.where(errors < lowest, steps, best), np.minimum(errors, lowest)
    return np.asarray(best, np.float32)


def refitted_steps(codes: Array, target: Array, square: Array, steps: Array, blocks: Blocks, least: Array) -> Array:
    """The steps [steps] that fit integers codes [G,R,n] best: least squares, one number per row or tensor.

    Blocks of one row interact, so each is solved for with the others as they are, one after the other.
    """
    groups, rows, _ = codes.shape
    if not blocks.rows:
        slope = codes @ square
        steep = np.einsum("grn,grn->", slope, codes, dtype=np.float64)
        fitted = np.einsum("grn,grn->", slope, target, dtype=np.float64) / steep if steep > 0 else float(steps[0])
        return np.maximum(np.array([fitted], np.float32), least) if fitted > 0 else steps
    steps = steps.reshape(groups, rows, -1).copy()
    least = least.reshape(steps.shape)
    off = codes * np.repeat(steps, blocks.size, axis=2) - target
    for block in range(steps.shape[2]):
        inside = slice(block * blocks.size, (block + 1) * blocks.size)
        part = codes[:, :, inside]
        slope = part @ square[:, inside, :]
        steep = np.einsum("grn,grn->gr", slope[:, :, inside], part, dtype=np.float64)
        change = -np.einsum("grn,grn->gr", slope, off, dtype=np.float64) / np.where(steep > 0, steep, np.inf)
        fitted = np.maximum(steps[:, :, block] + change, least[:, :, block]).astype(np.float32)
        off[:, :, inside] += part * (fitted - steps[:, :, block])[:, :, None]
        steps[:, :, block] = fitted
    return steps.reshape(-1)
