"""Weights to integers: pure numpy on arrays, no graph."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantParams, QuantType, quantize

CLIPS = np.linspace(0.5, 1.0, 21)  # shares of the largest magnitude tried as the end of a coarse grid


def weight_params(weight: NDArray[np.float32], kind: QuantType) -> QuantParams:
    """weight (any shape) -> symmetric scales with zero point 0: [] per tensor, [C] per channel, blocked axis divided.

    Eight bits cover the largest magnitude. Below, the largest is clipped where that lowers the squared error: at 4 bits
    half a step of the full range costs more than a few clipped outliers (Banner et al. 2019, arXiv:1810.05723).
    """
    groups = _grouped(weight, kind)  # [groups, elements]
    peak = np.abs(groups).max(axis=1)
    peak = np.maximum(peak, max(float(peak.max(initial=0.0)) * 1e-6, 1e-12))  # all-zero channels get a finite scale
    high = kind.range[1]
    scale = peak / high if kind.bits >= 8 else _best_clip(groups, peak, high)
    shape = _scale_shape(weight.shape, kind)
    return QuantParams(kind, scale.astype(np.float32).reshape(shape), np.zeros(shape, np.int32))


def _best_clip(groups: NDArray[np.float32], peak: NDArray[np.float32], high: int) -> NDArray[np.float32]:
    """groups [G,E], peak [G] -> scale [G] with the least squared rounding error among CLIPS."""
    best, least = peak / high, np.full(len(peak), np.inf)
    for clip in CLIPS:
        scale = (peak * clip / high).astype(np.float32)
        rounded = np.clip(np.rint(groups / scale[:, None]), -high, high) * scale[:, None]
        error = ((rounded - groups) ** 2).sum(axis=1)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return np.asarray(best, np.float32)


def widen_for_bias(params: QuantParams, input_scale: float, bias: NDArray[np.float32]) -> QuantParams:
    """Raise the scale of a channel whose int32 bias would overflow on the product grid. bias: [C]."""
    least = np.abs(bias) / (np.float64(input_scale) * (2**31 - 1))
    if isinstance(params.type.granularity, PerTensor):
        least = least.max(initial=0.0)
    scale = np.maximum(params.scale, least * (1 + 1e-6)).astype(np.float32)
    return replace(params, scale=scale.reshape(params.scale.shape))


def bias_params(params: QuantParams, input_scale: np.float32, size: int) -> QuantParams:
    """The int32 product grid of an activation and a weight -> params with scale [size]."""
    scale = (np.float32(input_scale) * params.scale.astype(np.float32)).astype(np.float32)
    scale = np.broadcast_to(scale.reshape(-1), (size,)).copy()
    kind = QuantType(32, granularity=PerChannel(0))
    return QuantParams(kind, scale, np.zeros(size, np.int32))


def quantize_bias(bias: NDArray[np.float32], params: QuantParams) -> NDArray[np.int32]:
    """bias [C] -> int32 [C]; in double precision, since float32 cannot hold 31 bits."""
    stored = np.rint(bias.astype(np.float64) / params.scale.astype(np.float64))
    return np.clip(stored, -(2**31) + 1, 2**31 - 1).astype(np.int32)


def quantize_weight(weight: NDArray[np.float32], params: QuantParams) -> NDArray[np.int8]:
    """weight -> integers in the narrow range, same shape."""
    return quantize(weight, params).astype(np.int8)


def _grouped(weight: NDArray[np.float32], kind: QuantType) -> NDArray[np.float32]:
    """Bring everything that shares a scale onto one row, in the order of the flattened scales."""
    match kind.granularity:
        case PerTensor():
            return weight.reshape(1, -1)
        case PerChannel(axis):
            return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
        case PerBlock(size, axis):
            axis %= weight.ndim
            split = weight.reshape(*weight.shape[:axis], -1, size, *weight.shape[axis + 1:])
            return np.moveaxis(split, axis + 1, -1).reshape(-1, size)


def _scale_shape(shape: tuple[int, ...], kind: QuantType) -> tuple[int, ...]:
    match kind.granularity:
        case PerTensor():
            return ()
        case PerChannel(axis):
            return (shape[axis],)
        case PerBlock(size, axis):
            axis %= len(shape)
            return (*shape[:axis], shape[axis] // size, *shape[axis + 1:])


def stored_array(values: NDArray[Any], kind: QuantType) -> NDArray[Any]:
    """Integers in the numpy type that ONNX stores them in; 4-bit types pack themselves on saving."""
    import ml_dtypes

    if kind.bits == 4:
        return values.astype(ml_dtypes.int4 if kind.signed else ml_dtypes.uint4)
    return values.astype(np.dtype(f"{'int' if kind.signed else 'uint'}{kind.bits}"))
