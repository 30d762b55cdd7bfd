"""Types that LiteRT does not have, carried by a wider one: every number of theirs is a number of the carrier, and a
Cast to them is the rounding.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.float_expr import Real
from edgeq_converters.tflite.program import Tensor


@dataclass(frozen=True, slots=True)
class Float:
    """mantissa: its bits behind the point. smallest: exponent of the smallest normal number. infinite: what is too
    large becomes infinity where it is not saturated, else no number.

    https://onnx.ai/onnx/technical/float8.html
    """

    mantissa: int
    smallest: int
    largest: float
    infinite: bool = False


FLOATS: Final[Mapping[ir.DataType, Float]] = MappingProxyType({
    ir.DataType.FLOAT8E4M3FN: Float(3, -6, 448.0), ir.DataType.FLOAT8E4M3FNUZ: Float(3, -7, 240.0),
    ir.DataType.FLOAT8E5M2: Float(2, -14, 57344.0, infinite=True), ir.DataType.FLOAT8E5M2FNUZ: Float(2, -15, 57344.0),
    # Its smallest exponent is -126; float32 arithmetic holds the steps of numbers from 2 ** -119 on.
    ir.DataType.BFLOAT16: Float(7, -119, float(2.0**128 - 2.0**120), infinite=True),
})
FOUR_BITS: Final = MappingProxyType({ir.DataType.INT4: np.dtype(np.int8), ir.DataType.UINT4: np.dtype(np.uint8)})
SIGN_AND_EXPONENT: Final = 23  # float32: bits to the right of the exponent
BIAS: Final = 127


def carrier(dtype: ir.DataType) -> np.dtype[Any]:
    """The type of the tensors that hold values of `dtype`."""
    if dtype in FLOATS:
        return np.dtype(np.float32)
    return FOUR_BITS.get(dtype) or np.dtype(dtype.numpy())


def is_narrow(dtype: ir.DataType | None) -> bool:
    return dtype in FLOATS or dtype in FOUR_BITS


def narrowed(b: Builder, tensor: Tensor, dtype: ir.DataType, saturate: bool) -> Tensor:
    """The numbers of `dtype` that ONNX Runtime rounds to, in its carrier."""
    if dtype in FLOATS:
        return _rounded(Real(b, b.cast(tensor, np.float32)), FLOATS[dtype],
                        saturate and dtype != ir.DataType.BFLOAT16).tensor
    if tensor.dtype.kind == "f":  # halves are rounded away from zero
        real = Real(b, b.cast(tensor, np.float32))
        whole = (real.run("ABS") + 0.5).run("FLOOR")
        tensor = real.compare("LESS", 0.0).select(-whole, whole).tensor
    wide = b.cast(tensor, np.int32)
    first = b.constant(np.array(8 if dtype == ir.DataType.INT4 else 0, np.int32))
    rest = b.call("FLOOR_MOD", [b.call("ADD", [wide, first], wide.shape), b.constant(np.array(16, np.int32))],
                  wide.shape)
    return b.cast(b.call("SUB", [rest, first], wide.shape), FOUR_BITS[dtype])


def _rounded(x: Real, to: Float, saturate: bool) -> Real:
    """The nearest number of the format, ties to even: a whole number of steps of 2 ** (exponent - mantissa)."""
    b, size = x.b, x.run("ABS")
    shape = size.tensor.shape
    exponent = b.call("RIGHT_SHIFT", [b.bits(size.tensor, np.int32), _int(b, SIGN_AND_EXPONENT)], shape)
    least = b.call("MAXIMUM", [exponent, _int(b, to.smallest + BIAS)], shape)
    biased = b.call("SUB", [least, _int(b, to.mantissa)], shape)
    step = Real(b, b.bits(b.call("MUL", [biased, _int(b, 1 << SIGN_AND_EXPONENT)], shape), np.float32))
    near = (size / step).run("ROUND") * step
    if saturate:
        near = near.minimum(to.largest)
    else:
        near = near.compare("GREATER", to.largest).select(np.inf if to.infinite else np.nan, near)
    signed = x.compare("LESS", 0.0).select(-near, near)
    return Real(b, b.call("NOT_EQUAL", [x.tensor, x.tensor], shape, dtype=np.bool_, to=None)).select(x, signed)


def _int(b: Builder, number: int) -> Tensor:
    return b.constant(np.array(number, np.int32))
