"""Ops that move data: none of them looks at the numbers, so integers pass as they are."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import SMALL_CONSTANT, Builder, NeedsFloat
from edgeq_converters.tflite.layout import (
    Layout,
    flattens,
    permute,
    reshape_layouts,
    transposed,
)
from edgeq_converters.tflite.narrow_types import carrier, is_narrow, narrowed
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op


@op("Identity")
def same(b: Builder, x: Value) -> Value:
    """A copy, or the conversion between two grids."""
    held = x.grid is not None
    layout = b.common_layout(x)
    b.node.outputs[0].shape = ir.Shape(x.shape)  # a pool may have corrected it, see ops_pool
    return b.result(b.read(x, layout, integer=held), layout)


@op("Dropout")
def dropout(b: Builder, x: Value, ratio: Value | None = None, training: Value | None = None, *,
            seed: int | None = None) -> tuple[Value, ...]:
    """Inactive after training; its mask is all true."""
    kept = same(b, x)
    return (kept,) if len(b.node.outputs) == 1 else (kept, b.known(np.ones(x.shape, np.bool_), 1))


@op("Transpose")
def transpose(b: Builder, x: Value, *, perm: Sequence[int] | None = None) -> Value:
    """A relabelling: the reader that needs another order pays."""
    order = tuple(perm) if perm else tuple(reversed(range(x.rank)))
    if x.data is not None:
        return b.result(b.read(x, order))
    layout = b.common_layout(x)
    views = {transposed(layout, order): b.read(x, layout)}
    if x.grid is not None or not b.integer:
        first, tensor = next(iter(views.items()))
        return b.result(tensor, first)
    return b.renamed(x, views)


@op("Reshape")
def reshape(b: Builder, x: Value, target: Value, *, allowzero: int = 0) -> Value:
    return reshaped(b, x)


@op("Flatten")
def flatten(b: Builder, x: Value, *, axis: int = 1) -> Value:
    return reshaped(b, x)


@op("Squeeze", "Unsqueeze")
def squeeze(b: Builder, x: Value, axes: Value | None = None) -> Value:
    return reshaped(b, x)


def reshaped(b: Builder, x: Value) -> Value:
    """The same elements in the same order; the shape of the result is known."""
    if x.data is not None:
        return b.result(b.reshape(b.read(x), b.shape))
    held = b.common_layout(x)
    needed, made = reshape_layouts(x.shape, b.shape, held)
    order = _scramble(x.shape, b.shape, held) if needed != held and _same_numbers(b, x) else None
    if order is not None:
        return _either_order(b, x, held, needed, made, order)
    return b.result(b.reshape(b.read(x, needed), permute(b.shape, made)), made)


def _same_numbers(b: Builder, x: Value) -> bool:
    """Whether the result holds the floats or integers of x as they are."""
    same = b.grid is None or (x.grid is not None and x.grid.same_grid(b.grid))
    return same and x.dtype == np.float32 and b.integer == (x.grid is not None and b.grid is not None)


def _either_order(b: Builder, x: Value, held: Layout, needed: Layout, made: Layout, order: NDArray[np.intp]) -> Value:
    """A flattened map whose reader decides: a product takes the columns in the `order` that the held layout gives, and
    permutes its weights; any other asks for those of ONNX, for which the map is transposed first.
    """
    integer, out = b.integer, b.shape

    def scrambled() -> Tensor:
        return b.reshape(b.read(x, held, integer=integer), out)

    def make() -> tuple[Layout, Tensor]:
        tensor = b.reshape(b.read(x, needed, integer=integer), permute(out, made))
        return made, b.convert(tensor, x.grid if integer else None)

    return b.later(make, (scrambled, order))


def _scramble(old: Sequence[int], new: Sequence[int], layout: Layout) -> NDArray[np.intp] | None:
    """For [N, C, spatial..] -> [N, F]: the ONNX column of each column of a plain RESHAPE of the tensor, or None."""
    if not flattens(old, new, layout):
        return None
    columns = np.arange(int(np.prod(old[1:], dtype=np.int64))).reshape(old[1:])
    return np.asarray(columns.transpose([axis - 1 for axis in layout[1:]]).ravel(), np.intp)


@op("Concat")
def concat(b: Builder, *xs: Value, axis: int) -> Value:
    """Inputs of the SAME grid; others are requantized to the result's."""
    axis %= len(b.shape)
    xs = tuple(x for x in xs if x.shape[axis])
    layout = b.common_layout(*xs)
    tensors = [b.read(x, layout) for x in xs]
    if b.grid is not None:
        tensors = [b.convert(tensor, b.grid) for tensor in tensors]
    out = permute(b.shape, layout)
    if len(tensors) == 1:
        return b.result(tensors[0], layout)
    return b.result(b.through("CONCATENATION", tensors, out, axis=layout.index(axis)), layout)


