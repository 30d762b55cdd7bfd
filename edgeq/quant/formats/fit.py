"""Codes fitted to what enters a layer, on the very grid that the file holds. Arrays only, no graph."""
from __future__ import annotations

import numpy as np

from edgeq import policy
from edgeq.quant.formats.blocks import BlockFormat
from edgeq.quant.formats.grid import Array, Grid
from edgeq.quant.solve.descent import descend
from edgeq.quant.solve.gptq import gptq


def fit_codes(format: BlockFormat, target: Array, gram: Array, *, passes: int = policy.DESCENT_PASSES.value,
              ) -> tuple[Grid, Array]:
    """target [R,n], gram [n,n] positive definite, E[x x^T] of what enters -> (grid, levels [R,n]).

    The grid comes first, with all of its levels of scales rounded as they are stored, for the least error of the
    nearest levels by the diagonal of `gram`. On it, GPTQ and coordinate descent lower the error of the output,
    (q - target)^T gram (q - target), of every row; a row for which they do no better keeps its nearest levels.
    """
    grid = format.grid(target, np.ascontiguousarray(np.diagonal(gram)))
    scale, offset = grid.spread()
    aim, steps, hessian = (target - offset)[None], scale[None], gram[None]
    found = descend(gptq(aim, hessian, steps, grid.levels), aim, hessian, steps, grid.levels, passes=passes)[0]
    nearest = grid.nearest(target)
    better = _errors(grid.real(found) - target, gram) < _errors(grid.real(nearest) - target, gram)
    return grid, np.where(better[:, None], found, nearest)


def _errors(off: Array, gram: Array) -> Array:
    """off [R,n] -> [R]."""
    return np.asarray(np.einsum("rn,rn->r", off @ gram, off, dtype=np.float64))
