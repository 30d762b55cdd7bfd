"""What every block format has in common: the levels that a code stands for, and where they lie for each block."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Codes: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Whole:
    """Levels are the whole numbers from low to high; code 0 is low.

    first: what code 0 is where that is below low: a level that files may hold and that nothing is rounded to.
    """

    low: int
    high: int
    first: int | None = None

    def nearest(self, values: Array) -> Array:
        """The level next to each value, both in units of the block's scale."""
        return np.clip(np.rint(values), self.low, self.high)

    def codes(self, levels: Array) -> Codes:
        return (levels - self.lowest).astype(np.uint8)

    def of(self, codes: Codes) -> Array:
        return codes.astype(np.float32) + self.lowest

    @property
    def lowest(self) -> int:
        return self.low if self.first is None else self.first

    @property
    def ends(self) -> tuple[float, float]:
        return float(self.low), float(self.high)


@dataclass(frozen=True)
class Table:
    """Levels are the numbers of a table, ascending; a code is a place in it."""

    values: tuple[int, ...]

    def nearest(self, values: Array) -> Array:
        return self._numbers[np.searchsorted(self._borders, values)]

    def codes(self, levels: Array) -> Codes:
        return np.searchsorted(self._numbers, levels).astype(np.uint8)

    def of(self, codes: Codes) -> Array:
        return self._numbers[codes]

    @property
    def ends(self) -> tuple[float, float]:
        return float(self.values[0]), float(self.values[-1])

    @cached_property
    def _numbers(self) -> Array:
        return np.asarray(self.values, np.float32)

    @cached_property
    def _borders(self) -> Array:
        return np.asarray((self._numbers[1:] + self._numbers[:-1]) / 2, np.float32)


Levels: TypeAlias = Whole | Table


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The numbers of a file's scales. U units of the format, with S blocks each.

    scale, minimum: half precision [U]; minimum is None where a format has none. scales, minima: whole multiples of
    these [U,S]; None where a unit is one block.
    """

    scale: NDArray[np.float16]
    minimum: NDArray[np.float16] | None = None
    scales: NDArray[np.int16] | None = None
    minima: NDArray[np.int16] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the levels of each block lie: real = scale * level + offset.

    scale, offset: [rows, blocks] float32, exactly what a reader of the file computes. block: weights of each, along a
    row. storage: what the file holds of it.
    """

    scale: Array
    offset: Array
    block: int
    levels: Levels
    storage: Storage

    def spread(self) -> tuple[Array, Array]:
        """scale and offset of every weight [R,n]."""
        return np.repeat(self.scale, self.block, axis=1), np.repeat(self.offset, self.block, axis=1)

    def nearest(self, weight: Array) -> Array:
        """weight [R,n] -> the level next to each."""
        scale, offset = self.spread()
        return self.levels.nearest(np.divide(weight - offset, scale, out=np.zeros_like(weight), where=scale != 0))

    def real(self, levels: Array) -> Array:
        """levels [R,n] -> the weights that they stand for."""
        scale, offset = self.spread()
        return scale * levels + offset
