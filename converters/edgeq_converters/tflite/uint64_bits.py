"""Integers that kernels do not take, by their bits: uint64 as int64 or as two uint32, and shifts, AND and OR of any
width.

BITCAST reads the bits of a tensor as another type, and of int64 as two words, the low one first.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.program import Tensor

UINT32: Final = np.dtype(np.uint32)


def words(b: Builder, tensor: Tensor) -> Tensor:
    """int64 or uint64 [..] -> uint32 [.., 2]."""
    return b.bits(tensor, UINT32, (*tensor.shape, 2))


def by_word(b: Builder, run: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """A function of two operands of at most 32 bits, on integers of any width whose bits do not meet."""
    if x.dtype.itemsize < 8:
        return run(x, y)
    made = run(words(b, x), words(b, y))
    return b.bits(made, x.dtype, made.shape[:-1])


def broadcast(x: Tensor, y: Tensor) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(x.shape, y.shape))


def bit_xor(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    return by_word(b, lambda x, y: b.through("BITWISE_XOR", [x, y], broadcast(x, y)), x, y)


def bit_and(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    """No kernel has it. x = 2 * x' + p and y = 2 * y' + q give

        x & y = x' + y' - (x' ^ y') + p * q,

    and x' ^ y' is (x ^ y) >> 1, so that nothing leaves the 32 bits.
    """
    return by_word(b, lambda x, y: _and(b, x, y), x, y)


def _and(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    wide = np.dtype(np.int32)
    left, right = (b.bits(t, wide, t.shape) if t.dtype == UINT32 else b.cast(t, wide) for t in (x, y))
    one, shape = b.constant(np.ones((), wide)), broadcast(x, y)

    def halved(t: Tensor) -> Tensor:
        return b.call("RIGHT_SHIFT", [t, one], t.shape)

    def lowest(t: Tensor) -> Tensor:
        half = halved(t)
        return b.call("SUB", [t, b.call("ADD", [half, half], t.shape)], t.shape)

    both = b.call("SUB", [b.call("ADD", [halved(left), halved(right)], shape),
                          halved(b.call("BITWISE_XOR", [left, right], shape))], shape)
    made = b.call("ADD", [both, b.call("MUL", [lowest(left), lowest(right)], shape)], shape)
    return b.bits(made, UINT32, shape) if x.dtype == UINT32 else b.cast(made, x.dtype)


def bit_or(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    """(x ^ y) ^ (x & y)."""
    return bit_xor(b, bit_xor(b, x, y), bit_and(b, x, y))


def shift_left(b: Builder, x: Tensor, amount: Tensor) -> Tensor:
    """A product with a power of two, of which the lowest bits are kept; a shift by the width or more leaves zero."""
    wide = _wide(b, x)
    return _narrow(b, b.call("MUL", [wide, _power(b, amount, 8 * x.dtype.itemsize)], broadcast(x, amount)), x.dtype)


def shift_right(b: Builder, x: Tensor, amount: Tensor) -> Tensor:
    """Zeros come in from the left (ONNX shifts unsigned numbers)."""
    width, shape = 8 * x.dtype.itemsize, broadcast(x, amount)
    if width < 64:
        return _shifted(b, x, b.cast(amount, x.dtype), width, shape)
    pair, count = words(b, x), _narrow(b, _wide(b, amount), UINT32)
    low, high = (b.reshape(b.call("SLICE", [pair, b.ints([0] * x.rank + [k]), b.ints([*x.shape, 1])], (*x.shape, 1)),
                           x.shape) for k in range(2))
    half = b.constant(np.array(32, np.int64))
    missing = b.call("SUB", [half, _wide(b, count)], count.shape)
    carried = _narrow(b, b.call("MUL", [_wide(b, high), _power(b, missing, 64)], shape), UINT32)
    near = b.through("ADD", [_shifted(b, low, count, 32, shape), carried], shape)
    rest = _narrow(b, b.call("SUB", [_wide(b, count), half], count.shape), UINT32)
    far = _shifted(b, high, rest, 32, shape)
    small = b.call("LESS", [_wide(b, count), half], count.shape, dtype=np.bool_, to=None)
    parts = [b.call("SELECT_V2", [small, near, far], shape), _shifted(b, high, count, 32, shape)]
    joined = b.call("CONCATENATION", [b.reshape(part, (*shape, 1)) for part in parts], (*shape, 2), axis=len(shape))
    return b.bits(joined, x.dtype, shape)


def _shifted(b: Builder, x: Tensor, amount: Tensor, width: int, shape: tuple[int, ...]) -> Tensor:
    """The kernel shifts by width - 1 at most."""
    made = b.call("RIGHT_SHIFT", [x, amount], shape)
    inside = b.call("LESS", [_wide(b, amount), b.constant(np.array(width, np.int64))], amount.shape, dtype=np.bool_,
                    to=None)
    return b.through("SELECT_V2", [inside, made, b.constant(np.zeros((), x.dtype))], shape)


def _power(b: Builder, amount: Tensor, width: int) -> Tensor:
    """2 ** amount in int64, zero from the width on."""
    table = np.array([1 << k if k < 63 else -(1 << 63) for k in range(width)] + [0], np.int64)
    index = _wide(b, amount)
    for kernel, bound in (("MINIMUM", width), ("MAXIMUM", 0)):
        index = b.call(kernel, [index, b.constant(np.array(bound, np.int64))], index.shape)
    return b.call("GATHER", [b.constant(table), b.cast(index, np.int32)], index.shape, axis=0)


def _wide(b: Builder, tensor: Tensor) -> Tensor:
    return b.cast(tensor, np.int64)


def _narrow(b: Builder, tensor: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """The lowest bits."""
    return b.cast(tensor, dtype)
