"""Normalizations. Reference: .../ops/defs/iOS15/normalization.py."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.verification.mlpackage.functions import per_channel
from edgeq.verification.mlpackage.optable import OpTable
from edgeq.verification.mlpackage.types import Array

op = OpTable()


@op("local_response_norm")
def local_response_norm(x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """x [N, C, ...] / (k + alpha / size * (sum of squares over `size` neighbouring channels)) ** beta."""
    channels = x.shape[1]
    before = size // 2
    squares = np.zeros((x.shape[0], channels + size - 1, *x.shape[2:]), np.float32)
    squares[:, before:before + channels] = x * x
    total = sum(squares[:, shift:shift + channels] for shift in range(size))
    return x / (np.float32(k) + np.float32(alpha / size) * total) ** np.float32(beta)


@op("batch_norm")
def batch_norm(x: Array, mean: Array, variance: Array, gamma: Array | None = None, beta: Array | None = None,
               epsilon: float = 1e-5) -> Array:
    """x [N, C, ...], the others [C]."""
    scale = np.float32(1) / np.sqrt(variance + np.float32(epsilon))
    if gamma is not None:
        scale = scale * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    return x * per_channel(scale, x.ndim) + per_channel(shift, x.ndim)


@op("instance_norm")
def instance_norm(x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: float = 1e-5) -> Array:
    """x [N, C, *spatial], each channel of each image normalized over its space; gamma and beta [C]."""
    result = _standardize(x, tuple(range(2, x.ndim)), epsilon)
    if gamma is not None:
        result *= per_channel(gamma, x.ndim)
    if beta is not None:
        result += per_channel(beta, x.ndim)
    return result


@op("layer_norm")
def layer_norm(x: Array, axes: Any = None, gamma: Array | None = None, beta: Array | None = None,
               epsilon: float = 1e-5) -> Array:
    """x normalized over `axes` (all without them); gamma and beta have the shape of x along these axes."""
    normalized = sorted(int(axis) % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    shape = [x.shape[axis] if axis in normalized else 1 for axis in range(x.ndim)]
    result = _standardize(x, tuple(normalized), epsilon)
    if gamma is not None:
        result *= np.reshape(gamma, shape)
    if beta is not None:
        result += np.reshape(beta, shape)
    return result


def _standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True, dtype=np.float32)
    variance = np.square(centred).mean(axis=axes, keepdims=True, dtype=np.float32)
    centred /= np.sqrt(variance + np.float32(epsilon))
    return centred


@op("l2_norm")
def l2_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """x [..., C, H, W] / sqrt(sum of squares over the last three dimensions + epsilon)."""
    total = np.square(x).sum(axis=(-3, -2, -1), keepdims=True)
    return x / np.sqrt(total + np.float32(epsilon))
