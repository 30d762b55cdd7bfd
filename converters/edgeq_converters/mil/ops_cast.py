"""Casts. Integers are int32 and floats are the program's float; narrower types are rounded or folded to, in place."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq_converters.mil.builder import Builder, Operand, Raw, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower

# Integer types below 32 bits: the smallest number, and how many there are.
NARROW: Final = {
    ir.DataType.INT8: (-(2**7), 2**8), ir.DataType.UINT8: (0, 2**8),
    ir.DataType.INT16: (-(2**15), 2**16), ir.DataType.UINT16: (0, 2**16),
    ir.DataType.INT4: (-(2**3), 2**4), ir.DataType.UINT4: (0, 2**4),
}
WIDE: Final = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.UINT32, ir.DataType.UINT64})


@dataclass(frozen=True, slots=True)
class SmallFloat:
    """digits: of the significand, the hidden one included. lowest: exponent of the smallest normal number.

    beyond: what a number above `largest` becomes where the Cast does not saturate.
    """

    digits: int
    lowest: int
    largest: float
    beyond: float


# https://onnx.ai/onnx/technical/float8.html
SMALL_FLOATS: Final = {
    ir.DataType.BFLOAT16: SmallFloat(8, -126, np.inf, np.inf),
    ir.DataType.FLOAT8E4M3FN: SmallFloat(4, -6, 448.0, np.nan),
    ir.DataType.FLOAT8E4M3FNUZ: SmallFloat(4, -7, 240.0, np.nan),
    ir.DataType.FLOAT8E5M2: SmallFloat(3, -14, 57344.0, np.inf),
    ir.DataType.FLOAT8E5M2FNUZ: SmallFloat(3, -15, 57344.0, np.nan),
}
_DIGITS: Final = 24  # of float32
_HUGE: Final = 2.0**100  # powers above it would overflow in `_power_of_two`; such numbers keep their float32 digits


@op("Cast", "Narrow")
def cast(b: Builder, x: Operand, *, to: int, saturate: int = 1) -> Operand:
    """float64 is computed as the program's float, 64-bit integers as int32."""
    wanted = ir.DataType(to)
    if wanted in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return b.as_float(x)
    if wanted == ir.DataType.FLOAT16:
        return b.cast(b.cast(x, "fp16"), "float") if b.dtype is np.float32 else b.as_float(x)
    if wanted == ir.DataType.BOOL:
        return x if b.kind(x) == "bool" else b.op("not_equal", x=x, y=0.0 if b.kind(x) == "float" else 0)
    if wanted in WIDE:
        if wanted == ir.DataType.INT32 and b.onnx_type(0) == ir.DataType.UINT32:
            raise CannotLower(f"UINT32 as INT32: {b.engine}'s integers end at 2^31, which is where the two differ")
        return b.as_int(x)
    if wanted in NARROW:
        whole = b.as_int(nearest(b, x) if wanted in (ir.DataType.INT4, ir.DataType.UINT4) else x)
        return whole if b.onnx_type(0) == wanted or b.kind(x) == "bool" else narrowed(b, whole, wanted)
    if wanted in SMALL_FLOATS:
        return small_float(b, x, SMALL_FLOATS[wanted], bool(saturate))
    raise CannotLower(f"{b.engine} has no {wanted.name} tensors")


def nearest(b: Builder, x: Operand) -> Operand:
    """Halves away from zero: what onnxruntime does before it cuts floats to 4 bits, while wider integers truncate.

    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/tensor/cast_op.cc
    """
    if b.kind(x) != "float":
        return x
    size = b.op("floor", x=b.op("add", x=b.op("abs", x=x), y=0.5))
    return b.op("mul", x=size, y=b.op("sign", x=x))


def narrowed(b: Builder, x: Operand, wanted: ir.DataType) -> Operand:
    """int32 folded back into the range of a narrower integer type; wider types stay."""
    if wanted not in NARROW:
        return x
    low, count = NARROW[wanted]
    if not low:
        return b.op("mod", x=x, y=count)
    return b.op("add", x=b.op("mod", x=b.op("sub", x=x, y=low), y=count), y=low)


@op("CastLike")
def cast_like(b: Builder, x: Operand, like: Operand, *, saturate: int = 1) -> Operand:
    wanted = b.onnx_type(1)
    if wanted is None:
        raise CannotLower("the type of its second input is not known")
    return cast(b, x, to=wanted.value, saturate=saturate)


def small_float(b: Builder, x: Operand, kind: SmallFloat, saturate: bool) -> Var:
    """x rounded to the numbers of a smaller float type, ties to even.

    The sum of x and a float32 whose last digit is worth the last digit that x may keep is rounded there by the
    addition itself.
    """
    single = b.cast(x, "fp32")
    size = b.op("minimum", x=b.op("abs", x=single), y=_exactly(_HUGE))
    unit = b.op("maximum", x=_power_of_two(b, size), y=_exactly(2.0**kind.lowest))
    shift = b.op("mul", x=unit, y=_exactly(1.5 * 2.0**(_DIGITS - kind.digits)))
    near = b.op("sub", x=b.op("add", x=single, y=shift), y=shift)
    near = _chosen(b, b.op("less", x=size, y=_exactly(_HUGE)), near, single)
    if np.isfinite(kind.largest):
        near = _limited(b, near, kind, saturate)
    return b.cast(near, "float")


def _power_of_two(b: Builder, size: Var) -> Var:
    """The largest power of two not above size, by Dekker's splitting with one digit; 0 for 0."""
    product = b.op("mul", x=size, y=_exactly(2.0**(_DIGITS - 1) + 1))
    nearest = b.op("sub", x=product, y=b.op("sub", x=product, y=size))
    return _chosen(b, b.op("greater", x=nearest, y=size), b.op("mul", x=nearest, y=_exactly(0.5)), nearest)


def _limited(b: Builder, x: Var, kind: SmallFloat, saturate: bool) -> Var:
    """Nothing above the largest number; NaN stays NaN, since no comparison holds for it."""
    for compare, sign in (("greater", 1.0), ("less", -1.0)):
        beyond = kind.largest if saturate else kind.beyond
        x = _chosen(b, b.op(compare, x=x, y=_exactly(sign * kind.largest)),
                    Raw(np.full(b.shape(x), sign * beyond, np.float32)), x)
    return x


def _chosen(b: Builder, condition: Var, x: Operand | Raw, y: Operand | Raw) -> Var:
    return b.op("select", cond=condition, a=x, b=y)


def _exactly(number: float) -> Raw:
    """A float32, whatever the program's precision."""
    return Raw(np.float32(number))
