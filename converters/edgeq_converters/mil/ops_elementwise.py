"""Arithmetic, comparison and logic: every element on its own, numpy broadcasting."""
from __future__ import annotations

from functools import reduce
from typing import Any, Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Constant, Operand, Raw, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower, Handler

# ONNX op -> MIL op, one operand; the kinds of numbers that the MIL op takes besides floats.
UNARY: Final = {
    "Abs": ("abs", "int"), "Acos": ("acos", ""), "Asin": ("asin", ""), "Atan": ("atan", ""), "Atanh": ("atanh", ""),
    "Ceil": ("ceil", ""), "Cos": ("cos", ""), "Cosh": ("cosh", ""), "Erf": ("erf", ""), "Exp": ("exp", ""),
    "Floor": ("floor", ""), "Round": ("round", ""), "Sign": ("sign", "int"), "Sin": ("sin", ""), "Sinh": ("sinh", ""),
    "Sqrt": ("sqrt", ""), "Tan": ("tan", ""), "Tanh": ("tanh", ""), "Not": ("logical_not", "bool"),
}
# ONNX op -> MIL op, two operands.
BINARY: Final = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Greater": "greater", "GreaterOrEqual": "greater_equal", "Less": "less",
    "LessOrEqual": "less_equal", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
}
INT32: Final = (-(2**31), 2**31 - 1)
# ONNX op -> MIL op that is applied from left to right.
VARIADIC: Final = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def _unary(mil: str, kinds: str) -> Handler:
    def handler(b: Builder, x: Operand) -> Var:
        if b.kind(x) in ("float", kinds):
            return b.op(mil, x=x)
        return b.through_float(x, lambda v: b.op(mil, x=v))

    return handler


def _binary(mil: str) -> Handler:
    def handler(b: Builder, x: Operand, y: Operand) -> Var:
        return b.op(mil, x=x, y=y)

    return handler


def _variadic(mil: str) -> Handler:
    def handler(b: Builder, *values: Operand) -> Var:
        return reduce(lambda x, y: b.op(mil, x=x, y=y), values) if len(values) > 1 else values[0]

    return handler


for _name, (_mil, _kinds) in UNARY.items():
    op(_name)(_unary(_mil, _kinds))
for _name, _mil in BINARY.items():
    op(_name)(_binary(_mil))
for _name, _mil in VARIADIC.items():
    op(_name)(_variadic(_mil))


@op("Equal")
def equal(b: Builder, x: Operand, y: Operand) -> Var:
    if b.kind(x) == "bool":
        x, y = b.as_int(x), b.as_int(y)
    return b.op("equal", x=x, y=y)


@op("Mean")
def mean(b: Builder, *values: Operand) -> Var:
    total = reduce(lambda x, y: b.op("add", x=x, y=y), values)
    return b.op("mul", x=total, y=1 / len(values))


@op("Neg")
def neg(b: Builder, x: Operand) -> Var:
    return b.op("mul", x=x, y=-1 if b.kind(x) == "int" else -1.0)


@op("Reciprocal")
def reciprocal(b: Builder, x: Operand) -> Var:
    """1 / x. MIL's inverse adds an epsilon of 1e-4 to x."""
    return b.op("real_div", x=1.0, y=x)


@op("Log")
def log(b: Builder, x: Operand) -> Var:
    return b.op("log", x=x, epsilon=0.0)


@op("Asinh")
def asinh(b: Builder, x: Operand) -> Var:
    """sign(x) * log(|x| + sqrt(x^2 + 1)): no cancellation for negative x."""
    size = b.op("abs", x=x)
    root = b.op("sqrt", x=b.op("add", x=b.op("square", x=x), y=1.0))
    return b.op("mul", x=b.op("sign", x=x), y=b.op("log", x=b.op("add", x=size, y=root), epsilon=0.0))


@op("Acosh")
def acosh(b: Builder, x: Operand) -> Var:
    """log(x + sqrt(x^2 - 1))"""
    root = b.op("sqrt", x=b.op("sub", x=b.op("square", x=x), y=1.0))
    return b.op("log", x=b.op("add", x=x, y=root), epsilon=0.0)


@op("Div")
def div(b: Builder, x: Operand, y: Operand) -> Var:
    """Floats divide; integers truncate toward zero, where MIL's floor_div rounds down."""
    if b.kind(x) == "float":
        return b.op("real_div", x=x, y=y)
    low = b.op("floor_div", x=x, y=y)
    cut = b.op("logical_and", x=b.op("less", x=low, y=0), y=b.op("not_equal", x=b.op("mul", x=low, y=y), y=x))
    return b.op("add", x=low, y=b.cast(cut, "int"))


