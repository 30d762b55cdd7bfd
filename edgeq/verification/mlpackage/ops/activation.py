"""Activations. Reference: coremltools/converters/mil/mil/ops/defs/iOS15/activation.py."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

import math

import numpy as np

from edgeq.verification.mlpackage import functions
from edgeq.verification.mlpackage.functions import erf, per_channel
from edgeq.verification.mlpackage.optable import CannotRun, OpTable
from edgeq.verification.mlpackage.types import Array

op = OpTable()


@op("relu", exact=True)
def relu(x: Array) -> Array:
    return np.maximum(x, x.dtype.type(0))


@op("relu6", exact=True)
def relu6(x: Array) -> Array:
    return np.clip(x, x.dtype.type(0), x.dtype.type(6))


@op("clamped_relu")
def clamped_relu(x: Array, alpha: float, beta: float) -> Array:
    """min(beta, x) where x >= 0, else min(beta, alpha * x)."""
    return np.minimum(np.where(x >= 0, x, x * np.float32(alpha)), np.float32(beta))


@op("elu")
def elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, np.float32(alpha) * np.expm1(np.minimum(x, np.float32(0))))


@op("gelu")
def gelu(x: Array, mode: str = "EXACT") -> Array:
    if mode == "EXACT":
        return np.float32(0.5) * x * (1 + erf(x * np.float32(1 / math.sqrt(2))))
    if mode == "TANH_APPROXIMATION":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.float32(0.5) * x * (1 + np.tanh(inner))
    if mode == "SIGMOID_APPROXIMATION":
        return x * functions.sigmoid(np.float32(1.702) * x)
    raise CannotRun(f"mode '{mode}'")


@op("leaky_relu")
def leaky_relu(x: Array, alpha: float) -> Array:
    return np.where(x >= 0, x, x * np.float32(alpha))


@op("prelu")
def prelu(x: Array, alpha: Array) -> Array:
    """alpha [C], x [N, C, ...]."""
    return np.where(x >= 0, x, x * per_channel(alpha, x.ndim))


@op("linear_activation")
def linear_activation(x: Array, alpha: float, beta: float) -> Array:
    return x * np.float32(alpha) + np.float32(beta)


@op("scaled_tanh")
def scaled_tanh(x: Array, alpha: float, beta: float) -> Array:
    return np.float32(alpha) * np.tanh(x * np.float32(beta))


@op("sigmoid")
def sigmoid(x: Array) -> Array:
    return functions.sigmoid(x)


@op("sigmoid_hard")
def sigmoid_hard(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(x * np.float32(alpha) + np.float32(beta), np.float32(0), np.float32(1))


@op("silu")
def silu(x: Array) -> Array:
    return x * functions.sigmoid(x)


@op("softplus")
def softplus(x: Array) -> Array:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, np.float32(0))


@op("softplus_parametric")
def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """alpha and beta [C], x [N, C, ...] -> alpha * log(1 + exp(beta * x))."""
    return per_channel(alpha, x.ndim) * softplus(x * per_channel(beta, x.ndim))


@op("softmax")
def softmax(x: Array, axis: int = -1) -> Array:
    return functions.softmax(x, axis)


@op("softsign")
def softsign(x: Array) -> Array:
    return x / (1 + np.abs(x))


@op("thresholded_relu", exact=True)
def thresholded_relu(x: Array, alpha: float) -> Array:
    return np.where(x >= np.float32(alpha), x, x.dtype.type(0))
