"""Coordinate descent on the integers themselves: pure numpy."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array = NDArray[np.float32]


def descend(integers: Array, target: Array, hessian: Array, scale: Array, qmax: int, *,
            passes: int = policy.DESCENT_PASSES.value) -> Array:
    """integers, target, scale [G,R,n], hessian [G,n,n] -> integers [G,R,n] in [-qmax, qmax] with no larger error.

    Each weight in turn takes the integer that is best with all others as they are, until a pass changes none.
    """
    integers = integers.copy()
    size = integers.shape[2]
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    slope = (integers * scale - target) @ hessian  # half of the derivative of the error
    for _ in range(passes):
        changed = False
        for start in range(0, size, policy.DESCENT_BLOCK.value):
            stop = min(start + policy.DESCENT_BLOCK.value, size)
            local = slope[:, :, start:stop].copy()
            moves = np.zeros_like(local)
            for j in range(start, stop):
                here = scale[:, :, j]
                wanted = integers[:, :, j] - local[:, :, j - start] / (diagonal[:, j][:, None] * here)
                best = np.clip(np.rint(wanted), -qmax, qmax)
                move = (best - integers[:, :, j]) * here
                if move.any():
                    integers[:, :, j], moves[:, :, j - start] = best, move
                    local += move[:, :, None] * hessian[:, None, j, start:stop]
            if moves.any():
                changed = True
                slope += moves @ hessian[:, start:stop, :]
        if not changed:
            break
    return integers
