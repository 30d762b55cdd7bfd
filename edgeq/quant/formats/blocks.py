"""Formats whose weights lie in blocks: GGUF's types with one or two levels of scales."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.formats.grid import Array, Grid, Levels, Storage, Table, Whole
from edgeq.quant.formats.layout import (
    Minimum,
    Nibbles,
    Part,
    SignedBytes,
    SignedSixes,
    Sixes,
    Unit,
    packed,
    read,
    size_of,
)
from edgeq.quant.formats.packing import Bytes
from edgeq.quant.formats.search import affine_scales, symmetric_scales

_WIDTHS: Final[tuple[float, ...]] = tuple(np.linspace(0.85, 1.1, 11).tolist())  # of the unit's scale, tried


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One type of GGUF.

    type: its number in the file. unit: weights that are stored together; a row must hold a whole number of units.
    block: weights that share a scale. levels: what codes stand for. layout: the parts of a unit in file order.
    """

    name: str
    type: int
    unit: int
    block: int
    levels: Levels
    layout: tuple[Part, ...]

    @property
    def unit_bytes(self) -> int:
        return sum(size_of(part, self.unit, self.unit // self.block) for part in self.layout)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.unit_bytes / self.unit

    @property
    def code_bits(self) -> int:
        return 4 if isinstance(self.levels, Table) else (self.levels.high - self.levels.low).bit_length()

    @property
    def has_minimum(self) -> bool:
        return any(isinstance(part, Minimum) for part in self.layout)

    @property
    def scale_range(self) -> tuple[int, int] | None:
        """Of the whole multiples that the blocks' scales are, None where a unit is one block."""
        for part in self.layout:
            match part:
                case Nibbles():
                    return 0, 15
                case Sixes():
                    return 0, 63
                case SignedSixes():
                    return -32, 31
                case SignedBytes():
                    return -128, 127
        return None

    def fits(self, columns: int) -> bool:
        """Whether rows of so many weights can be stored."""
        return columns % self.unit == 0

    def grid(self, weight: Array, importance: Array | None = None) -> Grid:
        """weight [R,n] -> where its levels should lie. importance: of the columns [n], such as E[x x^T]'s diagonal.

        Scales are chosen for the least weighted squared error of the nearest levels, and rounded to what the file can
        hold.
        """
        x = np.ascontiguousarray(weight, np.float32).reshape(-1, self.block)
        weights = np.ones_like(weight) if importance is None else np.broadcast_to(importance, weight.shape)
        weights = np.ascontiguousarray(weights, np.float32).reshape(-1, self.block)
        if self.has_minimum:
            assert isinstance(self.levels, Whole)
            parts = [affine_scales(*part, self.levels, minimum_at_most_zero=self.scale_range is not None)
                     for part in _parts(x, weights)]
            scale, offset = (np.concatenate(found) for found in zip(*parts, strict=True))
        else:
            scale = np.concatenate([symmetric_scales(*part, self.levels) for part in _parts(x, weights)])
            offset = np.zeros(len(x), np.float32)
        storage = self._one_level(scale, offset) if self.scale_range is None else self._two_levels(
            x, weights, scale, offset, self.scale_range)
        return self.read_grid(storage, len(weight))

    def read_grid(self, storage: Storage, rows: int) -> Grid:
        """The grid that a reader of the file computes."""
        scale = storage.scale.astype(np.float32)[:, None]
        offset = np.zeros_like(scale) if storage.minimum is None else storage.minimum.astype(np.float32)[:, None]
        if storage.scales is not None:
            scale = scale * storage.scales.astype(np.float32)
            offset = -offset * storage.minima.astype(np.float32) if storage.minima is not None else np.zeros_like(scale)
        return Grid(scale.reshape(rows, -1), offset.reshape(rows, -1), self.block, self.levels, storage)

    def pack(self, grid: Grid, levels: Array) -> Bytes:
        """levels [R,n] on a grid -> the bytes of the rows [R, bytes]."""
        stored = grid.storage
        unit = Unit(self.levels.codes(levels).reshape(-1, self.unit), stored.scale, stored.minimum, stored.scales,
                    stored.minima)
        return np.concatenate([packed(part, unit) for part in self.layout], axis=1).reshape(len(levels), -1)

    def unpack(self, data: Bytes) -> tuple[Grid, Array]:
        """The inverse of `pack`: rows [R, bytes] -> (grid, levels [R,n])."""
        units = np.ascontiguousarray(data).reshape(-1, self.unit_bytes)
        unit, start = Unit(np.zeros((len(units), self.unit), np.uint8), np.zeros(0, np.float16)), 0
        for part in self.layout:
            stop = start + size_of(part, self.unit, self.unit // self.block)
            read(part, np.ascontiguousarray(units[:, start:stop]), unit)
            start = stop
        storage = Storage(unit.scale, unit.minimum, _whole(unit.scales), _whole(unit.minima))
        return self.read_grid(storage, len(data)), self.levels.of(unit.codes).reshape(len(data), -1)

    def quantize(self, weight: Array, importance: Array | None = None) -> Bytes:
        """weight [R,n] -> the bytes of its rows, every weight on the nearest level."""
        grid = self.grid(weight, importance)
        return self.pack(grid, grid.nearest(weight))

    def dequantize(self, data: Bytes) -> Array:
        """The bytes of rows -> the weights [R,n] that a reader computes."""
        grid, levels = self.unpack(data)
        return grid.real(levels)

    def _one_level(self, scale: Array, offset: Array) -> Storage:
        return Storage(half(scale), half(offset) if self.has_minimum else None)

    def _two_levels(self, x: Array, weights: Array, scale: Array, offset: Array, limits: tuple[int, int]) -> Storage:
        """Blocks' scales as whole multiples of their unit's: the unit's width that loses the least of several."""
        blocks = self.unit // self.block
        scales, minima = scale.reshape(-1, blocks), -offset.reshape(-1, blocks)
        best, lowest = None, np.full(len(scales), np.inf)
        for width in _WIDTHS:
            unit = _unit_scale(scales, limits) * np.float32(width)
            lowest_unit = _unit_scale(minima, limits) * np.float32(width) if self.has_minimum else None
            trial = _whole_multiples(unit, scales, lowest_unit, minima, limits)
            grid = self.read_grid(trial, len(scales))
            off = (grid.real(grid.nearest(x.reshape(len(scales), -1))) - x.reshape(len(scales), -1)) ** 2
            error = (off * weights.reshape(len(scales), -1)).sum(1)
            better = error < lowest
            best = trial if best is None else _chosen(better, trial, best)
            lowest = np.where(better, error, lowest)
        assert best is not None
        return best


def _parts(x: Array, weights: Array) -> Iterator[tuple[Array, Array]]:
    """So many blocks at a time as stay in a processor's cache."""
    step = policy.GRID_PART.value
    for start in range(0, len(x), step):
        yield x[start:start + step], weights[start:start + step]


def _unit_scale(scales: Array, limits: tuple[int, int]) -> Array:
    """[U,S] -> [U]: what the scale that is furthest from 0 is the last multiple of."""
    furthest = np.take_along_axis(scales, np.abs(scales).argmax(1)[:, None], 1)[:, 0]
    return np.asarray(furthest / (limits[0] if limits[0] else limits[1]), np.float32)


def _whole_multiples(unit: Array, scales: Array, lowest_unit: Array | None, minima: Array, limits: tuple[int, int],
                     ) -> Storage:
    def multiples(of: NDArray[np.float16], values: Array) -> NDArray[np.int16]:
        step = of.astype(np.float32)[:, None]
        ratio = np.divide(values, step, out=np.zeros_like(values), where=step != 0)
        return np.asarray(np.clip(np.rint(ratio), *limits), np.int16)

    first = half(unit)
    if lowest_unit is None:
        return Storage(first, None, multiples(first, scales))
    second = half(lowest_unit)
    return Storage(first, second, multiples(first, scales), multiples(second, minima))


def _chosen(better: NDArray[np.bool_], first: Storage, second: Storage) -> Storage:
    """Unit by unit, the first where `better`."""
    def pick(name: str) -> NDArray[np.generic] | None:
        a, b = getattr(first, name), getattr(second, name)
        return None if a is None else np.where(better if a.ndim == 1 else better[:, None], a, b)

    return replace(second, **{name: pick(name) for name in ("scale", "minimum", "scales", "minima")})  # type: ignore[arg-type]


def half(numbers: Array) -> NDArray[np.float16]:
    """Half precision, as large as it can be where a number is larger."""
    largest = float(np.finfo(np.float16).max)
    return np.clip(numbers, -largest, largest).astype(np.float16)


def _whole(numbers: NDArray[np.generic] | None) -> NDArray[np.int16] | None:
    return None if numbers is None else numbers.astype(np.int16)
