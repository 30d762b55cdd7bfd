"""Convolutions in one to three spatial dimensions, NCHW."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var, Weight
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower

Pads = list[tuple[int, int]]  # (before, after) per spatial axis
SAME: Final = ("SAME_UPPER", "SAME_LOWER")


def window_pads(auto_pad: str, pads: Sequence[int] | None, size: Sequence[int], kernel: Sequence[int],
                strides: Sequence[int], dilations: Sequence[int]) -> Pads:
    """ONNX's auto_pad and pads -> (before, after) per spatial axis."""
    if auto_pad in SAME:
        total = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
                 for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return list(zip(small, large, strict=True) if auto_pad == "SAME_UPPER" else zip(large, small, strict=True))
    count = len(kernel)
    given = [0] * (2 * count) if auto_pad == "VALID" or not pads else list(pads)
    return list(zip(given[:count], given[count:], strict=True))


def spatial(values: Sequence[int] | None, count: int) -> list[int]:
    """Strides or dilations, one for each spatial axis; absent means 1."""
    return list(values) if values else [1] * count


def per_channel(values: NDArray[Any], rank: int) -> NDArray[Any]:
    """values [C] -> [1,C,1,..] of `rank` dimensions."""
    return values.reshape([1, -1] + [1] * (rank - 2))


@op("Conv")
def conv(b: Builder, x: Operand, w: Operand, bias: Operand = None, *, auto_pad: str = "NOTSET",
         dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
         pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Var:
    """x [N,C,..], w [O,C/group,..], bias [O] -> [N,O,..]."""
    kernel = b.shape(w)[2:]
    strides, dilations = spatial(strides, len(kernel)), spatial(dilations, len(kernel))
    amounts = window_pads(auto_pad, pads, b.shape(x)[2:], kernel, strides, dilations)
    packed = b.weight(w, output_axis=0) if isinstance(w, Constant) else Weight(w)
    alone = packed.multiplier is not None or (bias is not None and not isinstance(bias, Constant))
    y = b.op("conv", x=x, weight=packed.var, bias=None if alone else bias, strides=strides, dilations=dilations,
             groups=group, pad_type="custom", pad=[amount for pair in amounts for amount in pair])
    return _finish(b, y, packed.multiplier, bias) if alone else y


def _finish(b: Builder, y: Var, multiplier: NDArray[Any] | None, bias: Operand) -> Var:
    """Factors and bias [C] that the op itself does not take."""
    rank = b.rank(y)
    if multiplier is not None:
        y = b.op("mul", x=y, y=per_channel(multiplier, rank))
    if bias is not None:
        y = b.op("add", x=y, y=b.reshape(bias, [1, -1] + [1] * (rank - 2)) if isinstance(bias, Constant) and
                 bias.params is None else b.op("reshape", x=bias, shape=[1, b.shape(bias)[0]] + [1] * (rank - 2)))
    return y


@op("ConvTranspose")
def conv_transpose(b: Builder, x: Operand, w: Operand, bias: Operand = None, *, auto_pad: str = "NOTSET",
                   dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
                   output_padding: Sequence[int] | None = None, output_shape: Sequence[int] | None = None,
                   pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Var:
    """x [N,C,..], w [C,O/group,..], bias [O] -> [N,O,..]."""
    size, kernel = b.shape(x)[2:], b.shape(w)[2:]
    count = len(kernel)
    strides, dilations = spatial(strides, count), spatial(dilations, count)
    extra = list(output_padding) if output_padding else [0] * count
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)]
    amounts = _transpose_pads(auto_pad, pads, output_shape, size, strides, full, extra)
    if any(before < 0 for before, _ in amounts):
        raise CannotLower("padding before the first element of the output")
    # What output_padding adds at the end is taken from the padding there; beyond it nothing contributes but the bias.
    ends = [after - more for (_, after), more in zip(amounts, extra, strict=True)]
    rest = [(0, 0), (0, 0), *((0, max(-end, 0)) for end in ends)]
    crop = [(before, max(end, 0)) for (before, _), end in zip(amounts, ends, strict=True)]
    packed = b.weight(w, output_axis=1) if isinstance(w, Constant) else Weight(w)
    multiplier = packed.multiplier if packed.multiplier is None else np.tile(packed.multiplier, group)
    alone = multiplier is not None or any(after for _, after in rest) or (
        bias is not None and not isinstance(bias, Constant))
    y = b.op("conv_transpose", x=x, weight=packed.var, bias=None if alone else bias, strides=strides,
             dilations=dilations, groups=group, pad_type="custom", pad=[amount for pair in crop for amount in pair])
    return _finish(b, b.pad(y, rest), multiplier, bias) if alone else y


def _transpose_pads(auto_pad: str, pads: Sequence[int] | None, output_shape: Sequence[int] | None, size: Sequence[int],
                    strides: Sequence[int], full: Sequence[int], extra: Sequence[int]) -> Pads:
    """The part of the full output, (before, after), that is cut off."""
    count = len(full)
    if output_shape is None and auto_pad not in SAME:
        given = [0] * (2 * count) if auto_pad == "VALID" or not pads else list(pads)
        return list(zip(given[:count], given[count:], strict=True))
    wanted = list(output_shape)[-count:] if output_shape else [n * s for n, s in zip(size, strides, strict=True)]
    total = [f + e - n for f, e, n in zip(full, extra, wanted, strict=True)]
    small = [max(t, 0) // 2 for t in total]  # a negative total asks for more than there is: the end is extended
    large = [t - s for t, s in zip(total, small, strict=True)]
    if any(t < 0 for t in total):
        return list(zip(small, large, strict=True))
    return list(zip(small, large, strict=True) if auto_pad == "SAME_UPPER" else zip(large, small, strict=True))


@op("Col2Im")
def col2im(b: Builder, x: Operand, image_shape: Operand, block_shape: Operand, *,
           dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None,
           strides: Sequence[int] | None = None) -> Var:
    """x [N, C * elements of a block, blocks] -> image [N,C,..], overlapping blocks summed.

    A transposed convolution whose kernels each put one element of a block in its place.
    """
    image, block = b.ints(image_shape, "image_shape"), b.ints(block_shape, "block_shape")
    count, elements = len(block), int(np.prod(block))
    strides, dilations = spatial(strides, count), spatial(dilations, count)
    amounts = window_pads("NOTSET", pads, image, block, strides, dilations)
    reach = [n + before + after - (k - 1) * d - 1
             for n, (before, after), k, d in zip(image, amounts, block, dilations, strict=True)]
    blocks = [r // s + 1 for r, s in zip(reach, strides, strict=True)]
    batch, rows = b.shape(x)[:2]
    kernels = np.tile(np.eye(elements, dtype=np.float32), (rows // elements, 1)).reshape(rows, 1, *block)
    return conv_transpose(b, b.reshape(x, (batch, rows, *blocks)), Constant(kernels), group=rows // elements,
                          strides=strides, dilations=dilations, pads=pads,
                          output_padding=[r % s for r, s in zip(reach, strides, strict=True)])
