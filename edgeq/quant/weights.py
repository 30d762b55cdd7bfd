"""Weights to integers: pure numpy on arrays, no graph."""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.quant.params import SMALLEST_SCALE
from edgeq.quant.rounding import Rounding
from edgeq.quant.scale_search import ScaleSearch, full
from edgeq.scheme import Granularity, PerBlock, PerChannel, PerTensor, QuantParams, QuantType, broadcast

# Half of what int32 holds: integers are rounded up, too. Of 64 bits as much as LiteRT's QuantizeMultiplier makes two
# steps of, whatever the output's grid: it takes a factor below 2**-32 for 0.
# https://github.com/google-ai-edge/LiteRT/blob/main/tflite/kernels/internal/quantization_util.cc
_ACCUMULATOR: Final = {32: 2**30, 64: 2**33}
_SMALLEST_PRODUCT: Final = 2.0**-120  # of an input's scale and a weight's: a bias is divided by it
_SLICE: Final = 2**22  # elements: what is computed with at once, so that a layer does not need ten times its memory


def weight_params(weight: NDArray[np.float32], kind: QuantType, search: ScaleSearch = full) -> QuantParams:
    """weight (any shape) -> symmetric scales with zero point 0: [] per tensor, [C] per channel, blocked axis divided.

    By default the grid covers the largest magnitude: clipping it away lowers the squared error at 4 bits, but spoils
    the sums that `rounding.sum_preserving` keeps, which matter more (4-bit SqueezeNet 1.1: 56 % top-1 against 54 with
    the best clip).
    """
    qmax, shape = kind.range[1], _scale_shape(weight.shape, kind)
    scales = np.empty(shape, np.float32)
    for part, of_part in _slices(weight.shape, kind):
        groups = _grouped(weight[part], kind)
        scales[of_part] = search(groups.reshape(len(groups), -1), qmax).reshape(scales[of_part].shape)
    nothing = max(float(scales.max(initial=0.0)) * 1e-6, 1e-12 / qmax)  # of a channel of zeros: any number will do
    scales = np.where(scales > 0, np.maximum(scales, SMALLEST_SCALE), nothing)
    return QuantParams(kind, np.asarray(scales, np.float32), np.zeros(shape, np.int32))


def widen_for_bias(params: QuantParams, inputs: QuantParams, bias: NDArray[np.float32], weight: NDArray[np.float32],
                   bits: Literal[32, 64] = 32) -> QuantParams:
    """Raise the scale of a channel whose accumulator of so many bits would overflow: bias [C] and all products.

    An accumulator starts at bias / (input scale * scale) and adds up to 255 steps of the input (of 8 bits) times every
    weight's integer. Kernels do not saturate there, they wrap. A bias below a quarter of it leaves room enough.
    """
    step, limit = np.float64(inputs.scale), _ACCUMULATOR[bits]
    reach = (2**inputs.type.bits - 1) * _channel_sums(weight, params.type.granularity)
    held = np.abs(bias.astype(np.float64)) / step
    if isinstance(params.type.granularity, PerTensor):
        held = held.max(initial=0.0)
    least = np.where(held > params.scale * np.float64(limit // 2), (held + reach) / limit, 0.0)
    scale = np.asarray(np.maximum(params.scale, least), np.float32)
    scale = np.asarray(np.maximum(scale, np.float32(min(_SMALLEST_PRODUCT / step, 1.0))))
    return replace(params, scale=scale.reshape(params.scale.shape))


def _channel_sums(weight: NDArray[np.float32], granularity: Granularity) -> NDArray[np.float64]:
    """The sum of magnitudes of each output channel [C], or the largest of all [] where they share a scale."""
    def sums(axis: int) -> NDArray[np.float64]:
        others = tuple(a for a in range(weight.ndim) if a != axis % weight.ndim)
        return np.asarray(np.abs(weight).sum(others, dtype=np.float64))

    if isinstance(granularity, PerChannel):
        return sums(granularity.axis)
    return np.asarray(max((sums(axis).max(initial=0.0) for axis in range(min(weight.ndim, 2))), default=0.0))


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


def quantize_weight(weight: NDArray[np.float32], params: QuantParams, rounding: Rounding) -> NDArray[np.int8]:
    """weight -> integers in the narrow range, same shape."""
    kind = params.type
    stored = np.empty(weight.shape, np.int8)
    for part, of_part in _slices(weight.shape, kind):
        data = weight[part]
        scaled = _grouped(data / broadcast(params.scale[of_part], kind.granularity, data.shape), kind)
        stored[part] = _ungrouped(rounding(scaled, kind.range[1]), data.shape, kind)
    return stored


def _slices(shape: tuple[int, ...], kind: QuantType) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Slices of a weight in which every group is whole, and those of its scales."""
    match kind.granularity:
        case PerChannel(channel):
            axis, before = channel % len(shape), 0
        case PerBlock(_, blocked) if len(shape) == 2:
            axis = before = 1 - blocked % 2
        case _:
            yield (), ()
            return
    step = max(1, _SLICE * shape[axis] // max(1, math.prod(shape)))
    for start in range(0, shape[axis], step):
        part = slice(start, start + step)
        yield (*[slice(None)] * axis, part), (*[slice(None)] * before, part)


def _grouped(weight: NDArray[np.float32], kind: QuantType) -> NDArray[np.float32]:
    """Everything that shares a scale on one row, in the order of the flattened scales -> [rows, kernels, kernel size].

    A kernel is what lies behind the first two axes of a weight, as Conv and ConvTranspose store it.
    """
    size = int(np.prod(weight.shape[2:], dtype=np.int64))
    match kind.granularity:
        case PerTensor():
            return weight.reshape(1, -1, size)
        case PerChannel(axis):
            return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1, size if axis < 2 else 1)
        case PerBlock(block, axis):
            split, axis = _split(weight, block, axis)
            return np.moveaxis(split, axis + 1, -1).reshape(-1, block, 1)


def _ungrouped(grouped: NDArray[np.float32], shape: tuple[int, ...], kind: QuantType) -> NDArray[np.float32]:
    """The inverse of _grouped."""
    match kind.granularity:
        case PerTensor():
            return grouped.reshape(shape)
        case PerChannel(axis):
            moved = (shape[axis], *shape[:axis], *shape[axis + 1:])
            return np.moveaxis(grouped.reshape(moved), 0, axis)
        case PerBlock(block, axis):
            axis %= len(shape)
            outside = (*shape[:axis], shape[axis] // block, *shape[axis + 1:])
            return np.moveaxis(grouped.reshape(*outside, block), -1, axis + 1).reshape(shape)


def _split(weight: NDArray[np.float32], block: int, axis: int) -> tuple[NDArray[np.float32], int]:
    axis %= weight.ndim
    return weight.reshape(*weight.shape[:axis], -1, block, *weight.shape[axis + 1:]), axis


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
