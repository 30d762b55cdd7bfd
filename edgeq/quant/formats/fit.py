"""Codes fitted to what enters a layer, on the very grid that the file holds. Arrays only, no graph."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.formats.blocks import BlockFormat, half
from edgeq.quant.formats.grid import Array, Grid
from edgeq.quant.solve.descent import descend
from edgeq.quant.solve.gptq import gptq
from edgeq.quant.solve.scales import Blocks, refitted_scales


def fit_codes(format: BlockFormat, target: Array, gram: Array, *, passes: int = policy.STORED_PASSES.value,
              refits: int = policy.REFITS.value) -> tuple[Grid, Array]:
    """target [R,n], gram [n,n] positive definite, E[x x^T] of what enters -> (grid, levels [R,n]).

    The grid comes first, with all of its levels of scales rounded as they are stored, for the least error of the
    nearest levels by the diagonal of `gram`. On it, GPTQ and coordinate descent lower the error of the output,
    (q - target)^T gram (q - target), of every row; a row for which they do no better keeps its nearest levels. Where
    each block has a scale of its own, that is then fitted to the levels, and these to it, in turn.
    """
    grid = format.grid(target, np.ascontiguousarray(np.diagonal(gram)))
    nearest, levels = grid.nearest(target), _descended(grid, None, target, gram, passes)
    errors = _errors(grid, nearest, target, gram)
    better = _errors(grid, levels, target, gram) < errors
    levels = np.where(better[:, None], levels, nearest)
    for _ in range(refits if grid.storage.scales is None else 0):
        refitted = _refitted(format, grid, levels, target, gram)
        found = _descended(refitted, levels, target, gram, passes)
        better = _errors(refitted, found, target, gram) < _errors(grid, levels, target, gram)
        grid, levels = _rows_of(format, better, refitted, grid), np.where(better[:, None], found, levels)
    return grid, levels


def _descended(grid: Grid, begin: Array | None, target: Array, gram: Array, passes: int) -> Array:
    """Coordinate descent from levels [R,n], or from those of GPTQ."""
    scale, offset = grid.spread()
    problem = (target - offset)[None], gram[None], scale[None], grid.levels
    return np.asarray(descend(gptq(*problem) if begin is None else begin[None], *problem, passes=passes)[0])


def _refitted(format: BlockFormat, grid: Grid, levels: Array, target: Array, gram: Array) -> Grid:
    """The scales that fit the levels best, in half precision."""
    aim = (target - grid.spread()[1])[None]
    scales = grid.scale.reshape(-1)
    found = refitted_scales(levels[None], aim, gram[None], scales, Blocks(rows=True, size=grid.block),
                            np.full_like(scales, -np.inf))
    return format.read_grid(replace(grid.storage, scale=half(found)), len(target))


def _rows_of(format: BlockFormat, chosen: NDArray[np.bool_], first: Grid, second: Grid) -> Grid:
    """Row by row the scales of the first grid where chosen, else those of the second."""
    a, b = (grid.storage.scale.reshape(len(chosen), -1) for grid in (first, second))
    scale = np.where(chosen[:, None], a, b).reshape(-1)
    return format.read_grid(replace(second.storage, scale=scale), len(chosen))


def _errors(grid: Grid, levels: Array, target: Array, gram: Array) -> Array:
    """Of the output [R]."""
    off = grid.real(levels) - target
    return np.asarray(np.einsum("rn,rn->r", off @ gram, off, dtype=np.float64))
