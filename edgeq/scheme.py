"""How numbers are stored: value types only, no behaviour that touches a graph."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale per index of ``axis``."""

    axis: int = 0


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale per ``size`` consecutive elements along ``axis``."""

    size: int
    axis: int = -1

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError(f"block size must be positive, got {self.size}")


Granularity: TypeAlias = PerTensor | PerChannel | PerBlock
FloatType: TypeAlias = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class QuantType:
    """An integer grid: ``bits`` wide, signed or not, symmetric about zero or not."""

    bits: int
    signed: bool = True
    symmetric: bool = True
    granularity: Granularity = PerTensor()

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest stored integer.

        Symmetric signed grids are narrow ([-127, 127], [-7, 7]): -128 overflows the int16 accumulation of ARM cores
        without dot product, and -8 is misread by LiteRT's 4-bit kernels.
        """
        if not self.signed:
            return 0, 2**self.bits - 1
        high = 2 ** (self.bits - 1) - 1
        return (-high, high) if self.symmetric else (-high - 1, high)


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """What to do with weights and activations; ``None`` leaves that side in float.

    table_channels: 4-bit weights are indices into tables of 16 numbers, one for each so many output channels; 0: they
    are integers. integer_inputs, integer_outputs: the model's own lie on grids too, and what makes the outputs computes
    on integers wherever it can.
    """

    weight: QuantType | None = None
    activation: QuantType | None = None
    table_channels: int = 0
    integer_inputs: bool = False
    integer_outputs: bool = False

    @property
    def activation_bits(self) -> int:
        """32 where they stay float."""
        return 32 if self.activation is None else self.activation.bits


_A8: Final = QuantType(8, signed=False, symmetric=False)
_A16: Final = QuantType(16, signed=True, symmetric=True)
_W8: Final = QuantType(8, granularity=PerChannel())
_W4: Final = QuantType(4, granularity=PerChannel())

PRESETS: Final[Mapping[str, QuantScheme]] = MappingProxyType({
    "w8a8": QuantScheme(_W8, _A8),
    "w8a16": QuantScheme(_W8, _A16),
    "w4a8": QuantScheme(_W4, _A8),
    "w8": QuantScheme(_W8),
    "w4": QuantScheme(_W4),
    "float": QuantScheme(),
})


@dataclass(frozen=True, slots=True, eq=False)
class QuantParams:
    """The numbers of one quantized tensor: real = scale * (stored - zero_point).

    scale: float32 [] (per tensor), [C] (per channel), or the data's rank with the blocked axis divided (per block).
    zero_point: int32, same shape as scale.
    """

    type: QuantType
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]

    def same_grid(self, other: QuantParams | None) -> bool:
        """True when both store the same integers for the same reals (a signed and an unsigned view count as equal)."""
        if other is None:
            return False
        a, b = self.as_signed(), other.as_signed()
        return (a.type == b.type and np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point))

    def as_signed(self) -> QuantParams:
        """The same grid stored as signed integers: uint8 and a zero point of z become int8 and z - 128."""
        if self.type.signed:
            return self
        shift = 2 ** (self.type.bits - 1)
        zero_point = (self.zero_point - shift).astype(np.int32)
        return replace(self, type=replace(self.type, signed=True), zero_point=zero_point)

    def real_range(self) -> tuple[float, float]:
        """Smallest and largest real number of a per-tensor grid."""
        low, high = self.type.range
        scale, zero_point = float(self.scale), int(self.zero_point)
        return scale * (low - zero_point), scale * (high - zero_point)


def per_axis(values: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """values [C] -> [1, .., C, .., 1] of ``rank`` dimensions, so that it broadcasts along ``axis``."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def broadcast(values: NDArray[Any], granularity: Granularity, shape: tuple[int, ...]) -> NDArray[Any]:
    """Scales or zero points, as QuantParams holds them, expanded so that they broadcast against data of ``shape``."""
    match granularity:
        case PerTensor():
            return values.reshape(())
        case PerChannel(axis):
            return per_axis(values, axis, len(shape))
        case PerBlock(size, axis):
            return np.repeat(values, size, axis=axis).take(range(shape[axis]), axis=axis)


def dequantize(stored: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """stored (any shape, any integer type) -> float32, same shape. ONNX DequantizeLinear-21."""
    scale = broadcast(params.scale, params.type.granularity, stored.shape)
    zero_point = broadcast(params.zero_point, params.type.granularity, stored.shape)
    return np.asarray((stored.astype(np.int64) - zero_point).astype(np.float32) * scale, np.float32)


def quantize(real: NDArray[np.floating[Any]], params: QuantParams) -> NDArray[np.int32]:
    """real -> integers in the grid's range, same shape; ties to even. ONNX QuantizeLinear-21."""
    scale = broadcast(params.scale, params.type.granularity, real.shape)
    zero_point = broadcast(params.zero_point, params.type.granularity, real.shape)
    low, high = params.type.range
    stored = np.rint(real.astype(np.float32) / scale) + zero_point
    return np.asarray(np.clip(stored, low, high), np.int32)
