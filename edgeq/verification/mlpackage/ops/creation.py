"""Ops that make tensors, count, sort and scan. Reference: .../ops/defs/iOS15/tensor_operation.py and later."""
from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.verification.mlpackage.optable import OpTable
from edgeq.verification.mlpackage.types import Array
from edgeq.verification.mlpackage.windows import integers

op = OpTable()


@op("shape")
def shape(x: Array) -> Array:
    return np.array(np.shape(x), np.int32)


@op("fill")
def fill(shape: Any, value: float = 0.0) -> Array:
    return np.full(integers(shape, 0, 0), value)


@op("fill_like")
def fill_like(ref_tensor: Array, value: float = 0.0) -> Array:
    return np.full(np.shape(ref_tensor), value)


@op("range_1d")
def range_1d(end: Any, start: Any, step: Any) -> Array:
    return np.arange(np.asarray(start)[()], np.asarray(end)[()], np.asarray(step)[()])


@op("one_hot", exact=True)
def one_hot(indices: Array, one_hot_vector_size: Any, axis: int = -1, on_value: Any = 1, off_value: Any = 0) -> Array:
    """An index outside the vector switches nothing on."""
    size = int(np.asarray(one_hot_vector_size))
    hot = np.asarray(indices)[..., None] == np.arange(size)
    return np.where(np.moveaxis(hot, -1, axis), on_value, off_value)


@op("non_zero")
def non_zero(x: Array) -> Array:
    return np.argwhere(x)


@op("band_part", exact=True)
def band_part(x: Array, lower: int = -1, upper: int = -1) -> Array:
    row, column = np.ogrid[:x.shape[-2], :x.shape[-1]]
    kept = np.ones(x.shape[-2:], bool)
    if lower >= 0:
        kept &= row - column <= lower
    if upper >= 0:
        kept &= column - row <= upper
    return np.where(kept, x, x.dtype.type(0))


@op("cumsum")
def cumsum(x: Array, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Array:
    source = np.flip(x, axis) if reverse else x
    total = np.cumsum(source, axis, dtype=x.dtype)
    if exclusive:
        total = total - source
    return np.flip(total, axis) if reverse else total


def _order(x: Array, axis: int, ascending: bool) -> Array:
    """Indices that sort x; equal values keep their order."""
    keys = x if ascending else -x.astype(np.float64)
    return np.argsort(keys, axis, kind="stable")


@op("argsort")
def argsort(x: Array, axis: int = -1, ascending: bool = False) -> Array:
    return _order(x, axis, ascending)


@op("topk", exact=True)
def topk(x: Array, k: int = 1, axis: int = -1, ascending: bool = False, sort: bool = True, return_indices: bool = True,
         output_indices_dtype: str = "int32") -> Any:
    """The k largest (smallest if ascending) values and their places; k = -1 takes all. Always sorted."""
    size = x.shape[axis]
    places = np.take(_order(x, axis, ascending), np.arange(size if k == -1 else k), axis)
    values = np.take_along_axis(x, places, axis)
    return (values, places) if return_indices else values
