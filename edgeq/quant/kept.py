"""Codes of other tools in the types of GGUF that hold them as they are, and the other way."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.quant.codes import Array, Codes
from edgeq.quant.decoder import StoredMatrix
from edgeq.quant.formats import FORMATS, BlockFormat
from edgeq.quant.formats.blocks import half
from edgeq.quant.formats.grid import Storage, Table

# Half precision rounds numbers within its normal range by so much at most.
_HALF: Final = float(np.finfo(np.float16).epsneg)


def held(codes: Codes, types: Iterable[str]) -> StoredMatrix | str:
    """The same levels in the first of the types, each of one level of scales and of more levels than the one before; or
    why the last does not take them. Scales and minima are rounded to half precision.
    """
    if codes.order is not None:
        return "its columns are in another order than the inputs (act-order)"
    if codes.table is not None:
        return "its levels are those of a table"
    if _is_lost(codes.scale, codes.scale) or (codes.offset is not None and _is_lost(codes.offset, codes.scale)):
        return "its scales are beyond half precision"
    levels, reason = codes.levels(), ""
    for format in map(FORMATS.__getitem__, types):
        reason = _why_not(codes, levels, format)
        if not reason:
            return _stored(codes, levels, format)
    return reason


def _is_lost(numbers: Array, beside: Array) -> bool:
    off = np.abs(half(numbers).astype(np.float32) - numbers)
    return bool((off > _HALF * np.maximum(np.abs(numbers), np.abs(beside))).any())


def _why_not(codes: Codes, levels: NDArray[np.int16], format: BlockFormat) -> str:
    """'' where the format holds them."""
    if not format.fits(codes.columns) or codes.group % format.block:
        return f"groups of {codes.group} are no multiple of {format.block}"
    if codes.offset is not None and not format.has_minimum:
        return f"{format.name} has no minima"
    if codes.offset is None and format.has_minimum:
        return f"{format.name} rounds minima, and zero points are exact"
    assert not isinstance(format.levels, Table)
    inside = format.levels.lowest <= levels.min() and levels.max() <= format.levels.high
    return "" if inside else (f"its levels are beyond those of {format.name}, {format.levels.lowest} to "
                              f"{format.levels.high}")


def _stored(codes: Codes, levels: NDArray[np.int16], format: BlockFormat) -> StoredMatrix:
    def spread(numbers: Array) -> NDArray[Any]:
        return np.repeat(half(numbers), codes.group // format.block, axis=1).reshape(-1)

    storage = Storage(spread(codes.scale), None if codes.offset is None else spread(codes.offset))
    grid = format.read_grid(storage, len(levels))
    return StoredMatrix(format.name, format.pack(grid, levels.astype(np.float32)), codes.columns)


def codes_of(matrix: StoredMatrix) -> Codes:
    """A matrix of whole levels as codes of 4 or 8 bits. Levels of a table are whole numbers, too: of 8 bits."""
    format = FORMATS[matrix.type]
    grid, levels = format.unpack(matrix.data)
    whole = levels.astype(np.int16)
    if format.has_minimum:
        return Codes(whole.astype(np.uint8), format.code_bits, grid.scale, offset=grid.offset)
    bits = 8 if isinstance(format.levels, Table) else format.code_bits
    zero = 1 << (bits - 1)
    return Codes((whole + zero).astype(np.uint8), bits, grid.scale, np.full(grid.scale.shape, zero, np.int16))
