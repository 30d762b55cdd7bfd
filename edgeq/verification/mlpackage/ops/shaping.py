"""Ops that move data and change shapes. Reference: .../ops/defs/iOS15/tensor_{transformation,operation}.py."""
from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.verification.mlpackage.optable import CannotRun, OpTable
from edgeq.verification.mlpackage.types import Array
from edgeq.verification.mlpackage.windows import integers

op = OpTable()


def as_tuple(values: Any) -> tuple[Any, ...]:
    """A variadic argument, which is no tuple where it has one element."""
    return values if isinstance(values, tuple) else (values,)


@op("reshape", exact=True)
def reshape(x: Array, shape: Any) -> Array:
    """0 keeps the dimension of x, counted from the right (iOS 17; the same as iOS 15 where the ranks agree)."""
    wanted = list(integers(shape, 0, 0))
    for position, size in enumerate(wanted):
        if size == 0:
            source = x.ndim - (len(wanted) - position)
            wanted[position] = x.shape[source] if source >= 0 else 1
    return x.reshape(wanted)


@op("reshape_like", exact=True)
def reshape_like(x: Array, ref_tensors: Any, begins: Any, ends: Any, end_masks: Any) -> Array:
    shape: list[int] = []
    for reference, begin, end, to_the_end in zip(*map(as_tuple, (ref_tensors, begins, ends, end_masks)), strict=True):
        shape += reference.shape[int(begin):None if to_the_end else int(end)]
    return x.reshape(shape)


@op("flatten2d", exact=True)
def flatten2d(x: Array, axis: int = 1) -> Array:
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


@op("transpose", exact=True)
def transpose(x: Array, perm: Any) -> Array:
    return x.transpose(integers(perm, 0, 0))


@op("expand_dims", exact=True)
def expand_dims(x: Array, axes: Any) -> Array:
    return np.expand_dims(x, integers(axes, 0, 0))


@op("squeeze", exact=True)
def squeeze(x: Array, axes: Any = None) -> Array:
    """Dimensions other than 1 are left alone, as in torch."""
    over = range(x.ndim) if axes is None else integers(axes, 0, 0)
    return x.squeeze(tuple(axis for axis in over if x.shape[axis] == 1))


@op("concat", exact=True)
def concat(values: Any, axis: int, interleave: bool = False) -> Array:
    parts = [np.atleast_1d(part) for part in as_tuple(values)]
    if not interleave:
        return np.concatenate(parts, axis)
    position = axis % parts[0].ndim
    stacked = np.stack(parts, position + 1)
    shape = list(parts[0].shape)
    shape[position] *= len(parts)
    return stacked.reshape(shape)


@op("stack", exact=True)
def stack(values: Any, axis: int) -> Array:
    return np.stack(as_tuple(values), axis)


@op("split", exact=True)
def split(x: Array, axis: int, num_splits: int | None = None, split_sizes: Any = None) -> tuple[Array, ...]:
    if split_sizes is None:
        return tuple(np.split(x, int(num_splits or 1), axis))
    return tuple(np.split(x, np.cumsum(integers(split_sizes, 0, 0))[:-1], axis))


@op("tile", exact=True)
def tile(x: Array, reps: Any) -> Array:
    return np.tile(x, integers(reps, 1, x.ndim))


@op("reverse", exact=True)
def reverse(x: Array, axes: Any = None) -> Array:
    return np.flip(x, None if axes is None else integers(axes, 0, 0))


@op("reverse_sequence", exact=True)
def reverse_sequence(x: Array, lengths: Any, seq_axis: int = 0, batch_axis: int = 0) -> Array:
    moved = np.moveaxis(x, (batch_axis, seq_axis), (0, 1))
    result = moved.copy()
    for row, length in enumerate(integers(lengths, 0, 0)):
        result[row, :length] = moved[row, :length][::-1]
    return np.moveaxis(result, (0, 1), (batch_axis, seq_axis))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@op("pad", exact=True)
def pad(x: Array, pad: Any, mode: str = "constant", constant_val: float = 0.0) -> Array:
    """pad [2 * N]: before and after each of the last N dimensions."""
    pairs = np.reshape(np.asarray(pad, np.int64), (-1, 2))
    widths = [(0, 0)] * (x.ndim - len(pairs)) + [(int(before), int(after)) for before, after in pairs]
    if mode not in _PAD_MODES:
        raise CannotRun(f"mode '{mode}'")
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, _PAD_MODES[mode])  # type: ignore[call-overload,no-any-return]


