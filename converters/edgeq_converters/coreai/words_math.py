"""Arithmetic, comparison, activation, reduction."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np

from edgeq_converters.coreai.builder import Builder
from edgeq_converters.coreai.words import Word, word
from edgeq_converters.mil.builder import Var
from edgeq_converters.optable import CannotLower

# MIL op -> operator, one operand
UNARY: Final = {
    "abs": "abs_", "acos": "acos", "asin": "asin", "atan": "atan", "atanh": "atanh", "cos": "cos", "cosh": "cosh",
    "erf": "erf", "exp": "exp", "round": "round_", "sin": "sin", "sinh": "sinh", "sqrt": "sqrt", "tan": "tan",
    "tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "logical_not": "not_", "silu": "silu",
}
# MIL op -> operator, two operands of one type
BINARY: Final = {
    "add": "add", "sub": "sub", "mul": "mul", "real_div": "divide", "floor_div": "floor_divide",
    "maximum": "maximum", "minimum": "minimum", "pow": "pow", "equal": "equal", "not_equal": "not_equal",
    "greater": "greater", "logical_and": "and", "logical_or": "or", "logical_xor": "xor",
}
# MIL op -> the op whose opposite it is, or which it is with its operands exchanged
OPPOSITE: Final = {"less_equal": "greater"}
EXCHANGED: Final = {"less": "greater"}
REDUCTIONS: Final = {"reduce_sum": "reduce_sum", "reduce_max": "reduce_max", "reduce_min": "reduce_min",
                     "reduce_mean": "reduce_mean", "reduce_prod": "reduce_product"}


def _unary(operator: str) -> Word:
    return lambda b, *, x: b.call(operator, b.tensor(x))


def _binary(operator: str) -> Word:
    return lambda b, *, x, y: b.call(f"broadcasting_{operator}", *b.matched(x, y))


for _name, _operator in UNARY.items():
    word(_name)(_unary(_operator))
for _name, _operator in BINARY.items():
    word(_name)(_binary(_operator))


# ---------------------------------------------------------------------- comparison
@word("less")
def less(b: Builder, *, x: Any, y: Any) -> Var:
    return b.op("greater", x=y, y=x)


@word("greater_equal")
def greater_equal(b: Builder, *, x: Any, y: Any) -> Var:
    """Not less-or-greater by negation, which would hold for NaN."""
    return _either(b, "greater", x, y)


@word("less_equal")
def less_equal(b: Builder, *, x: Any, y: Any) -> Var:
    return _either(b, "less", x, y)


def _either(b: Builder, compare: str, x: Any, y: Any) -> Var:
    x, y = b.matched(x, y)
    return b.call("broadcasting_or", b.op(compare, x=x, y=y), b.op("equal", x=x, y=y))


# ---------------------------------------------------------------------- arithmetic
@word("mod")
def mod(b: Builder, *, x: Any, y: Any) -> Var:
    """The sign of y. The dialect's own has that of x, as C: what is left is moved by y where the two differ."""
    x, y = b.matched(x, y)
    rest = b.call("broadcasting_modulo", x, y)
    if x.dtype.kind == "u":
        return rest
    zero = x.dtype.type(0)
    apart = b.op("logical_xor", x=b.op("less", x=rest, y=zero), y=b.op("less", x=y, y=zero))
    moved = b.op("logical_and", x=apart, y=b.op("not_equal", x=rest, y=zero))
    return b.op("select", cond=moved, a=b.op("add", x=rest, y=y), b=rest)


@word("square")
def square(b: Builder, *, x: Any) -> Var:
    return b.op("mul", x=b.tensor(x), y=b.tensor(x))


@word("exp2")
def exp2(b: Builder, *, x: Any) -> Var:
    return b.op("pow", x=np.float32(2), y=b.tensor(x))


@word("floor")
def floor(b: Builder, *, x: Any) -> Var:
    """The nearest integer, less 1 where that is above x. A division by 1 would make NaN of infinity."""
    return _stepped(b, b.tensor(x), "greater", "sub")


@word("ceil")
def ceil(b: Builder, *, x: Any) -> Var:
    return _stepped(b, b.tensor(x), "less", "add")


def _stepped(b: Builder, x: Var, beyond: str, move: str) -> Var:
    near = b.op("round", x=x)
    step = b.to(b.op(beyond, x=near, y=x), x.dtype)
    return b.op(move, x=near, y=step)


@word("sign")
def sign(b: Builder, *, x: Any) -> Var:
    x = b.tensor(x)
    zero = x.dtype.type(0)
    above, below = (b.to(b.op(compare, x=x, y=zero), x.dtype) for compare in ("greater", "less"))
    return b.op("sub", x=above, y=below)


