"""Convolutions over one to three spatial dimensions, as matrix products. Reference: .../ops/defs/iOS15/conv.py."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgeq.verification.mlpackage.functions import per_channel
from edgeq.verification.mlpackage.optable import CannotRun, OpTable
from edgeq.verification.mlpackage.types import Array
from edgeq.verification.mlpackage.windows import Window, integers, last, make_window, pad_spatial

op = OpTable()

# Values that are unrolled at a time (4 MB of float32): enough for the matrix product, small enough for the cache.
_UNROLLED = 1 << 20


@op("conv")
def conv(x: Array, weight: Array, bias: Array | None = None, strides: Any = None, pad_type: str = "valid",
         pad: Any = None, dilations: Any = None, groups: int = 1) -> Array:
    """x [N, C, *in], weight [O, C/groups, *kernel], bias [O] -> [N, O, *out]."""
    sizes = x.shape[2:]
    window = make_window(sizes, weight.shape[2:], strides=strides, dilations=dilations, pad_type=pad_type, pad=pad)
    positions = window.positions(sizes)
    padded = pad_spatial(x, window.pads)
    if groups > 1 and weight.shape[1] == 1:
        result = _depthwise(padded, weight, window, positions, groups)
    else:
        result = _grouped(padded, weight, window, positions, groups)
    if bias is not None:
        result += per_channel(bias, result.ndim)
    return result


def _depthwise(padded: Array, weight: Array, window: Window, positions: tuple[int, ...], groups: int) -> Array:
    """One input channel per group: a product with one input element per tap, over all channels at once."""
    batch, multiplier = padded.shape[0], weight.shape[0] // groups
    kernel = weight.reshape(groups, multiplier, *window.kernel)
    ones = (1,) * len(positions)
    result = np.zeros((batch, groups, multiplier, *positions), padded.dtype)
    for index, view in window.taps(padded, positions):
        result += view[:, :, None] * kernel[last(index)].reshape(groups, multiplier, *ones)
    return result.reshape(batch, groups * multiplier, *positions)


def _grouped(padded: Array, weight: Array, window: Window, positions: tuple[int, ...], groups: int) -> Array:
    """Unroll the windows of some rows of the output at a time and multiply by the kernel as a matrix."""
    batch, outputs = padded.shape[0], weight.shape[0]
    matrix = weight.reshape(groups, outputs // groups, -1)
    unrolled_row = groups * matrix.shape[2] * int(np.prod(positions[1:]))
    rows = max(1, min(positions[0], _UNROLLED // max(1, unrolled_row)))
    result = np.empty((batch, outputs, *positions), padded.dtype)
    for image in range(batch):
        windows = _windows(padded[image], window, positions)
        for row in range(0, positions[0], rows):
            part = windows[(slice(None),) * (1 + len(positions)) + (slice(row, row + rows),)]
            columns = part.reshape(groups, matrix.shape[2], -1)
            product = np.matmul(matrix, columns)
            result[image, :, row:row + rows] = product.reshape(outputs, -1, *positions[1:])
    return result


def _windows(image: Array, window: Window, positions: tuple[int, ...]) -> Array:
    """image [C, *spatial] -> view [C, *kernel, *positions]."""
    steps = image.strides[1:]
    over_kernel = tuple(step * dilation for step, dilation in zip(steps, window.dilations, strict=True))
    over_positions = tuple(step * stride for step, stride in zip(steps, window.strides, strict=True))
    shape, strides = (image.shape[0], *window.kernel, *positions), (image.strides[0], *over_kernel, *over_positions)
    return as_strided(image, shape, strides, writeable=False)


@op("conv_transpose")
def conv_transpose(x: Array, weight: Array, bias: Array | None = None, pad: Any = None, output_shape: Any = None,
                   pad_type: str = "valid", strides: Any = None, dilations: Any = None, groups: int = 1) -> Array:
    """x [N, C, *in], weight [C, O/groups, *kernel], bias [O] -> [N, O, *out]."""
    batch, channels, *sizes = x.shape
    rank = len(sizes)
    window = Window(weight.shape[2:], integers(strides, 1, rank), integers(dilations, 1, rank), ((0, 0),) * rank)
    outputs = weight.shape[1] * groups
    full = tuple((size - 1) * stride + extent for size, stride, extent
                 in zip(sizes, window.strides, window.extents, strict=True))
    crops = _crops(full, sizes, window, pad_type, integers(pad, 0, 2 * rank), output_shape)
    # Each input element paints the kernel, times its value, onto the full output.
    matrix = weight.reshape(groups, channels // groups, -1).transpose(0, 2, 1)
    painted = np.matmul(matrix, x.reshape(batch, groups, channels // groups, -1))
    painted = painted.reshape(batch, outputs, *window.kernel, *sizes)
    room = tuple(max(size, start + length) for size, (start, length) in zip(full, crops, strict=True))
    canvas = np.zeros((batch, outputs, *room), x.dtype)
    for index in np.ndindex(*window.kernel):
        canvas[window.tap(index, sizes)] += painted[(slice(None), slice(None), *index)]
    result = canvas[last(slice(start, start + length) for start, length in crops)]
    return result if bias is None else result + per_channel(bias, x.ndim)


def _crops(full: tuple[int, ...], sizes: list[int], window: Window, pad_type: str, pad: tuple[int, ...],
           output_shape: Any) -> list[tuple[int, int]]:
    """Where the output begins in the full one and how long it is, per dimension.

    A given output shape only changes the length: the surplus (torch's output_padding) is at the end.
    """
    wanted = None if output_shape is None else [int(size) for size in output_shape[2:]]
    if pad_type == "valid":
        lengths, starts = list(full), [0] * len(full)
    elif pad_type == "custom":
        starts = list(pad[::2])
        lengths = [size - before - after for size, before, after in zip(full, pad[::2], pad[1::2], strict=True)]
    elif pad_type == "same":
        lengths = wanted or [size * stride for size, stride in zip(sizes, window.strides, strict=True)]
        starts = [max(0, size - length) // 2 for size, length in zip(full, lengths, strict=True)]
    else:
        raise CannotRun(f"pad_type '{pad_type}'")
    return list(zip(starts, wanted or lengths, strict=True))
