"""Coordinate descent on the integers themselves: pure numpy."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.formats.grid import Levels

Array = NDArray[np.float32]


def descend(integers: Array, target: Array, hessian: Array, scale: Array, levels: Levels, *,
            passes: int = policy.DESCENT_PASSES.value) -> Array:
    """levels `integers`, target, scale [G,R,n], hessian [G,n,n] -> levels [G,R,n] with no larger error.

    Each weight in turn takes the level that is best with all others as they are, until a pass changes none.
    """
    # One column of all rows at a time: they lie side by side in memory [G,n,R].
    integers, scale = (np.ascontiguousarray(np.swapaxes(of, 1, 2)) for of in (integers, scale))
    size = integers.shape[1]
    steep = np.diagonal(hessian, axis1=1, axis2=2)[:, :, None] * scale
    steep = np.where(scale != 0, steep, np.inf)
    # half of the derivative of the error
    slope = np.asarray(hessian @ (integers * scale - np.swapaxes(target, 1, 2)), np.float32)
    for _ in range(passes):
        changed = False
        for start in range(0, size, policy.DESCENT_BLOCK.value):
            stop = min(start + policy.DESCENT_BLOCK.value, size)
            local = slope[:, start:stop].copy()
            moves = np.zeros_like(local)
            for j in range(start, stop):
                best = levels.nearest(integers[:, j] - local[:, j - start] / steep[:, j])
                move = (best - integers[:, j]) * scale[:, j]
                if move.any():
                    integers[:, j], moves[:, j - start] = best, move
                    local[:, j + 1 - start:] += hessian[:, j + 1:stop, j, None] * move[:, None, :]
            if moves.any():
                changed = True
                slope += hessian[:, :, start:stop] @ moves
        if not changed:
            break
    return np.ascontiguousarray(np.swapaxes(integers, 1, 2))
