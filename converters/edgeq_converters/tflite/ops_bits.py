"""Ops on the bits of integers."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op
from edgeq_converters.tflite.uint64_bits import bit_and, bit_or, bit_xor, shift_left, shift_right


def _joined(b: Builder, x: Value, y: Value, run: Callable[[Builder, Tensor, Tensor], Tensor]) -> Value:
    rank = len(b.shape)
    left, right = (b.read(b.aligned(v, rank)) for v in (x, y))
    return b.result(run(b, left, right))


@op("BitwiseAnd")
def bitwise_and(b: Builder, x: Value, y: Value) -> Value:
    return _joined(b, x, y, bit_and)


@op("BitwiseOr")
def bitwise_or(b: Builder, x: Value, y: Value) -> Value:
    return _joined(b, x, y, bit_or)


@op("BitwiseXor")
def bitwise_xor(b: Builder, x: Value, y: Value) -> Value:
    return _joined(b, x, y, bit_xor)


@op("BitwiseNot")
def bitwise_not(b: Builder, x: Value) -> Value:
    """Every bit turned: XOR with all ones."""
    ones = b.constant(np.full((1,) * x.rank, -1, np.int64).astype(x.dtype))
    return b.result(bit_xor(b, b.read(x), ones))


@op("BitShift")
def bit_shift(b: Builder, x: Value, y: Value, *, direction: str) -> Value:
    if x.dtype.kind != "u":
        raise CannotLower(f"shifting {x.dtype}")
    return _joined(b, x, y, shift_left if direction == "LEFT" else shift_right)
