"""Quantized constants as MIL's constexpr ops: the integers stay integers in the file.

Which op exists where: https://apple.github.io/coremltools/docs-guides/source/opt-overview.html

    int8, per tensor or channel   iOS 16, 17  constexpr_affine_dequantize      iOS 18  constexpr_blockwise_shift_scale
    int4, per tensor or channel   iOS 16, 17  one 16-entry table; scales are   iOS 18  one 16-entry table per channel,
                                              multiplied onto the output               scale included; short
                                                                                       channels as before iOS 18
    int8 of 16 numbers a channel                                           iOS 18  such a table for each run of
                                                                                   channels that it suffices for
    int4 or int8, per block       iOS 18 off the Neural Engine: constexpr_blockwise_shift_scale

A table of 16 entries holds 4-bit integers exactly, and unlike int4 it is legal on the Neural Engine.
"""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.pack import pack4
from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantParams, per_axis
from edgeq_converters.coreml.builder import Builder
from edgeq_converters.mil.builder import Constant, Raw, Var, Weight
from edgeq_converters.mil.packing import LEVELS, find_tables, stays_packed, table_indices
from edgeq_converters.optable import CannotLower

SHORT: Final = 128  # weights of a channel, 64 bytes; a table of its own, 32 bytes, would be a third of the file


def packed(b: Builder, constant: Constant) -> Var | None:
    """`dense` for a constant whose integers are worth keeping, None for others."""
    return dense(b, constant) if stays_packed(constant) else None


def weight(b: Builder, constant: Constant, output_axis: int) -> Weight:
    """A weight whose axis `output_axis` is the channel axis of the op's output."""
    params = constant.params
    if params is not None and stays_packed(constant) and params.type.bits == 4:
        per_output = params.type.granularity == PerChannel(output_axis)
        small = constant.data.size < SHORT * params.scale.size and not params.zero_point.any()
        if per_output and (b.options.min_os < 18 or small):
            return _shared_table(b, constant)
    return Weight(b.var(constant))


def dense(b: Builder, constant: Constant) -> Var:
    """A quantized constant for any reader -> Var of floats.

    Raises:
        CannotLower: this granularity does not exist on the chosen OS and compute units.
    """
    assert constant.params is not None
    if isinstance(constant.params.type.granularity, PerBlock):
        return _blocks(b, constant)
    if constant.params.type.bits == 8:
        tables = find_tables(constant) if b.options.min_os >= 18 else None
        if tables is not None:
            return _lookup(b, constant, tables)
        return _shift_scale(b, constant) if b.options.min_os >= 18 else _affine(b, constant)
    if not _needs_multiplier(b, constant):
        return _bytes(b, constant) if _is_short(b, constant) else _table(b, constant)
    shared = _shared_table(b, constant)
    assert shared.multiplier is not None
    assert isinstance(constant.params.type.granularity, PerChannel)
    factors = per_axis(shared.multiplier, constant.params.type.granularity.axis, constant.data.ndim)
    return b.op("mul", x=shared.var, y=factors)


def _is_short(b: Builder, constant: Constant) -> bool:
    """True where a table for each channel takes more room than a byte for each weight."""
    assert constant.params is not None
    return b.options.min_os >= 18 and constant.data.size < constant.params.scale.size * 4 * LEVELS


def _bytes(b: Builder, constant: Constant) -> Var:
    """4-bit integers, a byte each."""
    assert constant.params is not None
    params = replace(constant.params, type=replace(constant.params.type, bits=8))
    return _shift_scale(b, Constant(constant.data.astype(np.int8), params))


def _needs_multiplier(b: Builder, constant: Constant) -> bool:
    """Before iOS 18 a table belongs to the whole tensor, so the scales of channels stay outside."""
    assert constant.params is not None
    kind = constant.params.type
    return b.options.min_os < 18 and kind.bits == 4 and isinstance(kind.granularity, PerChannel)


def _shared_table(b: Builder, constant: Constant) -> Weight:
    """One table of levels times the largest scale: sums of bare integers would overflow float16 over wide inputs."""
    params = constant.params
    assert params is not None
    if params.zero_point.any():
        raise CannotLower("4-bit weights with a zero point per channel need iOS 18", "--min-os 18")
    largest = params.scale.max() or np.float32(1)
    same = QuantParams(replace(params.type, granularity=PerTensor()), np.asarray(largest), np.zeros((), np.int32))
    return Weight(_table(b, Constant(constant.data, same)), params.scale / largest)


def _levels(params: QuantParams) -> NDArray[np.int32]:
    low = -LEVELS // 2 if params.type.signed else 0
    return np.arange(low, low + LEVELS, dtype=np.int32)


def _table(b: Builder, constant: Constant) -> Var:
    return _table_per_channel(b, constant) if b.options.min_os >= 18 else _table_per_tensor(b, constant)


