"""A block's bytes as rows: the parts of a unit in file order, each with how it is packed and read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq.quant.formats.packing import (
    Bytes,
    half_bytes,
    halves,
    pack_fields,
    pack_scales_3,
    pack_scales_6,
    unpack_fields,
    unpack_scales_3,
    unpack_scales_6,
)


@dataclass(frozen=True, slots=True)
class Scale:
    """The unit's scale in half precision."""


@dataclass(frozen=True, slots=True)
class Minimum:
    """The unit's minimum in half precision; K formats subtract it, the others add it."""


@dataclass(frozen=True, slots=True)
class Bits:
    """`bits` of every code, from bit `shift` on; codes `run` apart share a byte."""

    bits: int
    shift: int
    run: int


@dataclass(frozen=True, slots=True)
class Signed:
    """Whole codes, as 8-bit numbers around 0, which is code 128."""


@dataclass(frozen=True, slots=True)
class Nibbles:
    """Scale and minimum of each block in the two halves of a byte."""


@dataclass(frozen=True, slots=True)
class Sixes:
    """Scale and minimum of each of eight blocks in 6 bits."""


@dataclass(frozen=True, slots=True)
class SignedSixes:
    """The scale of each of sixteen blocks in 6 bits, with 32 added."""


@dataclass(frozen=True, slots=True)
class SignedBytes:
    """The scale of each block in 8 bits."""


Part: TypeAlias = Scale | Minimum | Bits | Signed | Nibbles | Sixes | SignedSixes | SignedBytes


@dataclass(slots=True)
class Unit:
    """The contents of U units while they are packed or read. codes [U,n]; scales, minima [U,S]."""

    codes: Bytes
    scale: NDArray[np.float16]
    minimum: NDArray[np.float16] | None = None
    scales: NDArray[Any] | None = None
    minima: NDArray[Any] | None = None


def size_of(part: Part, weights: int, blocks: int) -> int:
    """Bytes of a part in a unit of so many weights and blocks."""
    match part:
        case Scale() | Minimum():
            return 2
        case Bits(bits=bits):
            return weights * bits // 8
        case Signed():
            return weights
        case Nibbles() | SignedBytes():
            return blocks
        case Sixes() | SignedSixes():
            return 12


def packed(part: Part, unit: Unit) -> Bytes:
    """-> [U, bytes of the part]."""
    match part:
        case Scale():
            return half_bytes(unit.scale)
        case Minimum():
            assert unit.minimum is not None
            return half_bytes(unit.minimum)
        case Bits(bits, shift, run):
            return pack_fields((unit.codes >> np.uint8(shift)) & np.uint8((1 << bits) - 1), bits, run)
        case Signed():
            return unit.codes ^ np.uint8(128)
    assert unit.scales is not None
    match part:
        case SignedSixes():
            return pack_scales_3((unit.scales + 32).astype(np.uint8))
        case SignedBytes():
            return unit.scales.astype(np.int8).view(np.uint8)
    assert unit.minima is not None
    scales, minima = unit.scales.astype(np.uint8), unit.minima.astype(np.uint8)
    return scales | (minima << np.uint8(4)) if isinstance(part, Nibbles) else pack_scales_6(scales, minima)


def read(part: Part, data: Bytes, unit: Unit) -> None:
    """Add what a part [U, bytes] holds to the unit; codes are added up from their bits."""
    match part:
        case Scale():
            unit.scale = halves(data)
        case Minimum():
            unit.minimum = halves(data)
        case Bits(bits, shift, run):
            unit.codes = unit.codes | (unpack_fields(data, bits, run) << np.uint8(shift))
        case Signed():
            unit.codes = data ^ np.uint8(128)
        case Nibbles():
            unit.scales, unit.minima = data & 15, data >> 4
        case Sixes():
            unit.scales, unit.minima = unpack_scales_6(data)
        case SignedSixes():
            unit.scales = unpack_scales_3(data).astype(np.int16) - 32
        case SignedBytes():
            unit.scales = data.view(np.int8)
