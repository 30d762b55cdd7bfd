"""Coordinate descent on the integers themselves: pure numpy."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array = NDArray[np.float32]


def descend(codes: Array, target: Array, square: Array, step: Array, limit: int, *,
            passes: int = policy.DESCENT_PASSES.value) -> Array:
    """codes, target, step [G,R,n], square [G,n,n] -> integers [G,R,n] in [-limit, limit] with no larger error.

    Each weight in turn takes the integer that is best with all others as they are, until a pass changes none.
    """
    codes = codes.copy()
    size = codes.shape[2]
    diagonal = np.diagonal(square, axis1=1, axis2=2)
    slope = (codes * step - target) @ square  # half of the derivative of the error
    for _ in range(passes):
        changed = False
        for start in range(0, size, policy.DESCENT_BLOCK.value):
            stop = min(start + policy.DESCENT_BLOCK.value, size)
            local = slope[:, :, start:stop].copy()
            moves = np.zeros_like(local)
            for j in range(start, stop):
                here = step[:, :, j]
                wanted = codes[:, :, j] - local[:, :, j - start] / (diagonal[:, j][:, None] * here)
                best = np.clip(np.rint(wanted), -limit, limit)
                move = (best - codes[:, :, j]) * here
                if move.any():
                    codes[:, :, j], moves[:, :, j - start] = best, move
                    local += move[:, :, None] * square[:, None, j, start:stop]
            if moves.any():
                changed = True
                slope += moves @ square[:, start:stop, :]
        if not changed:
            break
    return codes
