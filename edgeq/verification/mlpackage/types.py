"""Element types of a Core ML program: how each is stored, and the numpy type that it is computed in.

A value typed float16 is carried as float32 (numpy's float16 arithmetic is scalar code, 20 times slower) and rounded
to the float16 grid after each op instead; types narrower than a byte are carried one value to a byte.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ElementType:
    """``name`` as numpy spells it; ``stored`` is the type of the bytes on disk (uint8 where values are packed)."""

    name: str
    code: int
    bits: int
    stored: np.dtype[Any]
    carrier: np.dtype[Any]
    blob_code: int | None = None

    @property
    def packed(self) -> bool:
        """Several values share one byte."""
        return self.bits < 8 and self.name != "bool"

    @property
    def signed(self) -> bool:
        return self.name.startswith("int")


def _row(name: str, code: int, bits: int, stored: str, carrier: str, blob_code: int | None = None) -> ElementType:
    return ElementType(name, code, bits, np.dtype(stored), np.dtype(carrier), blob_code)


# `code`: enum DataType of format/MIL.proto. `blob_code`: enum BlobDataType of src/MILBlob/Blob/BlobDataType.hpp.
# Both: https://github.com/apple/coremltools/tree/main/mlmodel.
ELEMENT_TYPES: tuple[ElementType, ...] = (
    _row("bool", 1, 8, "bool", "bool"),
    _row("str", 2, 0, "object", "object"),
    _row("float16", 10, 16, "<f2", "float32", 1),
    _row("float32", 11, 32, "<f4", "float32", 2),
    _row("float64", 12, 64, "<f8", "float64"),
    _row("int8", 21, 8, "i1", "int8", 4),
    _row("int16", 22, 16, "<i2", "int16", 6),
    _row("int32", 23, 32, "<i4", "int32", 14),
    _row("int64", 24, 64, "<i8", "int64"),
    _row("int4", 25, 4, "u1", "int8", 8),
    _row("uint8", 31, 8, "u1", "uint8", 3),
    _row("uint16", 32, 16, "<u2", "uint16", 7),
    _row("uint32", 33, 32, "<u4", "uint32", 15),
    _row("uint64", 34, 64, "<u8", "uint64"),
    _row("uint4", 35, 4, "u1", "uint8", 11),
    _row("uint2", 36, 2, "u1", "uint8", 10),
    _row("uint1", 37, 1, "u1", "uint8", 9),
    _row("uint6", 38, 6, "u1", "uint8", 13),
    _row("uint3", 39, 3, "u1", "uint8", 12),
)
BY_CODE: dict[int, ElementType] = {row.code: row for row in ELEMENT_TYPES}
BY_NAME: dict[str, ElementType] = {row.name: row for row in ELEMENT_TYPES}


def admits(declared: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    """Whether ``shape`` is as declared, where None stands for any size."""
    return len(shape) == len(declared) and all(want in (None, have) for want, have in zip(declared, shape, strict=True))


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape; None for a dimension that is known at run time only."""

    element: ElementType
    shape: tuple[int | None, ...]

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of ``shape`` has this type."""
        return admits(self.shape, shape)

    def __str__(self) -> str:
        return f"{self.element.name}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


_EXPONENT = np.uint32(0x7F800000)
_SMALLEST_NORMAL = np.float32(2.0**-14)
_LARGEST = 65504.0
# A float32 of magnitude 1.5 * 2**(13 + e) has float16's spacing at 2**e: adding and subtracting it rounds to that.
_SHIFT = np.float32(1.5 * 2**13)


def round_to_float16(x: Array) -> Array:
    """x float32 -> float32, each value the nearest float16 (ties to even), infinite beyond 65504 as in float16.

    The same values as ``x.astype(float16).astype(float32)``, which is scalar code, at an eighth
    of its cost; only a zero loses its sign.
    """
    flat = np.asarray(x, np.float32).reshape(-1)
    shift = (flat.view(np.uint32) & _EXPONENT).view(np.float32)
    np.maximum(shift, _SMALLEST_NORMAL, out=shift)  # subnormals of float16 are equally spaced
    shift *= _SHIFT
    rounded: Array = flat + shift
    rounded -= shift
    if flat.size and not (rounded.max() <= _LARGEST and rounded.min() >= -_LARGEST):
        rounded = flat.astype(np.float16).astype(np.float32)
    return rounded.reshape(x.shape)


def unpack_bits(packed: Array, count: int, bits: int, signed: bool) -> Array:
    """packed uint8 [ceil(count*bits/8)] -> [count] int8 or uint8; values follow each other from the lowest bit upwards.

    The layout of a bit stream, so a 3 or 6 bit value may straddle two bytes (documentation of constexpr_lut_to_dense).
    """
    stream = np.unpackbits(packed.view(np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    values: Array = np.packbits(np.pad(stream, ((0, 0), (0, 8 - bits))), axis=1, bitorder="little").reshape(count)
    if not signed:
        return values
    half = 1 << (bits - 1)
    return ((values ^ half).astype(np.int16) - half).astype(np.int8)
