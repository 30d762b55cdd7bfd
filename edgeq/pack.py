"""Four-bit integers, packed two to a byte, low nibble first, as ONNX and TFLite store them."""
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack4(values: NDArray[Any]) -> NDArray[np.uint8]:
    """values: integers in [-8, 15], any shape, flattened in C order -> uint8 [ceil(size / 2)]."""
    nibbles = values.ravel().astype(np.int8).view(np.uint8) & np.uint8(0xF)
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return np.asarray(nibbles[::2] | (nibbles[1::2] << np.uint8(4)), np.uint8)


def unpack4(packed: NDArray[np.uint8], shape: tuple[int, ...], *, signed: bool = True) -> NDArray[np.int8]:
    """The inverse of pack4: uint8 [ceil(n / 2)] -> int8 of ``shape``."""
    nibbles = np.stack([packed & 0xF, packed >> 4], axis=-1).ravel()[: int(np.prod(shape, dtype=np.int64))]
    values = nibbles.astype(np.int8)
    return ((values ^ 8) - 8 if signed else values).reshape(shape)
