"""Which constants keep their integers in the file, and which of those 16 numbers suffice for."""
from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerChannel
from edgeq_converters.mil.builder import Constant

TINY: Final = 64  # elements; below, a table or a scale costs more than it saves, and rank 0 has neither
LEVELS: Final = 16


def stays_packed(constant: Constant) -> bool:
    """True where the integers are worth keeping: int32 biases, 16-bit weights and tiny tensors become floats."""
    return constant.params is not None and constant.params.type.bits in (4, 8) and constant.data.size >= TINY


def find_tables(constant: Constant) -> NDArray[np.float32] | None:
    """Ascending tables [S,16] that hold all numbers of 8-bit channels, S dividing their number; the fewest that do.
    None where some channel has more than 16 different numbers, or tables would not make the file smaller.

    So an 8-bit weight of standard ONNX becomes 4 bits here without losing anything.
    """
    params = constant.params
    assert params is not None
    if not isinstance(params.type.granularity, PerChannel) or params.zero_point.any():
        return None
    codes = np.moveaxis(constant.data, params.type.granularity.axis, 0).reshape(params.scale.size, -1)
    real = codes * params.scale[:, None]
    if any(np.unique(row).size > LEVELS for row in codes):
        return None
    for count in (size for size in range(1, len(real) + 1) if len(real) % size == 0):
        found = [np.unique(group) for group in real.reshape(count, -1)]
        if max(map(len, found)) <= LEVELS:
            smaller = codes.size / 2 + 2 * LEVELS * count < codes.size
            return np.array([np.pad(part, (0, LEVELS - len(part)), "edge") for part in found]) if smaller else None
    return None


def table_indices(constant: Constant, tables: NDArray[np.float32]) -> NDArray[np.int64]:
    """Of every number of a constant of 8 bits in the tables that `find_tables` gave, in its shape."""
    params = constant.params
    assert params is not None
    assert isinstance(params.type.granularity, PerChannel)
    codes = np.moveaxis(constant.data, params.type.granularity.axis, 0)
    real = (codes.reshape(params.scale.size, -1) * params.scale[:, None]).reshape(len(tables), -1)
    found = np.stack([np.searchsorted(table, row) for table, row in zip(tables, real, strict=True)])
    return np.moveaxis(found.reshape(codes.shape), 0, params.type.granularity.axis)
