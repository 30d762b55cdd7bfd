"""Integers as rows of bits. MIL has no bitwise ops: bit k of x is floor(x / 2^k) mod 2, in two's complement too."""
from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.ops_cast import NARROW, narrowed
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower

UNSIGNED: Final = frozenset({ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64})
LOGIC: Final = {"BitwiseAnd": "logical_and", "BitwiseOr": "logical_or", "BitwiseXor": "logical_xor"}
_SIGN: Final = 31  # the place of the sign in an int32


def _combined(logic: str) -> Callable[[Builder, Operand, Operand], Operand]:
    def handler(b: Builder, x: Operand, y: Operand) -> Operand:
        shape = np.broadcast_shapes(b.shape(x), b.shape(y))
        places = _places(b)
        bits = b.op(logic, x=_bits(b, b.broadcast(x, shape), places), y=_bits(b, b.broadcast(y, shape), places))
        worth = [-(2**_SIGN) if place == _SIGN else 2**place for place in places]
        each = b.op("mul", x=b.cast(bits, "int"), y=np.array(worth, np.int32))
        return narrowed(b, b.reshape(b.op("reduce_sum", x=each, axes=[1]), shape), _type(b))

    return handler


for _name, _logic in LOGIC.items():
    op(_name)(_combined(_logic))


def _type(b: Builder) -> ir.DataType:
    """Of the first input.

    Raises:
        CannotLower: numbers of 64 bits, or unsigned ones of 32, whose upper bits an int32 does not hold.
    """
    kind = b.onnx_type(0)
    if kind not in NARROW and kind != ir.DataType.INT32:
        name = kind.name if kind else "an unknown type"
        raise CannotLower(f"bits of {name}; {b.engine}'s integers have 32, one a sign")
    return kind


def _places(b: Builder) -> list[int]:
    kind = _type(b)
    return list(range(NARROW[kind][1].bit_length() - 1 if kind in NARROW else _SIGN + 1))


def _bits(b: Builder, x: Operand, places: list[int]) -> Var:
    """x of n elements -> bool [n, places]; the sign is its own place, because 2^31 is no int32."""
    flat = b.reshape(x, (int(np.prod(b.shape(x), dtype=int)), 1))
    powers = np.array([2**place for place in places if place != _SIGN], np.int32)
    digit = b.op("mod", x=b.op("floor_div", x=flat, y=powers), y=2)
    bits = b.op("not_equal", x=digit, y=0)
    return b.op("concat", values=[bits, b.op("less", x=flat, y=0)], axis=1) if _SIGN in places else bits


@op("BitwiseNot")
def bitwise_not(b: Builder, x: Operand) -> Var:
    """All ones minus x: -1 - x, or 255 - x of 8 bits without a sign."""
    kind = b.onnx_type(0)
    if kind in (ir.DataType.UINT32, ir.DataType.UINT64):
        raise CannotLower(f"bits of {kind.name}; {b.engine}'s integers have 32, one a sign")
    return b.op("sub", x=np.int32(NARROW[kind][1] - 1 if kind in NARROW and kind in UNSIGNED else -1), y=x)


@op("BitShift")
def bit_shift(b: Builder, x: Operand, y: Operand, *, direction: str) -> Operand:
    """x * 2^y, or x / 2^y rounded down. Left shifts of 32 bits must stay inside int32."""
    kind = b.onnx_type(0)
    if kind not in UNSIGNED:
        raise CannotLower("shift of signed integers")
    known = b.known(y)
    power = b.as_int(b.op("exp2", x=b.cast(y, "fp32"))) if known is None else Constant(2 ** known.astype(np.int64))
    if direction == "RIGHT":
        return b.op("floor_div", x=x, y=power)
    return narrowed(b, b.op("mul", x=x, y=power), kind)
