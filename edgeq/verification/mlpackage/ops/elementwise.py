"""Elementwise ops of one and two inputs. They are rows: a MIL name and the numpy function with the same meaning.

Reference: coremltools/converters/mil/mil/ops/defs/iOS15/elementwise_{unary,binary}.py.
"""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeq.verification.mlpackage.functions import erf
from edgeq.verification.mlpackage.optable import OpTable
from edgeq.verification.mlpackage.types import Array

op = OpTable()

UNARY: dict[str, Callable[[Array], Array]] = {
    "acos": np.arccos, "asin": np.arcsin, "atan": np.arctan, "atanh": np.arctanh, "cos": np.cos, "cosh": np.cosh,
    "erf": erf, "exp": np.exp, "exp2": np.exp2, "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "square": np.square,
    "tan": np.tan, "tanh": np.tanh, "logical_not": np.logical_not,
}
UNARY_EXACT: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs, "ceil": np.ceil, "floor": np.floor, "round": np.rint, "sign": np.sign,
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "real_div": np.true_divide, "floor_div": np.floor_divide,
    "mod": np.mod, "pow": np.power, "equal": np.equal, "not_equal": np.not_equal, "greater": np.greater,
    "greater_equal": np.greater_equal, "less": np.less, "less_equal": np.less_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor,
}
BINARY_EXACT: dict[str, Callable[[Array, Array], Array]] = {"maximum": np.maximum, "minimum": np.minimum}


def _unary(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: function(x)


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda x, y: function(x, y)


for _rows, _exact in ((UNARY, False), (UNARY_EXACT, True)):
    for _name, _one in _rows.items():
        op(_name, exact=_exact)(_unary(_one))
for _pairs, _exact in ((BINARY, False), (BINARY_EXACT, True)):
    for _name, _two in _pairs.items():
        op(_name, exact=_exact)(_binary(_two))


@op("inverse")
def inverse(x: Array, epsilon: float = 1e-4) -> Array:
    """1 / (x + epsilon): the default epsilon makes it a poor reciprocal."""
    return np.reciprocal(x + np.float32(epsilon))


@op("log")
def log(x: Array, epsilon: float = 1e-45) -> Array:
    return np.log(x + np.float32(epsilon))


@op("rsqrt")
def rsqrt(x: Array, epsilon: float = 1e-12) -> Array:
    return np.float32(1) / np.sqrt(x + np.float32(epsilon))


@op("threshold", exact=True)
def threshold(x: Array, alpha: float) -> Array:
    return np.maximum(x, np.asarray(alpha, x.dtype))


@op("clip", exact=True)
def clip(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(x, np.asarray(alpha, x.dtype), np.asarray(beta, x.dtype))


@op("cast")
def cast(x: Array, dtype: str) -> Array:
    """The output is declared as `dtype`, so the interpreter converts: towards zero from floats, x != 0 to bool."""
    return x


@op("identity", exact=True)
def identity(x: Array) -> Array:
    return x


@op("select", exact=True)
def select(cond: Array, a: Array, b: Array) -> Array:
    return np.where(cond, a, b)