def slices(begin: Any, end: Any, stride: Any, begin_mask: Any, end_mask: Any, squeeze_mask: Any) -> tuple[slice | int,
           ...]:
    """The index of slice_by_index and slice_update: a mask drops its bound, a squeezed dimension takes one element."""
    begins, ends = integers(begin, 0, 0), integers(end, 0, 0)
    rank = len(begins)
    rows = zip(begins, ends, integers(stride, 1, rank), integers(begin_mask, 0, rank), integers(end_mask, 0, rank),
               integers(squeeze_mask, 0, rank), strict=True)
    index: list[slice | int] = []
    for first, last, step, no_first, no_last, squeezed in rows:
        bounds = slice(None if no_first else first, None if no_last else last, step)
        index.append(bounds if not squeezed else 0 if no_first else first)
    return tuple(index)


@op("slice_by_index", exact=True)
def slice_by_index(x: Array, begin: Any, end: Any, stride: Any = None, begin_mask: Any = None, end_mask: Any = None,
                   squeeze_mask: Any = None) -> Array:
    return np.asarray(x[slices(begin, end, stride, begin_mask, end_mask, squeeze_mask)])


@op("slice_update", exact=True)
def slice_update(x: Array, update: Array, begin: Any, end: Any, stride: Any = None, begin_mask: Any = None,
                 end_mask: Any = None, squeeze_mask: Any = None) -> Array:
    result = x.copy()
    result[slices(begin, end, stride, begin_mask, end_mask, squeeze_mask)] = update
    return result


@op("slice_by_size", exact=True)
def slice_by_size(x: Array, begin: Any, size: Any) -> Array:
    """A size of -1 takes what is left."""
    rows = zip(integers(begin, 0, 0), integers(size, 0, 0), x.shape, strict=True)
    return x[tuple(slice(first % full if first < 0 else first, full if count == -1 else (first % full) + count)
                   for first, count, full in rows)]


@op("sliding_windows", exact=True)
def sliding_windows(x: Array, axis: int, size: int, stride: int = 1) -> Array:
    position = axis % x.ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, size, position)
    return np.moveaxis(windows[(slice(None),) * position + (slice(None, None, stride),)], -1, position + 1)


@op("depth_to_space", exact=True)
def depth_to_space(x: Array, block_size: int) -> Array:
    """x [N, b*b*C, H, W] -> [N, C, H*b, W*b], the block outermost in the channel (TensorFlow's order)."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


@op("space_to_depth", exact=True)
def space_to_depth(x: Array, block_size: int) -> Array:
    """The inverse of depth_to_space."""
    n, c, h, w = x.shape
    b = block_size
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@op("pixel_shuffle", exact=True)
def pixel_shuffle(x: Array, upscale_factor: int) -> Array:
    """x [N, C*f*f, H, W] -> [N, C, H*f, W*f], the block innermost in the channel (torch's order)."""
    n, c, h, w = x.shape
    f = upscale_factor
    return x.reshape(n, c // (f * f), f, f, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // (f * f), h * f, w * f)


@op("pixel_unshuffle", exact=True)
def pixel_unshuffle(x: Array, downscale_factor: int) -> Array:
    """The inverse of pixel_shuffle."""
    n, c, h, w = x.shape
    f = downscale_factor
    return x.reshape(n, c, h // f, f, w // f, f).transpose(0, 1, 3, 5, 2, 4).reshape(n, c * f * f, h // f, w // f)


@op("space_to_batch", exact=True)
def space_to_batch(x: Array, block_shape: Any, paddings: Any) -> Array:
    """x [N, C, H, W] -> [bh*bw*N, C, H/bh, W/bw] after padding, the block outermost (TensorFlow's order)."""
    bh, bw = integers(block_shape, 0, 0)
    padded = np.pad(x, [(0, 0), (0, 0), *(tuple(row) for row in np.asarray(paddings).tolist())])
    n, c, h, w = padded.shape
    blocks = padded.reshape(n, c, h // bh, bh, w // bw, bw)
    return blocks.transpose(3, 5, 0, 1, 2, 4).reshape(bh * bw * n, c, h // bh, w // bw)


@op("batch_to_space", exact=True)
def batch_to_space(x: Array, block_shape: Any, crops: Any) -> Array:
    """The inverse of space_to_batch."""
    bh, bw = integers(block_shape, 0, 0)
    (top, bottom), (left, right) = np.asarray(crops).tolist()
    n, c, h, w = x.shape
    images = n // (bh * bw)
    full = x.reshape(bh, bw, images, c, h, w).transpose(2, 3, 4, 0, 5, 1).reshape(images, c, h * bh, w * bw)
    return full[:, :, top:h * bh - bottom, left:w * bw - right]


@op("crop", exact=True)
def crop(x: Array, crop_height: Any, crop_width: Any) -> Array:
    (top, bottom), (left, right) = integers(crop_height, 0, 2), integers(crop_width, 0, 2)
    return x[..., top:x.shape[-2] - bottom, left:x.shape[-1] - right]
