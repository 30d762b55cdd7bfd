"""Coordinate descent on the integers themselves: pure numpy."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.formats.grid import Levels
from edgeq.quant.solve.gptq import in_steps

Array = NDArray[np.float32]


def descend(integers: Array, target: Array, hessian: Array, scale: Array, levels: Levels, *,
            passes: int = policy.DESCENT_PASSES.value) -> Array:
    """levels `integers`, target, scale [G,R,n], hessian [G,n,n] -> levels [G,R,n] with no larger error.

    Each weight in turn takes the level that is best with all others as they are, until a pass changes none.
    """
    integers = integers.copy()
    size = integers.shape[2]
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    slope = np.asarray((integers * scale - target) @ hessian, np.float32)  # half of the derivative of the error
    for _ in range(passes):
        changed = False
        for start in range(0, size, policy.DESCENT_BLOCK.value):
            stop = min(start + policy.DESCENT_BLOCK.value, size)
            local = slope[:, :, start:stop].copy()
            moves = np.zeros_like(local)
            for j in range(start, stop):
                here = scale[:, :, j]
                wanted = integers[:, :, j] - in_steps(local[:, :, j - start], diagonal[:, j][:, None] * here)
                best = levels.nearest(wanted)
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