@word("log")
def log(b: Builder, *, x: Any, epsilon: float = 0.0) -> Var:
    return b.call("log", _raised(b, x, epsilon))


@word("rsqrt")
def rsqrt(b: Builder, *, x: Any, epsilon: float = 0.0) -> Var:
    return b.call("rsqrt", _raised(b, x, epsilon))


def _raised(b: Builder, x: Any, epsilon: float) -> Var:
    return b.op("add", x=b.tensor(x), y=epsilon) if epsilon else b.tensor(x)


@word("clip")
def clip(b: Builder, *, x: Any, alpha: Any, beta: Any) -> Var:
    return b.op("minimum", x=b.op("maximum", x=b.tensor(x), y=alpha), y=beta)


@word("cast")
def cast(b: Builder, *, x: Any, dtype: str) -> Var:
    named = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
    return b.to(b.tensor(x), named[dtype])


@word("identity")
def identity(b: Builder, *, x: Any) -> Var:
    return b.tensor(x)


@word("select")
def select(b: Builder, /, *, cond: Any, a: Any, **other: Any) -> Var:
    """MIL calls the other choice `b`, as this builder is called."""
    x, y = b.matched(a, other["b"])
    return b.call("broadcasting_where", b.tensor(cond), x, y)


# ---------------------------------------------------------------------- activation
@word("softplus")
def softplus(b: Builder, *, x: Any) -> Var:
    """max(x, 0) + log(1 + e^-|x|), which overflows nowhere."""
    x = b.tensor(x)
    small = b.op("exp", x=b.op("mul", x=b.op("abs", x=x), y=-1.0))
    return b.op("add", x=b.op("relu", x=x), y=b.op("log", x=b.op("add", x=small, y=1.0)))


@word("softsign")
def softsign(b: Builder, *, x: Any) -> Var:
    x = b.tensor(x)
    return b.op("real_div", x=x, y=b.op("add", x=b.op("abs", x=x), y=1.0))


@word("leaky_relu")
def leaky_relu(b: Builder, *, x: Any, alpha: float) -> Var:
    x = b.tensor(x)
    below = b.op("mul", x=b.op("minimum", x=x, y=0.0), y=alpha)
    return b.op("add", x=b.op("relu", x=x), y=below)


@word("prelu")
def prelu(b: Builder, *, x: Any, alpha: Any) -> Var:
    """alpha [C], for axis 1."""
    x = b.tensor(x)
    slope = np.reshape(alpha, [-1 if axis == 1 else 1 for axis in range(len(x.shape))])
    below = b.op("mul", x=b.op("minimum", x=x, y=0.0), y=slope)
    return b.op("add", x=b.op("relu", x=x), y=below)


@word("elu")
def elu(b: Builder, *, x: Any, alpha: float) -> Var:
    x = b.tensor(x)
    low = b.op("sub", x=b.op("exp", x=b.op("minimum", x=x, y=0.0)), y=1.0)
    return b.op("add", x=b.op("relu", x=x), y=b.op("mul", x=low, y=alpha))


@word("sigmoid_hard")
def sigmoid_hard(b: Builder, *, x: Any, alpha: float, beta: float) -> Var:
    line = b.op("add", x=b.op("mul", x=b.tensor(x), y=alpha), y=beta)
    return b.op("clip", x=line, alpha=0.0, beta=1.0)


@word("gelu")
def gelu(b: Builder, *, x: Any, mode: str) -> Var:
    kind = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode]
    return b.call("gelu", b.tensor(x), approximate=kind)


@word("softmax")
def softmax(b: Builder, *, x: Any, axis: int) -> Var:
    return b.call("softmax", b.tensor(x), np.int32(axis))


# ---------------------------------------------------------------------- reduction
def _reduction(operator: str) -> Word:
    def reduced(b: Builder, *, x: Any, axes: Sequence[int], keep_dims: bool) -> Var:
        """Core AI's keep the axes with size 1."""
        x = b.tensor(x)
        if 0 in x.shape:
            return _without(b, _of_nothing(b, operator, x, axes), axes, keep_dims)
        if operator == "reduce_mean" and x.dtype.kind != "f":
            return _integer_mean(b, x, axes)
        found: Var = b.call(operator, x, np.array([axis % len(x.shape) for axis in axes], np.int32))
        return _without(b, found, axes, keep_dims)

    return reduced


for _name, _operator in REDUCTIONS.items():
    word(_name)(_reduction(_operator))


