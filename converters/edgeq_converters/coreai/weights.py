"""Quantized constants as Core AI holds them: the integers stay integers in the file.

    8 bits, 4 bits; per tensor, channel or block    blockwise_shift_scale
    8 bits of 16 numbers a channel                  lut_to_dense: 4-bit indices into a table for each run of channels
                                                    that it suffices for, which loses nothing

Unlike in Core ML, 4-bit integers need no table: the dialect has int4 and uint4.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerBlock, PerChannel, QuantParams, per_axis
from edgeq_converters.coreai.builder import Builder
from edgeq_converters.coreai.dialect import Var
from edgeq_converters.mil.builder import Constant
from edgeq_converters.mil.packing import LEVELS, find_tables, stays_packed, table_indices
from edgeq_converters.optable import CannotLower


def packed(b: Builder, constant: Constant) -> Var | None:
    """A constant whose integers are worth keeping, as floats; None for others.

    Raises:
        CannotLower: the last block is a part of one.
    """
    if not stays_packed(constant) or constant.params is None:
        return None
    tables = find_tables(constant) if constant.params.type.bits == 8 else None
    return _shift_scale(b, constant, constant.params) if tables is None else _lookup(b, constant, tables)


def _shift_scale(b: Builder, constant: Constant, params: QuantParams) -> Var:
    """real = scale * (data - offset); scale and offset have data's rank."""
    scale, zero_point = (_ranked(values, params, constant.data.ndim) for values in (params.scale, params.zero_point))
    if any(size % blocks for size, blocks in zip(constant.shape, scale.shape, strict=True)):
        raise CannotLower(f"weights {list(constant.shape)} are no multiple of their blocks", "--weights per-channel")
    kind = np.int8 if params.type.signed else np.uint8
    if params.type.bits == 4:
        data = b.program.constant4(constant.data, signed=params.type.signed)
        offset = b.program.constant4(zero_point, signed=params.type.signed)
    else:
        data, offset = (b.program.constant(values.astype(kind)) for values in (constant.data, zero_point))
    found: Var = b.call("blockwise_shift_scale", data, b.stored(scale), offset, np.zeros(scale.shape, b.dtype))
    return found


def _ranked(values: NDArray[np.generic], params: QuantParams, rank: int) -> NDArray[np.generic]:
    match params.type.granularity:
        case PerBlock():
            return values
        case PerChannel(axis):
            return per_axis(values, axis, rank)
        case _:
            return values.reshape([1] * rank)


def _lookup(b: Builder, constant: Constant, tables: NDArray[np.float32]) -> Var:
    """Indices uint4 of the data's shape; tables [.., S, .., 16, 1], each for a run of channels."""
    assert constant.params is not None
    assert isinstance(constant.params.type.granularity, PerChannel)
    axis = constant.params.type.granularity.axis
    shape = [1] * constant.data.ndim
    shape[axis] = len(tables)
    indices = b.program.constant4(table_indices(constant, tables), signed=False)
    found: Var = b.call("lut_to_dense", indices, b.program.constant(b.stored(tables.reshape(*shape, LEVELS, 1))),
                        b.program.constant(np.array(axis, np.int16)))
    return found
