"""The handlers of Core AI: those that are written in MIL, and its own where the dialect has more than MIL."""
from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq_converters.coreai.builder import Builder
from edgeq_converters.mil.builder import Operand, Var
from edgeq_converters.mil.ops import HANDLERS
from edgeq_converters.mil.ops_bits import UNSIGNED
from edgeq_converters.mil.ops_cast import NARROW, SMALL_FLOATS, nearest, small_float
from edgeq_converters.mil.ops_gather import MODES
from edgeq_converters.optable import CannotLower, Handler, OpTable

TABLE: Final[OpTable[Builder]] = OpTable("coreai", HANDLERS)

BITWISE: Final = {"BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor"}
ALONE: Final = {"Asinh": "asinh", "Acosh": "acosh"}  # of one operand
# Integers of 32 and 64 bits, whose ranges are MIL's one: the smallest number, and how many there are.
WIDE: Final = {ir.DataType.INT32: (-(2**31), 2**32), ir.DataType.UINT32: (0, 2**32)}


def _bitwise(name: str) -> Handler:
    return lambda b, x, y: b.call(f"broadcasting_bitwise_{name}", *b.matched(x, y))


def _alone(name: str) -> Handler:
    return lambda b, x: b.call(name, b.tensor(x))


for _op, _name in BITWISE.items():
    TABLE.handlers[_op] = _bitwise(_name)
for _op, _name in ALONE.items():
    TABLE.handlers[_op] = _alone(_name)


def bitwise_not(b: Builder, x: Operand) -> Var:
    x = b.tensor(x)
    ones = np.array(np.iinfo(x.dtype).max if x.dtype.kind == "u" else -1, x.dtype)
    return b.call("broadcasting_bitwise_xor", x, ones)


def bit_shift(b: Builder, x: Operand, y: Operand, *, direction: str) -> Var:
    """x * 2^y modulo its range, or x / 2^y rounded down."""
    kind = b.onnx_type(0)
    if kind not in UNSIGNED:
        raise CannotLower("shift of signed integers")
    x, y = b.matched(x, y)
    power = b.call("broadcasting_pow", *b.matched(np.array(2, x.dtype), y))
    return b.call("broadcasting_floor_divide" if direction == "RIGHT" else "broadcasting_mul", x, power)


def cast(b: Builder, x: Operand, *, to: int, saturate: int = 1) -> Operand:
    """Integers wrap around, as in ONNX; the dialect's own cast saturates."""
    wanted, x = ir.DataType(to), b.tensor(x)
    if wanted in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return b.as_float(x)
    if wanted == ir.DataType.FLOAT16:
        return b.cast(b.cast(x, "fp16"), "float") if b.dtype is np.float32 else b.as_float(x)
    if wanted == ir.DataType.BOOL:
        return b.cast(x, "bool")
    if wanted in SMALL_FLOATS:
        return small_float(b, x, SMALL_FLOATS[wanted], bool(saturate))
    if wanted.is_integer():
        return _wrapped(b, b.tensor(nearest(b, x) if wanted in (ir.DataType.INT4, ir.DataType.UINT4) else x), wanted)
    raise CannotLower(f"Core AI has no {wanted.name} tensors")


def _wrapped(b: Builder, x: Var, wanted: ir.DataType) -> Var:
    kind = b.stored_type(wanted.numpy())
    given = b.onnx_type(0)
    if given == wanted or x.dtype.kind == "b":
        return b.to(x, kind)
    ranges = {**NARROW, **WIDE}
    if x.dtype.kind in "iu" and wanted not in (ir.DataType.INT4, ir.DataType.UINT4) and _fits(x.dtype, kind):
        return b.to(x, kind)
    if wanted not in ranges:  # 64 bits
        if x.dtype.kind != "f":
            raise CannotLower(f"{x.dtype.name} as {wanted.name}: the two differ where numbers are large or negative")
        return b.to(x, kind)
    low, count = ranges[wanted]
    wide = x if x.dtype == np.uint64 else b.to(x, np.int64)
    if low:
        wide = b.op("sub", x=wide, y=wide.dtype.type(low)) if wide.dtype == np.int64 else b.op(
            "add", x=wide, y=wide.dtype.type(-low))
        folded = b.to(b.op("mod", x=wide, y=wide.dtype.type(count)), np.int64)
        return b.to(b.op("add", x=folded, y=np.int64(low)), kind)
    return b.to(b.op("mod", x=wide, y=wide.dtype.type(count)), kind)


def _fits(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    have, range_ = np.iinfo(given), np.iinfo(wanted)
    return int(range_.min) <= int(have.min) and int(have.max) <= int(range_.max)


def cast_like(b: Builder, x: Operand, like: Operand, *, saturate: int = 1) -> Operand:
    wanted = b.onnx_type(1)
    if wanted is None:
        raise CannotLower("the type of its second input is not known")
    return cast(b, x, to=wanted.value, saturate=saturate)


def scatter_elements(b: Builder, x: Operand, indices: Operand, updates: Operand, *, axis: int = 0,
                     reduction: str = "none") -> Operand:
    """Also where the indices are for a part of the data: then into all elements in a row."""
    axis %= b.rank(x)
    shape, wanted = b.shape(x), b.shape(indices)
    if all(n == w for a, (n, w) in enumerate(zip(shape, wanted, strict=True)) if a != axis):
        return HANDLERS["ScatterElements"](b, x, indices, updates, axis=axis, reduction=reduction)
    strides = [prod(shape[a + 1:]) for a in range(len(shape))]
    places = sum(own * (0 if a == axis else strides[a]) for a, own in enumerate(np.indices(wanted)))
    at = b.op("mod", x=b.as_int(indices), y=np.int32(shape[axis]))  # counted from the front
    flat = b.op("add", x=b.op("mul", x=at, y=np.int32(strides[axis])), y=np.asarray(places, np.int32))
    found = b.op("scatter_along_axis", data=b.reshape(x, [prod(shape)]), indices=b.reshape(flat, [prod(wanted)]),
                 updates=b.reshape(updates, [prod(wanted)]), axis=0, mode=MODES[reduction])
    return b.reshape(found, shape)


TABLE.handlers.update({
    "ScatterElements": scatter_elements, "Cast": cast, "Narrow": cast, "CastLike": cast_like,
    "BitwiseNot": bitwise_not, "BitShift": bit_shift})
