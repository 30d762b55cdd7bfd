"""Reading and writing at indices, and sampling."""
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from edgeq_converters.coreai.builder import Builder
from edgeq_converters.coreai.words import word
from edgeq_converters.mil.builder import Var
from edgeq_converters.optable import CannotLower


def _index(b: Builder, indices: Any) -> Var:
    """As the int32 that the dialect has for indices."""
    return b.to(b.tensor(indices), np.int32)


@word("gather")
def gather(b: Builder, *, x: Any, indices: Any, axis: int) -> Var:
    """numpy.take: with the axis in front, an index picks a slice."""
    x, at = b.tensor(x), _index(b, indices)
    axis, rank = axis % len(x.shape), len(x.shape)
    front = b.transpose(x, [axis, *(a for a in range(rank) if a != axis)])
    picked = b.call("gather_nd", b.tensor(front), b.reshape(at, [*b.shape(at), 1]))
    places = len(at.shape)
    back = [*range(places, places + axis), *range(places), *range(places + axis, places + rank - 1)]
    return b.transpose(picked, back)


@word("gather_along_axis")
def gather_along_axis(b: Builder, *, x: Any, indices: Any, axis: int) -> Var:
    return b.call("gather_along_axis", b.tensor(x), _index(b, indices), np.int32(axis))


@word("gather_nd")
def gather_nd(b: Builder, *, x: Any, indices: Any, batch_dims: int = 0) -> Var:
    """With batches: the index of the batch goes in front of each tuple."""
    x, at = b.tensor(x), _index(b, indices)
    if batch_dims:
        shape = b.shape(at)
        own = np.indices(shape[:-1])[:batch_dims]
        at = b.op("concat", values=[np.ascontiguousarray(np.moveaxis(own, 0, -1)).astype(np.int32), at],
                  axis=len(shape) - 1)
    return b.call("gather_nd", x, at)


@word("scatter_along_axis")
def scatter_along_axis(b: Builder, *, data: Any, indices: Any, updates: Any, axis: int, mode: str) -> Var:
    x, new = b.matched(data, updates)
    return b.program.typed("scatter_along_axis", b.shape(x), x.dtype, x, _index(b, indices), new, np.int32(axis),
                           b.program.word("scatter_mode", mode))


@word("scatter")
def scatter(b: Builder, *, data: Any, indices: Any, updates: Any, axis: int, mode: str) -> Var:
    """Of one axis; it is asked for vectors only."""
    if len(b.tensor(data).shape) != 1:
        raise CannotLower("scatter of slices")
    return scatter_along_axis(b, data=data, indices=indices, updates=updates, axis=axis, mode=mode)


@word("scatter_nd")
def scatter_nd(b: Builder, *, data: Any, indices: Any, updates: Any, mode: str) -> Var:
    """As a scatter into all elements in a row: the dialect's own scatter_nd knows no mode but the last one wins."""
    x, new = b.matched(data, updates)
    at, shape = _index(b, indices), b.shape(x)
    count = b.shape(at)[-1]
    rest, places = prod(shape[count:]), prod(b.shape(at)[:-1])
    strides = np.array([prod(shape[axis + 1:]) for axis in range(count)], np.int32)
    row = b.op("reduce_sum", x=b.op("mul", x=b.reshape(at, [places, count]), y=strides), axes=[1], keep_dims=True)
    flat = b.op("add", x=row, y=np.arange(rest, dtype=np.int32)[None])
    found = scatter_along_axis(b, data=b.reshape(x, [prod(shape)]), indices=b.reshape(flat, [places * rest]),
                               updates=b.reshape(new, [places * rest]), axis=0, mode=mode)
    return b.reshape(found, shape)


@word("non_zero")
def non_zero(b: Builder, *, x: Any) -> Var:
    return b.call("non_zero", b.tensor(x))


@word("reverse_sequence")
def reverse_sequence(b: Builder, *, x: Any, lengths: Any, seq_axis: int, batch_axis: int) -> Var:
    """Position t of a sequence of length n comes from n - 1 - t, behind it from t."""
    x, sizes = b.tensor(x), _index(b, lengths)
    shape = b.shape(x)
    time = np.arange(shape[seq_axis], dtype=np.int32).reshape([-1 if a == seq_axis else 1 for a in range(len(shape))])
    length = b.reshape(sizes, [dim if a == batch_axis else 1 for a, dim in enumerate(shape)])
    turned = b.op("sub", x=b.op("sub", x=length, y=np.int32(1)), y=time)
    source = b.op("select", cond=b.op("less", x=time, y=length), a=turned, b=time)
    return b.call("gather_along_axis", x, b.tensor(b.broadcast(source, shape)), np.int32(seq_axis))


