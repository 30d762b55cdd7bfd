"""Gather and scatter. Reference: .../ops/defs/iOS15/scatter_gather.py and iOS17/scatter_gather.py.

Up to iOS 16 a negative index counts from the end. From iOS 17 on it is out of bounds, and what a device then does is
not defined; the interpreter refuses it, since a program that relies on it works by luck.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeq.verification.mlpackage.optable import CannotRun, OpTable
from edgeq.verification.mlpackage.types import Array

op = OpTable()

_IOS17 = 7


def _checked(indices: Any, size: int, opset: int) -> Array:
    """indices as int64 in [0, size)."""
    result = np.asarray(indices).astype(np.int64)
    lowest = 0 if opset >= _IOS17 else -size
    if result.size and (result.min() < lowest or result.max() >= size):
        raise CannotRun(f"indices from {result.min()} to {result.max()} outside [{lowest}, {size - 1}]")
    return np.where(result < 0, result + size, result)


@op("gather", exact=True)
def gather(x: Array, indices: Any, opset: int, axis: int = 0, batch_dims: int = 0,
           validate_indices: bool = False) -> Array:
    """x [*batch, ..., D, ...], indices [*batch, *index] -> x with the dimension `axis` replaced by [*index]."""
    position = axis % x.ndim
    places = _checked(indices, x.shape[position], opset)
    if batch_dims == 0:
        return np.take(x, places, position)
    batch = x.shape[:batch_dims]
    rows = [np.take(x[index], places[index], position - batch_dims) for index in np.ndindex(*batch)]
    return np.stack(rows).reshape(*batch, *rows[0].shape)


@op("gather_along_axis", exact=True)
def gather_along_axis(x: Array, indices: Array, opset: int, axis: int = 0, validate_indices: bool = False) -> Array:
    return np.take_along_axis(x, _checked(indices, x.shape[axis], opset), axis)


def _coordinates(indices: Array, sizes: tuple[int, ...], opset: int) -> tuple[Array, ...]:
    """indices [..., K] -> K arrays [...], one per dimension."""
    return tuple(_checked(indices[..., k], sizes[k], opset) for k in range(indices.shape[-1]))


@op("gather_nd", exact=True)
def gather_nd(x: Array, indices: Array, opset: int, batch_dims: int = 0, validate_indices: bool = False) -> Array:
    if batch_dims == 0:
        return x[_coordinates(indices, x.shape, opset)]
    batch = x.shape[:batch_dims]
    rows = [x[index][_coordinates(indices[index], x.shape[batch_dims:], opset)] for index in np.ndindex(*batch)]
    return np.stack(rows).reshape(*batch, *rows[0].shape)


_UPDATES: dict[str, Callable[..., None]] = {
    "add": np.add.at, "sub": np.subtract.at, "mul": np.multiply.at, "div": np.divide.at, "max": np.maximum.at,
    "min": np.minimum.at,
}


def _update(data: Array, where: Any, updates: Array, mode: str) -> Array:
    """A copy of data with updates applied; several at one place follow each other, and the last one stands."""
    result = data.copy()
    if mode == "update":
        result[where] = updates
    elif mode in _UPDATES:
        _UPDATES[mode](result, where, updates)
    else:
        raise CannotRun(f"mode '{mode}'")
    return result


@op("scatter")
def scatter(data: Array, indices: Any, updates: Array, opset: int, axis: int = 0, mode: str = "add",
            validate_indices: bool = False) -> Array:
    """indices [n]: slices of data along `axis` that the slices of updates change."""
    position = axis % data.ndim
    where = (slice(None),) * position + (_checked(indices, data.shape[position], opset),)
    return _update(data, where, updates, mode)


@op("scatter_along_axis")
def scatter_along_axis(data: Array, indices: Array, updates: Array, opset: int, axis: int = 0, mode: str = "add",
                       validate_indices: bool = False) -> Array:
    position = axis % data.ndim
    where = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
    where[position] = _checked(indices, data.shape[position], opset)
    return _update(data, tuple(where), updates, mode)


@op("scatter_nd")
def scatter_nd(data: Array, indices: Array, updates: Array, opset: int, mode: str = "add",
               validate_indices: bool = False) -> Array:
    return _update(data, _coordinates(indices, data.shape, opset), updates, mode)