@op("Split")
def split(b: Builder, x: Value, split: Value | None = None, *, axis: int = 0,
          num_outputs: int | None = None) -> tuple[Value, ...]:
    axis %= x.rank
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    sizes = [int(output.shape[axis]) for output in b.node.outputs]  # type: ignore[index,arg-type]
    return tuple(b.result(piece, layout, index) for index, piece in enumerate(pieces(b, tensor, layout.index(axis),
                                                                                     sizes)))


def pieces(b: Builder, tensor: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
    """Consecutive parts along a tensor axis. SLICEs: SPLIT_V exists for fewer types and no faster."""
    starts = np.cumsum([0, *sizes])
    return [window(b, tensor, {axis: (int(start), size)}) for start, size in zip(starts, sizes, strict=False)]


def window(b: Builder, tensor: Tensor, parts: dict[int, tuple[int, int]]) -> Tensor:
    """Tensor axis -> (begin, size); the other axes are kept whole."""
    begin, size = [0] * tensor.rank, list(tensor.shape)
    for axis, (first, count) in parts.items():
        begin[axis], size[axis] = first, count
    if tuple(size) == tensor.shape:
        return tensor
    return b.through("SLICE", [tensor, b.ints(begin), b.ints(size)], size)


@op("Slice")
def slice_(b: Builder, x: Value, starts: Value, ends: Value, axes: Value | None = None,
           steps: Value | None = None) -> Value:
    first, last_ = b.numbers(starts, "starts"), b.numbers(ends, "ends")
    which = [axis % x.rank for axis in (b.numbers(axes, "axes") if axes else range(len(first)))]
    stride = b.numbers(steps, "steps") if steps else [1] * len(first)
    ranges = {axis: range(*slice(start, stop, step).indices(x.shape[axis]))
              for axis, start, stop, step in zip(which, first, last_, stride, strict=True)}
    layout = b.common_layout(x)
    return b.result(strided(b, b.read(x, layout), {layout.index(a): r for a, r in ranges.items()}), layout)


def strided(b: Builder, tensor: Tensor, ranges: dict[int, range]) -> Tensor:
    """Tensor axis -> the indices kept; negative steps too."""
    if all(r.step == 1 for r in ranges.values()):
        return window(b, tensor, {axis: (r.start, len(r)) for axis, r in ranges.items()})
    begin, end, step, out = [0] * tensor.rank, list(tensor.shape), [1] * tensor.rank, list(tensor.shape)
    end_mask = 0
    for axis, r in ranges.items():
        begin[axis], end[axis], step[axis], out[axis] = r.start, r.stop, r.step, len(r)
        if r.stop < 0:  # "before the first element" can only be said by the mask
            end[axis], end_mask = 0, end_mask | 1 << axis
    if 0 in out:
        raise CannotLower("its result is empty")
    return b.through("STRIDED_SLICE", [tensor, b.ints(begin), b.ints(end), b.ints(step)], out, endMask=end_mask)


@op("Pad")
def pad(b: Builder, x: Value, pads: Value, constant_value: Value | None = None, axes: Value | None = None, *,
        mode: str = "constant") -> Value:
    """PAD (with the zero point on integers), PADV2 for another number, MIRROR_PAD; negative pads crop first."""
    amounts = b.numbers(pads, "pads")
    which = [axis % x.rank for axis in (b.numbers(axes, "axes") if axes else range(x.rank))]
    both = {axis: (amounts[i], amounts[i + len(which)]) for i, axis in enumerate(which)}
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    crop = {layout.index(a): range(max(0, -lo), x.shape[a] - max(0, -hi)) for a,
            (lo, hi) in both.items() if lo < 0 or hi < 0}
    tensor = strided(b, tensor, crop)
    wanted = [both.get(axis, (0, 0)) for axis in layout]
    wanted = [(max(0, lo), max(0, hi)) for lo, hi in wanted]
    if mode == "constant" and constant_value is not None and constant_value.data is None:
        tensor = _holding(b, tensor, None)
        fill = b.reshape(b.read(constant_value, integer=False), ())
        out = [size + sum(pair) for size, pair in zip(tensor.shape, wanted, strict=True)]
        return b.result(b.through("PADV2", [tensor, b.ints(np.array(wanted)), fill], out), layout)
    if mode == "constant":
        number = 0 if constant_value is None else b.array(constant_value, "value").ravel()[0]
        return b.result(padded(b, _holding(b, tensor, number), wanted, number), layout)
    if mode == "reflect" and all(max(pair) < size for pair, size in zip(wanted, tensor.shape, strict=True)):
        out = [size + sum(pair) for size, pair in zip(tensor.shape, wanted, strict=True)]
        return b.result(b.through("MIRROR_PAD", [tensor, b.ints(np.array(wanted))], out), layout)  # mode 0: REFLECT
    for axis, (lo, hi) in enumerate(wanted):
        tensor = _mirrored(b, tensor, axis, lo, hi, mode)
    return b.result(tensor, layout)


def _holding(b: Builder, tensor: Tensor, number: Any) -> Tensor:
    """The tensor on a grid that holds what is put beside it (None: a number that the run decides): its own or, where
    that ends before, the result's.

    Raises:
        NeedsFloat: there is none.
    """
    if tensor.grid is None:
        return tensor
    first, last = tensor.grid.real_range()
    half = float(tensor.grid.scale) / 2
    if number is not None and first - half <= number <= last + half:
        return tensor
    if b.grid is None:
        raise NeedsFloat("its value lies outside the grid of its input")
    return b.convert(tensor, b.grid)


def padded(b: Builder, tensor: Tensor, pads: Sequence[tuple[int, int]], number: Any = 0) -> Tensor:
    """pads: (before, after) per tensor axis."""
    if not any(sum(pair) for pair in pads):
        return tensor
    out = [size + sum(pair) for size, pair in zip(tensor.shape, pads, strict=True)]
    amounts = b.ints(np.array(pads).reshape(-1, 2))
    if not number:
        return b.through("PAD", [tensor, amounts], out)
    if tensor.grid is not None:
        value = b.constant(np.array(_on_grid(tensor, float(number)), tensor.dtype), tensor.grid)
    else:
        value = b.constant(np.array(number, tensor.dtype))
    return b.through("PADV2", [tensor, amounts, value], out)


def _on_grid(tensor: Tensor, number: float) -> int:
    assert tensor.grid is not None
    return int(np.clip(np.rint(number / float(tensor.grid.scale)) + int(tensor.grid.zero_point),
                       *tensor.grid.type.range))


def _mirrored(b: Builder, tensor: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """edge, wrap and more than one mirror image along one axis: a GATHER."""
    if not before and not after:
        return tensor
    index = np.pad(np.arange(tensor.shape[axis]), (before, after), mode=mode)  # type: ignore[call-overload]
    return gathered(b, tensor, index, axis)


def gathered(b: Builder, tensor: Tensor, index: NDArray[Any], axis: int) -> Tensor:
    """index: constant, of any rank, no negative numbers."""
    out = (*tensor.shape[:axis], *index.shape, *tensor.shape[axis + 1:])
    return b.through("GATHER", [tensor, b.ints(index)], out, axis=axis)


@op("Expand")
def expand(b: Builder, x: Value, target: Value | None = None) -> Value:
    return b.result(*broadcast(b, x, b.shape))


def broadcast(b: Builder, x: Value, shape: Sequence[int]) -> tuple[Tensor, Layout]:
    """The value spread over `shape` (ONNX order) -> (tensor, layout)."""
    x = b.aligned(x, len(shape))
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    out = permute(tuple(shape), layout)
    if tensor.shape == out:
        return tensor, layout
    return b.through("BROADCAST_TO", [tensor, b.ints(out)], out), layout


@op("Tile")
def tile(b: Builder, x: Value, repeats: Value) -> Value:
    layout = b.common_layout(x)
    counts = b.ints(permute(b.numbers(repeats, "repeats"), layout))
    return b.result(b.through("TILE", [b.read(x, layout), counts], permute(b.shape, layout)), layout)


@op("DepthToSpace")
def depth_to_space(b: Builder, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """[N, C*b*b, H, W] -> [N, C, H*b, W*b]. The kernel's channel order is DCR; CRD is brought to it by one
    TRANSPOSE."""
    n, depth, h, w = x.shape
    tensor = b.read(x, (0, 2, 3, 1))
    channels = depth // blocksize**2
    if mode == "CRD" and channels > 1:
        split = b.reshape(tensor, (n * h, w, channels, blocksize**2))
        tensor = b.reshape(b.transpose(split, (0, 1, 3, 2)), (n, h, w, depth))
    out = (n, h * blocksize, w * blocksize, channels)
    return b.result(b.through("DEPTH_TO_SPACE", [tensor], out, blockSize=blocksize), (0, 2, 3, 1))


@op("SpaceToDepth")
def space_to_depth(b: Builder, x: Value, *, blocksize: int) -> Value:
    n, c, h, w = x.shape
    out = (n, h // blocksize, w // blocksize, c * blocksize**2)
    tensor = b.through("SPACE_TO_DEPTH", [b.read(x, (0, 2, 3, 1))], out, blockSize=blocksize)
    return b.result(tensor, (0, 2, 3, 1))


@op("Cast")
def cast(b: Builder, x: Value, *, to: int, saturate: int = 1) -> Value:
    return converted(b, x, saturate)


def converted(b: Builder, x: Value, saturate: int) -> Value:
    """The value in the type that the graph gives the result. To bool: whether it is not zero."""
    out = b.node.outputs[0].dtype
    assert out is not None
    wanted = carrier(out)
    if x.data is not None and x.dtype == np.float16 and wanted == np.float32:
        return replace(b.known(x.data.astype(np.float32)), half=x.size > SMALL_CONSTANT)
    layout = b.common_layout(x)
    tensor = b.read(x, layout, integer=False)
    if is_narrow(out):
        return b.result(narrowed(b, tensor, out, bool(saturate)), layout)
    if wanted == np.bool_ and tensor.dtype != np.bool_:
        zero = b.constant(np.zeros((), tensor.dtype))
        return b.result(b.through("NOT_EQUAL", [tensor, zero], tensor.shape, dtype=np.bool_), layout)
    return b.result(b.cast(tensor, wanted), layout)


@op("CastLike")
def cast_like(b: Builder, x: Value, like: Value, *, saturate: int = 1) -> Value:
    return converted(b, x, saturate)


@op("Shape")
def shape_of(b: Builder, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    return b.known(np.array(x.shape[start:end], np.int64))


@op("Size")
def size_of(b: Builder, x: Value) -> Value:
    return b.known(np.array(x.size, np.int64))


@op("Constant")
def constant(b: Builder, *, value: Any = None, value_float: float | None = None, value_int: int | None = None,
             value_floats: Sequence[float] | None = None, value_ints: Sequence[int] | None = None) -> Value:
    if value is not None:
        return b.known(value.numpy())
    reals = value_float if value_float is not None else value_floats
    if reals is not None:
        return b.known(np.array(reals, np.float32))
    return b.known(np.array(value_int if value_int is not None else value_ints, np.int64))


@op("ConstantOfShape")
def constant_of_shape(b: Builder, shape: Value, *, value: Any = None) -> Value:
    fill = np.zeros(1, np.float32) if value is None else value.numpy()
    return b.known(np.full(b.shape, fill.ravel()[0], fill.dtype))



@op("CenterCropPad")
def center_crop_pad(b: Builder, x: Value, shape: Value, *, axes: Sequence[int] | None = None) -> Value:
    """Each axis is cropped or padded with zeros to its size, the odd element behind."""
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    wanted = permute(b.shape, layout)
    crop, pads = {}, []
    for axis, (size, target) in enumerate(zip(tensor.shape, wanted, strict=True)):
        start = max(0, size - target) // 2
        crop[axis] = (start, min(size, target))
        before = max(0, target - size) // 2
        pads.append((before, max(0, target - size) - before))
    return b.result(padded(b, window(b, tensor, crop), pads), layout)


@op("EyeLike")
def eye_like(b: Builder, x: Value, *, dtype: int | None = None, k: int = 0) -> Value:
    wanted = b.node.outputs[0].dtype
    assert wanted is not None
    return b.known(np.eye(x.shape[0], x.shape[1], k=k, dtype=wanted.numpy()))


@op("Range")
def range_(b: Builder, start: Value, limit: Value, delta: Value) -> Value:
    first, step = b.array(start, "start").ravel()[0], b.array(delta, "delta").ravel()[0]
    return b.known((first + np.arange(b.shape[0]) * step).astype(start.dtype))
