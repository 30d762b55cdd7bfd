"""Inputs and outputs that are integers of a grid: real = scale * (integer - zero_point)."""
from __future__ import annotations

from typing import Any

import numpy as np

from .manifest import TensorSpec


def to_integers(spec: TensorSpec, real: Any) -> Any:
    """Real numbers, any shape -> the integers that the model takes, same shape: ONNX QuantizeLinear, ties to even."""
    if spec.scale is None:
        return real
    limits = np.iinfo(spec.dtype)
    steps = np.rint(np.asarray(real, np.float32) / np.float32(spec.scale)) + (spec.zero_point or 0)
    return np.clip(steps, limits.min, limits.max).astype(spec.dtype)


def to_reals(spec: TensorSpec, integers: Any) -> Any:
    """The inverse: ONNX DequantizeLinear, float32. Of a tensor without a grid the numbers as they are."""
    if spec.scale is None:
        return integers
    return (np.asarray(integers, np.int32) - (spec.zero_point or 0)).astype(np.float32) * np.float32(spec.scale)
