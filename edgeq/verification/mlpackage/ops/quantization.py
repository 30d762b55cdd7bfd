"""Quantized activations and compressed constants.

Reference: .../ops/defs/iOS17/quantization_ops.py, iOS16/constexpr_ops.py, iOS18/compression.py. The arithmetic is
float32, rounded once to the declared type, as coremltools' own decompression does it.
"""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.verification.mlpackage.functions import per_channel
from edgeq.verification.mlpackage.optable import OpTable
from edgeq.verification.mlpackage.types import BY_NAME, Array, unpack_bits

op = OpTable()


def _along(parameter: Any, rank: int, axis: int | None) -> Array:
    return per_channel(np.asarray(parameter, np.float32), rank, 0 if axis is None else axis)


@op("quantize")
def quantize(input: Array, scale: Any, output_dtype: str, zero_point: Any = None, axis: int | None = None) -> Array:
    """clip(round(input / scale) + zero_point); ties to even."""
    limits = np.iinfo(BY_NAME[output_dtype].carrier)
    steps = np.rint(input / _along(scale, input.ndim, axis))
    if zero_point is not None:
        steps += _along(zero_point, input.ndim, axis)
    return np.clip(steps, limits.min, limits.max).astype(limits.dtype)


@op("dequantize")
def dequantize(input: Array, scale: Any, zero_point: Any = None, axis: int | None = None) -> Array:
    """(input - zero_point) * scale."""
    steps = np.asarray(input).astype(np.float32)
    if zero_point is not None:
        steps -= _along(zero_point, steps.ndim, axis)
    return steps * _along(scale, steps.ndim, axis)


@op("constexpr_affine_dequantize")
def constexpr_affine_dequantize(quantized_data: Array, zero_point: Any, scale: Any, axis: int) -> Array:
    return dequantize(quantized_data, scale, zero_point, axis)


@op("constexpr_cast")
def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    return source_val


def _spread(parameter: Any, shape: tuple[int, ...]) -> Array:
    """parameter, one value per block (its shape divides ``shape``) -> one value per element."""
    result = np.asarray(parameter)
    for axis, size in enumerate(shape):
        if result.shape[axis] not in (1, size):
            result = np.repeat(result, size // result.shape[axis], axis)
    return result


@op("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """data [...], scale and offset of the same rank, one value per block -> scale * (data - offset)."""
    values = np.asarray(data).astype(np.float32)
    if offset is not None:
        values -= _spread(offset, values.shape).astype(np.float32)
    return values * _spread(scale, values.shape)


@op("constexpr_lut_to_dense", exact=True)
def constexpr_lut_to_dense(indices: Array, lut: Array, shape: Any = None, vector_axis: int | None = None) -> Array:
    """indices into a table -> the values.

    iOS 16: indices uint8 [ceil(bits * size / 8)] packed, lut [2 ** bits], shape. iOS 18: indices [...], and
    lut [*blocks, 2 ** bits, V]: a table per block of indices, whose entries are V values along `vector_axis`.
    """
    if shape is not None:
        bits, sizes = int(lut.size).bit_length() - 1, tuple(int(size) for size in shape)
        return lut[unpack_bits(indices, int(np.prod(sizes)), bits, signed=False)].reshape(sizes)
    blocks, (entries, vector) = lut.shape[:-2], lut.shape[-2:]
    block = np.zeros((1,) * indices.ndim, np.int64)
    for axis, (size, count) in enumerate(zip(indices.shape, blocks, strict=True)):
        block = block * count + per_channel(np.arange(size) // (size // count), indices.ndim, axis)
    values = lut.reshape(-1, entries, vector)[block, indices]
    if vector == 1:
        return values[..., 0]
    position = (vector_axis or 0) % indices.ndim
    sizes = tuple(size * (vector if axis == position else 1) for axis, size in enumerate(indices.shape))
    return np.moveaxis(values, -1, position + 1).reshape(sizes)


@op("constexpr_sparse_to_dense", exact=True)
def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Any = None) -> Array:
    """The values where the mask has a 1 (iOS 16: packed bits and a shape), zeros elsewhere."""
    if shape is not None:
        sizes = tuple(int(size) for size in shape)
        mask = unpack_bits(mask, int(np.prod(sizes)), 1, signed=False).reshape(sizes)
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


@op("constexpr_lut_to_sparse", exact=True)
def constexpr_lut_to_sparse(indices_mask: Array, indices_nonzero_data: Array, lut: Array,
                            vector_axis: int | None = None) -> tuple[Array, Array]:
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, None, vector_axis)
    mask = indices_mask if lut.shape[-1] == 1 else np.repeat(indices_mask, lut.shape[-1], vector_axis or 0)
    return mask, dense[mask != 0]


@op("constexpr_sparse_blockwise_shift_scale")
def constexpr_sparse_blockwise_shift_scale(data_mask: Array, nonzero_data: Array, scale: Array,
                                           offset: Array | None = None) -> tuple[Array, Array]:
    dense = constexpr_blockwise_shift_scale(constexpr_sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]
