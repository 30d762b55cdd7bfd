"""Mathematical functions that numpy lacks, on float32 arrays."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

import numpy as np

from edgeq.verification.mlpackage.types import Array

# Rational approximation x * P(x^2) / Q(x^2) on [-4, 4], beyond which erf is 1 in float32.
# Eigen, generic_fast_erf_float: https://gitlab.com/libeigen/eigen/-/blob/3.4.0/unsupported/Eigen/src/SpecialFunctions/
# SpecialFunctionsImpl.h
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
          -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
          -1.42647390514189e-02)


def erf(x: Array) -> Array:
    """The error function of x float32 -> float32, absolute error below 1.2e-7 (4.2e-7 if evaluated in float32)."""
    bounded = np.clip(np.asarray(x, np.float64), -4, 4)
    square = bounded * bounded
    return (bounded * _polynomial(_ERF_P, square) / _polynomial(_ERF_Q, square)).astype(np.float32)


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result *= x
        result += coefficient
    return result


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow: half of a tanh."""
    half = np.float32(0.5)
    return half * np.tanh(half * x) + half


def softmax(x: Array, axis: int) -> Array:
    result = x - x.max(axis=axis, keepdims=True)
    np.exp(result, out=result)
    result /= result.sum(axis=axis, keepdims=True)
    return result


def per_channel(vector: Array, rank: int, axis: int = 1) -> Array:
    """vector [C] -> [1, C, 1, ...] of ``rank`` dimensions, to broadcast along ``axis``; a scalar stays one."""
    vector = np.asarray(vector)
    if vector.ndim == 0:
        return vector
    shape = [1] * rank
    shape[axis] = vector.size
    return vector.reshape(shape)
