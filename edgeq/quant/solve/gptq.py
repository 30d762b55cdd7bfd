"""GPTQ: round column by column, and let the columns that are still free make up for it. Pure numpy."""
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.formats.grid import Levels

Array = NDArray[np.float32]


def gptq(target: Array, hessian: Array, scale: Array, levels: Levels) -> Array:
    """target, scale [G,R,n], hessian [G,n,n] positive definite -> levels [G,R,n].

    A level stands for scale * level, where a scale may be negative, or 0 for weights that are all 0. Of a grid that has
    offsets, give the target without them.

    Columns with the largest diagonal come first. The scales do not depend on that order ("static groups").
    Frantar et al. 2022, arXiv:2210.17323, algorithm 1.
    """
    order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2).astype(np.float64), axis=1, kind="stable")
    # One column of all rows at a time: they lie side by side in memory [G,n,R].
    columns, scale = (np.take_along_axis(np.swapaxes(of, 1, 2), order[:, :, None], 1) for of in (target, scale))
    sorted_hessian = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
    factor = _inverse_factor(sorted_hessian)
    integers = np.empty_like(columns)
    size = columns.shape[1]
    for start in range(0, size, policy.GPTQ_BLOCK.value):
        stop = min(start + policy.GPTQ_BLOCK.value, size)
        errors = np.zeros((len(columns), stop - start, columns.shape[2]), np.float32)
        for j in range(start, stop):
            integers[:, j] = levels.nearest(in_steps(columns[:, j], scale[:, j]))
            off = (columns[:, j] - integers[:, j] * scale[:, j]) / factor[:, j, j][:, None]
            columns[:, j + 1:stop] -= off[:, None, :] * factor[:, j, j + 1:stop, None]
            errors[:, j - start] = off
        columns[:, stop:] -= np.swapaxes(factor[:, start:stop, stop:], 1, 2) @ errors
    found = np.take_along_axis(integers, np.argsort(order, axis=1)[:, :, None], 1)
    return np.ascontiguousarray(np.swapaxes(found, 1, 2))


def in_steps(values: Array, scale: Array) -> Array:
    """values / scale, 0 where the scale is."""
    return np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)


def _inverse_factor(hessian: Array) -> Array:
    """Upper triangular U [G,n,n] with U^T U the inverse of `hessian`.

    Of the mirrored matrix P H P = L L^T, U = P L^-1 P: one factorization, no inverse of the whole.
    """
    mirrored = np.ascontiguousarray(hessian[:, ::-1, ::-1], np.float64)
    inverse = _inverse_of_lower(np.linalg.cholesky(mirrored))
    return np.ascontiguousarray(inverse[:, ::-1, ::-1], np.float32)


def _inverse_of_lower(factor: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Of lower triangles [G,n,n], by halves: an eighth of what solving for the unit matrix takes."""
    size = factor.shape[1]
    if size <= policy.TRIANGLE.value:
        return np.linalg.inv(factor)
    half = size // 2
    first, last = _inverse_of_lower(factor[:, :half, :half]), _inverse_of_lower(factor[:, half:, half:])
    found = np.zeros_like(factor)
    found[:, :half, :half], found[:, half:, half:] = first, last
    found[:, half:, :half] = -last @ (factor[:, half:, :half] @ first)
    return found
