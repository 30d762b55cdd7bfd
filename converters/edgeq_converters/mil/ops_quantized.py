"""Integers that the graph itself computes with: always in float32, which holds every one up to 2^24."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq_converters.mil.builder import Builder, Constant, Operand, Raw, Var
from edgeq_converters.mil.ops_cast import SMALL_FLOATS, small_float
from edgeq_converters.mil.ops_conv import spatial, window_pads
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower

# integer type -> its smallest and largest number
RANGES: Final = {
    ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255), ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535), ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15),
}


def _single(b: Builder, operand: Operand) -> Any:
    """The numbers of an operand as float32."""
    if isinstance(operand, Constant):
        return Raw(operand.real.astype(np.float32))
    given = b.singles.get(operand.name)  # an input is float32 still
    return b.cast(operand, "fp32") if given is None else given


def _spread(b: Builder, operand: Operand, shape: Sequence[int], axis: int, block_size: int) -> Any:
    """A scale or zero point as float32 that broadcasts with `shape`; one for a block is repeated over it."""
    if isinstance(operand, Constant):
        data = operand.real.astype(np.float32)
        if block_size:
            repeated = np.repeat(data, block_size, axis)
            return Raw(np.take(repeated, np.arange(shape[axis]), axis))
        wanted = () if data.size == 1 else [-1 if a == axis else 1 for a in range(len(shape))]
        return Raw(data.reshape(wanted)[()])
    if int(np.prod(b.shape(operand))) != 1:
        raise CannotLower("scales of several channels that are computed at run time")
    return b.cast(b.reshape(operand, ()), "fp32")


@op("Quantize")
def quantize(b: Builder, x: Operand, scale: Operand, zero_point: Operand = None, *, axis: int = 1, block_size: int = 0,
             saturate: int = 1, output_dtype: int = 0, precision: int = 0) -> Operand:
    """edgeq::Quantize: clip(round(x / scale) + zero point) as integers."""
    kind, shape = b.onnx_type(0, output=True), b.shape(x)
    axis %= max(len(shape), 1)
    steps = b.op("real_div", x=_single(b, x), y=_spread(b, scale, shape, axis, block_size))
    if kind in SMALL_FLOATS:
        return small_float(b, steps, SMALL_FLOATS[kind], bool(saturate))
    if kind not in RANGES:
        raise CannotLower(f"{b.engine} has no {kind.name if kind else 'such'} tensors")
    rounded = b.op("round", x=steps)
    if zero_point is not None:
        rounded = b.op("add", x=rounded, y=_spread(b, zero_point, shape, axis, block_size))
    low, high = RANGES[kind]
    return b.cast(b.op("clip", x=rounded, alpha=Raw(np.float32(low)), beta=Raw(np.float32(high))), "int")


@op("Dequantize")
def dequantize(b: Builder, x: Operand, scale: Operand, zero_point: Operand = None, *, axis: int = 1,
               block_size: int = 0) -> Var:
    """edgeq::Dequantize: (x - zero point) * scale."""
    shape = b.shape(x)
    axis %= max(len(shape), 1)
    steps = b.var(Raw(x.data.astype(np.float32))) if isinstance(x, Constant) else b.cast(x, "fp32")
    if zero_point is not None:
        steps = b.op("sub", x=steps, y=_spread(b, zero_point, shape, axis, block_size))
    return b.cast(b.op("mul", x=steps, y=_spread(b, scale, shape, axis, block_size)), "float")


@op("DynamicQuantize")
def dynamic_quantize(b: Builder, x: Operand) -> tuple[Operand, Operand, Operand]:
    """edgeq::DynamicQuantize -> (uint8 numbers of x on the grid that covers x and 0, scale, zero point)."""
    single, top = _single(b, x), Raw(np.float32(255))
    axes = list(range(b.rank(x)))
    low, high = (b.op(limit, x=b.op(reduction, x=single, axes=axes, keep_dims=True), y=Raw(np.float32(0)))
                 for limit, reduction in (("minimum", "reduce_min"), ("maximum", "reduce_max")))
    scale = b.op("real_div", x=b.op("sub", x=high, y=low), y=top)
    shift = b.op("round", x=b.op("real_div", x=b.op("sub", x=Raw(np.float32(0)), y=low), y=scale))
    steps = b.op("add", x=b.op("round", x=b.op("real_div", x=single, y=scale)), y=shift)
    numbers, zero = (b.cast(b.op("clip", x=v, alpha=Raw(np.float32(0)), beta=top), "int") for v in (steps, shift))
    return numbers, b.reshape(b.cast(scale, "float"), ()), b.reshape(zero, ())


@op("IntegerMatMul")
def integer_mat_mul(b: Builder, x: Operand, y: Operand, x_zero: Operand = None, y_zero: Operand = None) -> Operand:
    """edgeq::IntegerMatMul: (x - its zero point) @ (y - its zero point).

    One zero point for each, or one for each row of x and column of y.
    """
    left, right = b.shape(x), b.shape(y)
    if min(len(left), len(right)) < 2:
        raise CannotLower("a vector in a product of integers")
    columns = (-1, 1) if x_zero is not None and b.rank(x_zero) == 1 else None
    product = b.op("matmul", x=_shifted(b, x, x_zero, columns), y=_shifted(b, y, y_zero, None))
    return b.cast(product, "int")


def _shifted(b: Builder, x: Operand, zero_point: Operand, shape: tuple[int, ...] | None) -> Any:
    """x - zero point, as float32."""
    if zero_point is None:
        return _single(b, x)
    known = b.known(zero_point)
    if known is None:
        return b.op("sub", x=_single(b, x), y=b.cast(b.reshape(zero_point, shape or b.shape(zero_point)), "fp32"))
    zero = known.astype(np.float32)
    zero = zero.reshape(shape if shape and zero.size > 1 else zero.shape if zero.size > 1 else ())
    if isinstance(x, Constant):
        return Raw(x.real.astype(np.float32) - zero)
    return b.op("sub", x=b.cast(x, "fp32"), y=Raw(zero[()]))


@op("IntegerConv")
def integer_conv(b: Builder, x: Operand, w: Operand, x_zero: Operand = None, w_zero: Operand = None, *,
                 auto_pad: str = "NOTSET", dilations: Sequence[int] | None = None, group: int = 1,
                 kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                 strides: Sequence[int] | None = None) -> Operand:
    """edgeq::IntegerConv: x [N,C,..], w [O,C/group,..] -> int32 [N,O,..]. Padding stands for the zero point."""
    kernel = b.shape(w)[2:]
    strides, dilations = spatial(strides, len(kernel)), spatial(dilations, len(kernel))
    amounts = window_pads(auto_pad, pads, b.shape(x)[2:], kernel, strides, dilations)
    y = b.op("conv", x=_shifted(b, x, x_zero, None), weight=_shifted(b, w, w_zero, (-1, *[1] * (len(kernel) + 1))),
             strides=strides, dilations=dilations, groups=group, pad_type="custom",
             pad=[amount for pair in amounts for amount in pair])
    return b.cast(y, "int")
