"""Gathering by indices, and what is made of it."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerChannel, PerTensor, QuantParams
from edgeq_converters.tflite.builder import SMALL_CONSTANT, Builder
from edgeq_converters.tflite.kernels import FLOAT32
from edgeq_converters.tflite.layout import Layout, last, without
from edgeq_converters.tflite.ops_shape import gathered, window
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op


@op("Gather")
def gather(b: Builder, x: Value, index: Value, *, axis: int = 0) -> Value:
    axis %= x.rank
    if index.data is None:
        where = b.read(index, integer=False)
        if where.dtype.kind != "i":
            where = b.cast(where, np.int32)
        # The kernel reads outside the tensor for a negative index; those count from the end in ONNX.
        where = wrapped(b, where, x.shape[axis])
        if x.data is not None and x.grid is not None:
            return b.result(_looked_up(b, x, x.grid, where, axis))
        return b.result(b.through("GATHER", [b.read(x), where], b.shape, axis=axis))
    numbers = np.where(index.data < 0, index.data + x.shape[axis], index.data)
    if x.data is not None:
        return b.result(gathered(b, b.read(x), numbers, axis))
    layout = b.common_layout(x)
    tensor, place = b.read(x, layout), layout.index(axis)
    consecutive = numbers.size and numbers.ndim <= 1 and bool(np.all(np.diff(numbers.ravel()) == 1))
    if consecutive:
        tensor = window(b, tensor, {place: (int(numbers.flat[0]), numbers.size)})
    else:
        tensor = gathered(b, tensor, numbers.reshape(-1), place)
    return b.result(*_split_axis(b, tensor, layout, axis, numbers.shape))


def _looked_up(b: Builder, x: Value, grid: QuantParams, where: Tensor, axis: int) -> Tensor:
    """What lies at computed places of a constant on a grid: integers where they have one scale, else reals.

        int8 table [V,D], scale [V]      =>      CAST(GATHER(table)) * GATHER(scale [V,1])

    DEQUANTIZE of the table, or EMBEDDING_LOOKUP with a scale for each row (its version 4, which tflite-runtime 2.14
    lacks), would do as well; the one holds the whole table in float.
    """
    kind = grid.type
    if kind.bits <= 8 and isinstance(kind.granularity, PerTensor):
        return b.through("GATHER", [b.read(x, integer=True), where], b.shape, axis=axis)
    by_row = kind.granularity == PerChannel(axis) and kind.bits <= 8 and not grid.zero_point.any()
    if not by_row or x.size <= SMALL_CONSTANT:
        return b.through("GATHER", [b.read(x, integer=False), where], b.shape, axis=axis)
    assert x.data is not None
    column = (*[1] * axis, x.shape[axis], *[1] * (x.rank - 1 - axis))
    sizes = (*[1] * axis, *where.shape, *[1] * (x.rank - 1 - axis))
    rows = b.call("GATHER", [b.constant(x.data, name=x.name), where], b.shape, axis=axis)
    scales = b.call("GATHER", [b.constant(grid.scale.reshape(column), name=f"{x.name}_scale"), where], sizes, axis=axis)
    return b.call("MUL", [b.cast(rows, FLOAT32), scales], b.shape)


def _split_axis(b: Builder, tensor: Tensor, layout: Layout, axis: int, shape: Sequence[int]) -> tuple[Tensor, Layout]:
    """One axis becomes several (or none): the tensor after RESHAPE, and its layout."""
    place, extra = layout.index(axis), len(shape)
    out = (*tensor.shape[:place], *shape, *tensor.shape[place + 1:])
    if not extra:
        return b.reshape(tensor, out), without(layout, [axis])
    renumbered = [a if a < axis else a + extra - 1 for a in layout]
    return b.reshape(tensor, out), (*renumbered[:place], *range(axis, axis + extra), *renumbered[place + 1:])


def wrapped(b: Builder, index: Tensor, size: int | NDArray[np.int32]) -> Tensor:
    """Computed indices, negative ones counted from the end. size: of the axis, or of each that the last axis names."""
    zero = b.constant(np.zeros((), index.dtype))
    negative = b.call("LESS", [index, zero], index.shape, dtype=np.bool_, to=None)
    moved = b.through("ADD", [index, b.constant(np.array(size, index.dtype))], index.shape)
    return b.call("SELECT_V2", [negative, moved, index], index.shape)


@op("GatherElements")
def gather_elements(b: Builder, x: Value, index: Value, *, axis: int = 0) -> Value:
    """One GATHER of the flattened input; computed indices are turned into places of it."""
    axis %= x.rank
    if index.data is None:
        return _gather_computed(b, x, index, axis)
    numbers = index.data
    places = list(np.indices(numbers.shape))
    places[axis] = np.where(numbers < 0, numbers + x.shape[axis], numbers)
    flat = np.ravel_multi_index(tuple(places), x.shape)
    made = gathered(b, b.reshape(b.read(x), (x.size,)), flat.ravel(), 0)
    return b.result(b.reshape(made, b.shape))


def _gather_computed(b: Builder, x: Value, index: Value, axis: int) -> Value:
    flat = computed_places(b, index, x.shape, axis)
    return b.result(b.through("GATHER", [b.reshape(b.read(x), (x.size,)), flat], b.shape, axis=0))


def computed_places(b: Builder, index: Value, shape: Sequence[int], axis: int) -> Tensor:
    """Places in the flattened tensor of `shape` of what an index names along one axis, the others being its own.

    place = index * stride of the axis + what the other axes contribute, which is constant.
    """
    numbers = wrapped(b, b.cast(b.read(index, integer=False), np.int32), shape[axis])
    places = list(np.indices(index.shape))
    places[axis][:] = 0
    others = np.ravel_multi_index(tuple(places), tuple(shape)).astype(np.int32)
    stride = np.array(int(np.prod(shape[axis + 1:])), np.int32)
    along = b.call("MUL", [numbers, b.constant(stride)], index.shape)
    return b.call("ADD", [along, b.constant(others)], index.shape)


@op("GatherND")
def gather_nd(b: Builder, x: Value, index: Value, *, batch_dims: int = 0) -> Value:
    """One GATHER of rows of the flattened input."""
    rest = x.shape[batch_dims + index.shape[-1]:]
    table = b.reshape(b.read(x), (-(-x.size // max(1, int(np.prod(rest)))), *rest))
    if index.data is None:
        rows = computed_rows(b, index, x.shape, batch_dims)
        return b.result(b.through("GATHER", [table, rows], b.shape, axis=0))
    known = flat_index(index.data, x.shape, batch_dims)
    return b.result(b.reshape(gathered(b, table, known.ravel(), 0), b.shape))


def flat_index(index: NDArray[np.integer], shape: Sequence[int], batch_dims: int = 0) -> NDArray[np.intp]:
    """index [.., K] into the axes after the batch axes -> row numbers of the value flattened over those axes."""
    depth = index.shape[-1]
    sizes = tuple(shape[:batch_dims + depth])
    parts = [np.where(index[..., k] < 0, index[..., k] + shape[batch_dims + k], index[..., k]) for k in range(depth)]
    batch = np.indices(index.shape[:-1])[:batch_dims]
    return np.asarray(np.ravel_multi_index((*batch, *parts), sizes), np.intp)


def computed_rows(b: Builder, index: Value, shape: Sequence[int], batch_dims: int = 0) -> Tensor:
    """As `flat_index`, of indices that are known at run time: int32."""
    depth = index.shape[-1]
    sizes = np.array(shape[batch_dims:batch_dims + depth], np.int32)
    strides = np.array([int(np.prod(sizes[k + 1:])) for k in range(depth)], np.int32)
    numbers = wrapped(b, b.cast(b.read(index, integer=False), np.int32), sizes)
    scaled = b.call("MUL", [numbers, b.constant(strides)], index.shape)
    rows = b.call("SUM", [scaled, b.ints([index.rank - 1])], index.shape[:-1], keepDims=False)
    if not batch_dims:
        return rows
    batch = np.indices(index.shape[:-1])[:batch_dims]
    before = np.ravel_multi_index(tuple(batch), tuple(shape[:batch_dims])) * int(np.prod(sizes))
    return b.call("ADD", [rows, b.constant(before.astype(np.int32))], rows.shape)


@op("OneHot")
def one_hot(b: Builder, index: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    """index == 0..depth-1, then off or on."""
    count = b.numbers(depth, "depth")[0]
    axis %= len(b.shape)
    numbers = b.read(index)
    if numbers.dtype.kind != "i":
        numbers = b.cast(numbers, np.int32)
    wide = b.reshape(numbers, (*index.shape[:axis], 1, *index.shape[axis:]))
    zero, size = (b.constant(np.array(n, numbers.dtype)) for n in (0, count))
    negative = b.call("LESS", [wide, zero], wide.shape, dtype=np.bool_, to=None)
    wide = b.call("SELECT_V2", [negative, b.through("ADD", [wide, size], wide.shape), wide], wide.shape)
    shape = [1] * len(b.shape)
    shape[axis] = count
    every = b.constant(np.arange(count, dtype=numbers.dtype).reshape(shape))
    hit = b.through("EQUAL", [wide, every], b.shape, dtype=np.bool_, to=None)
    off, on = b.array(values, "values")
    pair = [b.constant(np.array(number, values.dtype)) for number in (on, off)]
    return b.result(b.through("SELECT_V2", [hit, *pair], b.shape))


@op("Trilu")
def triangle(b: Builder, x: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    """The triangle is a constant mask."""
    diagonal = b.numbers(k, "k")[0] if k is not None else 0
    ones = np.ones(x.shape[-2:], np.bool_)
    mask = (np.triu if upper else np.tril)(ones, diagonal).reshape((1,) * (x.rank - 2) + x.shape[-2:])
    tensor = b.read(x)
    if tensor.dtype == np.bool_:
        return b.result(b.call("LOGICAL_AND", [tensor, b.constant(mask)], tensor.shape))
    zero = b.constant(np.zeros((1,) * x.rank, tensor.dtype))
    return b.result(b.through("SELECT_V2", [b.constant(mask), tensor, zero], tensor.shape))


@op("ReverseSequence")
def reverse_sequence(b: Builder, x: Value, lengths: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Value:
    """Constant lengths: one GATHER over the two axes together."""
    counts = b.numbers(lengths, "sequence_lens")
    order = (time_axis, batch_axis, *(a for a in range(x.rank) if a not in (time_axis, batch_axis)))
    tensor = b.read(x, order)
    times, batches = tensor.shape[:2]
    rows = np.arange(times * batches).reshape(times, batches)
    for column, count in enumerate(counts):
        rows[:count, column] = rows[:count, column][::-1]
    flat = b.reshape(tensor, (times * batches, *tensor.shape[2:]))
    return b.result(b.reshape(gathered(b, flat, rows.ravel(), 0), tensor.shape), order)


@op("Hardmax")
def hardmax(b: Builder, x: Value, *, axis: int = -1) -> Value:
    """1 at the first maximum of the axis."""
    axis %= x.rank
    layout = last(x.rank, axis)
    tensor = b.read(x, layout)
    size = tensor.shape[-1]
    best = b.through("ARG_MAX", [tensor, b.ints(np.array(x.rank - 1))], tensor.shape[:-1], dtype=np.int32, to=None,
                     outputType=2)
    wide = b.reshape(best, (*tensor.shape[:-1], 1))
    every = b.constant(np.arange(size, dtype=np.int32).reshape((1,) * (x.rank - 1) + (size,)))
    hit = b.call("EQUAL", [wide, every], tensor.shape, dtype=np.bool_, to=None)
    return b.result(b.cast(hit, np.float32), layout)