# ---------------------------------------------------------------------- sampling
@word("resample")
def resample(b: Builder, *, x: Any, coordinates: Any, sampling_mode: str, padding_mode: str, padding_value: float,
             coordinates_mode: str, align_corners: bool) -> Var:
    """x [N,C,H,W] at coordinates [N,h,w,2] of (x, y) in [-1, 1] -> [N,C,h,w], in float32 until the pixels."""
    x, grid = b.tensor(x), b.to(b.tensor(coordinates), np.float32)
    n, _, height, width = b.shape(x)
    h, w = b.shape(grid)[1:3]
    places = []
    for axis, size in ((0, width), (1, height)):
        at = b.reshape(b.slice(grid, [0, 0, 0, axis], [n, h, w, axis + 1]), [n, 1, h * w])
        places.append(_folded(b, _pixels(b, at, size, align_corners), size, padding_mode, align_corners))
    if sampling_mode == "nearest":
        column, row = (b.op("round", x=place) for place in places)
        found = _pixel(b, x, column, row, padding_mode == "constant")
    else:
        found = _bilinear(b, x, places[0], places[1], padding_mode == "constant")
    return b.reshape(found, [*b.shape(x)[:2], h, w])


def _pixels(b: Builder, at: Var, size: int, align_corners: bool) -> Var:
    """[-1, 1] in pixels."""
    scale = (size - 1) / 2 if align_corners else size / 2
    return b.op("add", x=b.op("mul", x=at, y=np.float32(scale)), y=np.float32((size - 1) / 2))


def _folded(b: Builder, at: Var, size: int, padding: str, align_corners: bool) -> Var:
    """Back into the picture, for the modes that do so."""
    top = np.float32(size - 1)
    if padding == "border":
        return b.op("clip", x=at, alpha=np.float32(0), beta=top)
    if padding == "constant":
        return at
    low, span = (np.float32(0), top) if align_corners else (np.float32(-0.5), np.float32(size))
    if span == 0:
        return b.op("mul", x=at, y=np.float32(0))
    away = b.op("mod", x=b.op("abs", x=b.op("sub", x=at, y=low)), y=2 * span)
    back = b.op("minimum", x=away, y=b.op("sub", x=2 * span, y=away))
    return b.op("clip", x=b.op("add", x=back, y=low), alpha=np.float32(0), beta=top)


def _bilinear(b: Builder, x: Var, column: Var, row: Var, zeros: bool) -> Var:
    corners: list[Callable[[Var], Var]] = [lambda v: b.op("floor", x=v),
                                           lambda v: b.op("add", x=b.op("floor", x=v), y=np.float32(1))]
    total = None
    for vertical in corners:
        for horizontal in corners:
            at = horizontal(column), vertical(row)
            near = [b.op("sub", x=np.float32(1), y=b.op("abs", x=b.op("sub", x=place, y=corner)))
                    for place, corner in zip((column, row), at, strict=True)]
            part = b.op("mul", x=_pixel(b, x, at[0], at[1], zeros), y=b.to(b.op("mul", x=near[0], y=near[1]), x.dtype))
            total = part if total is None else b.op("add", x=total, y=part)
    return total


def _pixel(b: Builder, x: Var, column: Var, row: Var, zeros: bool) -> Var:
    """x [N,C,H,W] at whole places [N,1,P] -> [N,C,P]; beyond the picture zeros, or what is at its border."""
    n, c, height, width = b.shape(x)
    inside = [b.op("clip", x=place, alpha=np.float32(0), beta=np.float32(size - 1))
              for place, size in ((column, width), (row, height))]
    flat = b.op("add", x=b.op("mul", x=_index(b, inside[1]), y=np.int32(width)), y=_index(b, inside[0]))
    points = b.shape(column)[2]
    found = b.call("gather_along_axis", b.reshape(x, [n, c, height * width]),
                   b.tensor(b.broadcast(flat, [n, c, points])), np.int32(2))
    if not zeros:
        return found
    kept = b.op("logical_and", x=b.op("equal", x=inside[0], y=column), y=b.op("equal", x=inside[1], y=row))
    return b.op("mul", x=found, y=b.to(kept, x.dtype))