@op("Mod")
def mod(b: Builder, x: Operand, y: Operand, *, fmod: int = 0) -> Var:
    """Sign of the divisor; with fmod the sign of the dividend."""
    if not fmod:
        return b.op("mod", x=x, y=y)
    size = b.op("mod", x=b.op("abs", x=x), y=b.op("abs", x=y))
    return b.op("mul", x=size, y=b.op("sign", x=x))


@op("Pow")
def pow_(b: Builder, x: Operand, y: Operand) -> Var:
    exponent = b.known(y)
    if exponent is not None and exponent.size == 1 and exponent.ravel()[0] == 2 and not exponent.ndim:
        return b.op("square", x=x)
    if b.kind(x) == "float":
        return b.op("pow", x=x, y=_real(b, y))
    return b.as_int(b.op("pow", x=b.cast(x, "fp32"), y=b.cast(y, "fp32")))


def _real(b: Builder, operand: Operand) -> Operand:
    if isinstance(operand, Constant):
        return Constant(operand.real.astype(np.float32))
    return b.as_float(operand)


@op("Where")
def where(b: Builder, condition: Operand, x: Operand, y: Operand) -> Var:
    """MIL's select wants one shape for all three."""
    shape = np.broadcast_shapes(b.shape(condition), b.shape(x), b.shape(y))
    full = next((v for v in (x, y, condition) if not isinstance(v, Constant) and b.shape(v) == shape), None)
    return b.op("select", cond=b.broadcast(condition, shape), a=_filled(b, x, shape, full),
                b=_filled(b, y, shape, full))


def _filled(b: Builder, operand: Operand, shape: tuple[int, ...], like: Operand | None) -> Operand:
    """The operand in a larger shape. One number is written as such; as a constant, the file would hold it repeated."""
    known = b.known(operand)
    if known is None or known.size != 1 or like is None or b.kind(like) == "bool":
        return b.broadcast(operand, shape)
    number = known.ravel()[0]
    value = Raw(np.bool_(number)) if known.dtype == np.bool_ else float(number) if known.dtype.kind == "f" else Raw(
        np.int32(np.clip(number, *INT32)))
    return b.op("fill_like", ref_tensor=like, value=value)


@op("Clip")
def clip(b: Builder, x: Operand, low: Operand = None, high: Operand = None) -> Var:
    """Bounds may be computed, or absent."""
    bounds = [None if bound is None else b.known(bound) for bound in (low, high)]
    computed = any(bound is not None and known is None for bound, known in zip((low, high), bounds, strict=True))
    if b.kind(x) == "float" and not computed:
        lowest = float(np.finfo(b.dtype).min) if bounds[0] is None else float(bounds[0].ravel()[0])
        highest = float(np.finfo(b.dtype).max) if bounds[1] is None else float(bounds[1].ravel()[0])
        if lowest <= highest:
            return b.op("clip", x=x, alpha=lowest, beta=highest)
    if low is not None:
        x = b.op("maximum", x=x, y=low)
    return x if high is None else b.op("minimum", x=x, y=high)


@op("Identity", "StopGradient")
def identity(b: Builder, x: Operand) -> Operand:
    return x


@op("Dropout")
def dropout(b: Builder, x: Operand, ratio: Operand = None, training: Operand = None, *,
            seed: int | None = None) -> Any:
    """Nothing is dropped at inference; the mask is all true."""
    if training is not None and b.need(training, "training_mode").any():
        raise CannotLower("training_mode")
    return x, Constant(np.ones(b.shape(x), np.bool_))


@op("IsNaN")
def is_nan(b: Builder, x: Operand) -> Var:
    return b.op("not_equal", x=x, y=x)


@op("IsInf")
def is_inf(b: Builder, x: Operand, *, detect_negative: int = 1, detect_positive: int = 1) -> Var:
    """|x| above the largest finite number of the program's float type."""
    limit = float(np.finfo(b.dtype).max)
    above = b.op("greater", x=x, y=limit)
    below = b.op("less", x=x, y=-limit)
    if detect_negative and detect_positive:
        return b.op("logical_or", x=above, y=below)
    if detect_positive or detect_negative:
        return above if detect_positive else below
    return b.op("logical_and", x=above, y=below)