def _of_nothing(b: Builder, operator: str, x: Var, axes: Sequence[int]) -> Var:
    """What numpy says of no elements: the runtime's own reductions leave their results unwritten."""
    along = {axis % len(x.shape) for axis in axes}
    shape = [1 if axis in along else int(dim or 0) for axis, dim in enumerate(x.shape)]
    limits = np.finfo(x.dtype) if x.dtype.kind == "f" else np.iinfo(x.dtype)
    low, high = (-np.inf, np.inf) if x.dtype.kind == "f" else (limits.min, limits.max)
    number = {"reduce_max": low, "reduce_min": high, "reduce_product": 1, "reduce_mean": np.nan}.get(operator, 0)
    return b.program.constant(np.full(shape, number).astype(x.dtype))


def _integer_mean(b: Builder, x: Var, axes: Sequence[int]) -> Var:
    """Sum over count, cut toward zero."""
    total = b.op("reduce_sum", x=x, axes=axes, keep_dims=True)
    count = prod(dim for axis, dim in enumerate(x.shape) if axis in {a % len(x.shape) for a in axes} and dim)
    return b.op("real_div", x=total, y=x.dtype.type(count))


def _without(b: Builder, x: Var, axes: Sequence[int], keep_dims: bool) -> Var:
    if keep_dims:
        return x
    gone = {axis % len(x.shape) for axis in axes}
    return b.reshape(x, [int(dim or 0) for axis, dim in enumerate(x.shape) if axis not in gone])


@word("reduce_log_sum_exp")
def reduce_log_sum_exp(b: Builder, *, x: Any, axes: Sequence[int], keep_dims: bool) -> Var:
    """m + log(sum(e^(x - m))), m the largest x; of infinities m counts as 0."""
    x = b.tensor(x)
    largest = b.op("reduce_max", x=x, axes=axes, keep_dims=True)
    finite = b.op("less", x=b.op("abs", x=largest), y=np.array(np.inf, x.dtype))
    shift = b.op("select", cond=finite, a=largest, b=np.zeros((), x.dtype))
    total = b.op("reduce_sum", x=b.op("exp", x=b.op("sub", x=x, y=shift)), axes=axes, keep_dims=True)
    return _without(b, b.op("add", x=b.op("log", x=total), y=shift), axes, keep_dims)


@word("reduce_argmax")
def reduce_argmax(b: Builder, *, x: Any, axis: int, keep_dims: bool) -> Var:
    """The first of equal ones."""
    found = b.to(b.call("argmax", b.tensor(x), np.int32(axis)), np.int32)
    return _without(b, found, [axis], keep_dims)


@word("reduce_argmin")
def reduce_argmin(b: Builder, *, x: Any, axis: int, keep_dims: bool) -> Var:
    x = b.tensor(x)
    if x.dtype.kind == "u":
        x = b.to(x, np.int32 if x.dtype.itemsize < np.dtype(np.int32).itemsize else np.int64)
    # -1 - x reverses the order of integers without overflow
    turned = b.op("sub", x=x.dtype.type(-1), y=x) if x.dtype.kind == "i" else b.op("mul", x=x, y=-1.0)
    return b.op("reduce_argmax", x=turned, axis=axis, keep_dims=keep_dims)


@word("cumsum")
def cumsum(b: Builder, *, x: Any, axis: int, exclusive: bool, reverse: bool) -> Var:
    """Exclusive: shifted by one, a zero first, which is exact where total - x is not."""
    x = b.tensor(x)
    total: Var = b.call("scan", x, np.uint32(axis), np.bool_(reverse), combiner="sum")
    if not exclusive:
        return total
    size = [int(dim or 0) for dim in x.shape]
    first, last = [0] * len(size), list(size)
    first[axis], last[axis] = (1, size[axis]) if reverse else (0, size[axis] - 1)
    pads = [(0, 0)] * len(size)
    pads[axis] = (0, 1) if reverse else (1, 0)
    return b.pad(b.slice(total, first, last), pads)


@word("topk")
def topk(b: Builder, *, x: Any, k: int, axis: int, ascending: bool) -> tuple[Var, Var]:
    """-> (values, indices); of equal ones the first comes first."""
    x = b.tensor(x)
    axis %= len(x.shape)
    order: Var = b.call("argsort", x, np.int32(axis), np.bool_(not ascending), np.bool_(True))
    last = [int(dim or 0) for dim in x.shape]
    if not 0 <= k <= last[axis]:
        raise CannotLower(f"{k} of {last[axis]} elements")
    last[axis] = k
    order = b.slice(order, [0] * len(last), last)
    return b.call("gather_along_axis", x, order, np.int32(axis)), order
