"""Arithmetic, comparison, logic, Where: both sides constant, all the ways to broadcast."""
from __future__ import annotations

from typing import Final

from .case import Case, case, const, given, x

_BINARY: Final = tuple(
    row for op in ("Add", "Sub", "Mul", "Div") for row in (
        case(f"{op}-two".lower(), op, x(1, 3, 4, 5), x(1, 3, 4, 5, low=0.5, high=2)),
        case(f"{op}-channel".lower(), op, x(2, 3, 4, 5), const(1, 3, 1, 1, low=0.5, high=2)),
        case(f"{op}-row".lower(), op, x(3, 5), const(5, low=0.5, high=2)),
        case(f"{op}-scalar".lower(), op, x(1, 3, 4, 5), given(1.75, "float32")),
        case(f"{op}-constant-left".lower(), op, const(1, 3, 1, 1), x(2, 3, 4, 5, low=0.5, high=2)),
        case(f"{op}-both-ways".lower(), op, x(3, 1, 5), x(2, 1, 4, 1, low=0.5, high=2)),
    ))

_UNARY: Final = tuple(case(op.lower(), op, x(2, 3, 5, 4)) for op in (
    "Abs", "Neg", "Exp", "Sin", "Cos", "Sinh", "Cosh", "Atan", "Asinh", "Erf", "Sign", "Identity"))

_BOUNDED: Final = (
    case("neg-one-sided", "Neg", x(2, 3, 5, 4, low=0, high=6)),
    case("exp-wide", "Exp", x(2, 3, 5, 4, low=-8, high=8)),
    case("sqrt", "Sqrt", x(2, 3, 5, 4, low=0.1, high=4)),
    case("log", "Log", x(2, 3, 5, 4, low=0.5, high=4)),
    case("reciprocal", "Reciprocal", x(2, 3, 5, 4, low=0.5, high=4)),
    case("tan", "Tan", x(2, 7, low=-1.2, high=1.2)),
    case("asin", "Asin", x(2, 7, low=-0.9, high=0.9)),
    case("acos", "Acos", x(2, 7, low=-0.9, high=0.9)),
    case("acosh", "Acosh", x(2, 7, low=1.5, high=4)),
    case("atanh", "Atanh", x(2, 7, low=-0.9, high=0.9)),
    case("floor", "Floor", x(2, 3, 5, 4, low=-4, high=4, lattice=0.125)),
    case("ceil", "Ceil", x(2, 3, 5, 4, low=-4, high=4, lattice=0.125)),
    case("round", "Round", x(2, 3, 5, 4, low=-4, high=4, lattice=0.125)),
    case("pow-two", "Pow", x(2, 7), given(2.0, "float32")),
    case("pow-half", "Pow", x(2, 7, low=0.25, high=4), given(0.5, "float32")),
    case("pow-tensor", "Pow", x(2, 7, low=0.25, high=2), const(7, low=-1, high=2)),
    case("mod-float", "Mod", x(2, 7, low=-4, high=4, lattice=0.125), given(1.5, "float32"), fmod=1),
    case("mod-int", "Mod", x(2, 7, dtype="int64", low=-9, high=9), given(4)),
    case("min-two", "Min", x(2, 3, 5), x(3, 1)),
    case("max-two", "Max", x(2, 3, 5), x(3, 1)),
    case("max-scalar", "Max", x(2, 3, 5), given(0.25, "float32")),
    case("min-constant-left", "Min", const(3, 1), x(2, 3, 5)),
    case("max-three", "Max", x(2, 3, 5), x(3, 1), x(5)),
    case("sum-three", "Sum", x(2, 3, 5), x(3, 1), const(5)),
    case("mean-three", "Mean", x(2, 3, 5), x(3, 1), const(5)),
    case("add-int", "Add", x(2, 7, dtype="int64"), given([3] * 7)),
    case("mul-int", "Mul", x(2, 7, dtype="int32"), given(3, "int32")),
    case("div-int", "Div", x(2, 7, dtype="int64", low=-9, high=9), given(2)),
    case("add-itself", "Add", x(2, 3, 5), "x0"),
    case("mul-itself", "Mul", x(2, 3, 5), "x0"),
    case("bit-shift", "BitShift", x(2, 7, dtype="uint8"), given(2, "uint8"), direction="LEFT"),
)

_LOGIC: Final = (
    *(case(op.lower(), op, x(2, 3, 5, lattice=0.5), x(3, 1, lattice=0.5))
      for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")),
    case("greater-constant", "Greater", x(2, 3, 5, lattice=0.5), given(0.5, "float32")),
    case("less-constant-left", "Less", const(3, 1, lattice=0.5), x(2, 3, 5, lattice=0.5)),
    case("equal-int", "Equal", x(2, 7, dtype="int64", high=3), given(1)),
    case("and", "And", x(2, 3, 5, dtype="bool"), x(3, 1, dtype="bool")),
    case("or", "Or", x(2, 3, 5, dtype="bool"), x(5, dtype="bool")),
    case("xor", "Xor", x(2, 7, dtype="bool"), x(2, 7, dtype="bool")),
    case("not", "Not", x(2, 7, dtype="bool")),
    case("bitwise-and", "BitwiseAnd", x(2, 7, dtype="int32"), given(6, "int32")),
    case("bitwise-or", "BitwiseOr", x(2, 7, dtype="int32"), given(6, "int32")),
    case("bitwise-xor", "BitwiseXor", x(2, 7, dtype="int32"), given(6, "int32")),
    case("bitwise-not", "BitwiseNot", x(2, 7, dtype="int32", low=-9, high=9)),
    case("is-nan", "IsNaN", x(2, 7)),
    case("is-inf", "IsInf", x(2, 7)),
    case("where", "Where", x(2, 3, 5, dtype="bool"), x(2, 3, 5), x(2, 3, 5)),
    case("where-broadcast", "Where", x(3, 1, dtype="bool"), x(2, 1, 5), x(5)),
    case("where-scalar", "Where", x(2, 3, 5, dtype="bool"), x(2, 3, 5), given(-2.5, "float32")),
    case("where-constant-mask", "Where", const(3, 5, dtype="bool"), x(2, 3, 5), x(2, 3, 5)),
    case("where-int", "Where", x(2, 7, dtype="bool"), x(2, 7, dtype="int64"), given(-1)),
)

CASES: Final[tuple[Case, ...]] = (*_BINARY, *_UNARY, *_BOUNDED, *_LOGIC)