def _table_per_tensor(b: Builder, constant: Constant) -> Var:
    """iOS 16: indices are packed bits, the shape is told apart."""
    params = constant.params
    assert params is not None
    levels = _levels(params)
    table = ((levels - params.zero_point) * params.scale).astype(b.dtype)
    indices = constant.data.astype(np.int16) - levels[0]
    packed = pack4(indices)
    b.packed4.add(packed.tobytes())
    return b.op("constexpr_lut_to_dense", indices=Raw(packed), lut=table,
                shape=Raw(np.array(constant.shape, np.uint32)))


def _table_per_channel(b: Builder, constant: Constant) -> Var:
    """iOS 18: indices uint4 of the data's shape; table [.., C, .., 16, 1] with the scale multiplied in."""
    params = constant.params
    assert params is not None
    levels, rank = _levels(params), constant.data.ndim
    axis = params.type.granularity.axis if isinstance(params.type.granularity, PerChannel) else 0
    scale, zero_point = (per_axis(np.atleast_1d(v), axis, rank)[..., None] for v in (params.scale, params.zero_point))
    table = ((levels - zero_point) * scale)[..., None].astype(b.dtype)
    indices = constant.data.astype(np.int16) - levels[0]
    b.packed4.add(pack4(indices).tobytes())
    return b.op("constexpr_lut_to_dense", indices=Raw(_typed(indices, "uint4")), lut=table)


def _lookup(b: Builder, constant: Constant, tables: NDArray[np.float32]) -> Var:
    """iOS 18: indices uint4 of the data's shape; table [.., S, .., 16, 1], each for a run of channels."""
    assert constant.params is not None
    assert isinstance(constant.params.type.granularity, PerChannel)
    indices = table_indices(constant, tables)
    b.packed4.add(pack4(indices.astype(np.int8)).tobytes())
    shape = [1] * constant.data.ndim
    shape[constant.params.type.granularity.axis] = len(tables)
    return b.op("constexpr_lut_to_dense", indices=Raw(_typed(indices, "uint4")),
                lut=tables.reshape(*shape, LEVELS, 1).astype(b.dtype))


def _affine(b: Builder, constant: Constant) -> Var:
    params = constant.params
    assert params is not None
    stored = np.int8 if params.type.signed else np.uint8
    axis = params.type.granularity.axis if isinstance(params.type.granularity, PerChannel) else 0
    return b.op("constexpr_affine_dequantize", quantized_data=Raw(constant.data.astype(stored)),
                zero_point=Raw(params.zero_point.astype(stored)[()]), scale=params.scale.astype(b.dtype)[()], axis=axis)


def _shift_scale(b: Builder, constant: Constant) -> Var:
    """real = scale * (data - offset); scale and offset have data's rank."""
    params = constant.params
    assert params is not None
    name = f"{'int' if params.type.signed else 'uint'}{params.type.bits}"
    rank = constant.data.ndim
    match params.type.granularity:
        case PerTensor():
            scale, zero_point = params.scale.reshape([1] * rank), params.zero_point.reshape([1] * rank)
        case PerChannel(axis):
            scale, zero_point = per_axis(params.scale, axis, rank), per_axis(params.zero_point, axis, rank)
        case PerBlock():
            scale, zero_point = params.scale, params.zero_point
    if params.type.bits == 4:
        b.packed4.add(pack4(constant.data.astype(np.int8)).tobytes())
    offset = Raw(_typed(zero_point, name)) if zero_point.any() else None
    return b.op("constexpr_blockwise_shift_scale", data=Raw(_typed(constant.data, name)),
                scale=Raw(scale.astype(b.dtype)), offset=offset)


def _blocks(b: Builder, constant: Constant) -> Var:
    params = constant.params
    assert params is not None
    assert isinstance(params.type.granularity, PerBlock)
    size, axis = params.type.granularity.size, params.type.granularity.axis
    if b.options.min_os < 18:
        raise CannotLower("weights with a scale per block need iOS 18", "--min-os 18 or --weights per-channel")
    if b.options.compute != "gpu":  # https://github.com/apple/coremltools/issues/2510
        raise CannotLower("the Neural Engine has no weights with a scale per block",
                          "--weights per-channel, or --compute gpu")
    if constant.shape[axis] % size:
        raise CannotLower(f"axis {axis} of {constant.shape[axis]} is not a multiple of the block of {size}",
                          "--weights per-channel")
    return _shift_scale(b, constant)


def _typed(data: NDArray[Any], name: str) -> NDArray[Any]:
    """data with coremltools' dtype of that name: numpy metadata that many operations drop, so applied last."""
    from coremltools.converters.mil.mil import types

    dtype = types.nptype_from_builtin(types.string_to_builtin(name))
    return np.ascontiguousarray(data).astype(np.uint8 if name.startswith("u") else np.int8).astype(dtype)
