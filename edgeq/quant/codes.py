"""Integer codes that another tool chose for a weight, with its scales. Arrays only, no files."""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """real = scale * (code - zero) + offset, or scale * table[code].

    codes: [R,n] uint8. bits: of a code. scale, zero, offset: [R,G], of groups of n / G columns. zero: whole numbers.
    order: which input each of the columns belongs to, None where they lie in order. table: ascending or not.
    """

    codes: NDArray[np.uint8]
    bits: int
    scale: Array
    zero: NDArray[np.int16] | None = None
    offset: Array | None = None
    order: NDArray[np.int64] | None = None
    table: Array | None = None

    @property
    def group(self) -> int:
        return self.columns // int(self.scale.shape[1])

    @property
    def columns(self) -> int:
        return int(self.codes.shape[1])

    @property
    def type(self) -> str:
        """For reports."""
        kind = "table of " if self.table is not None else ""
        return f"{kind}{self.bits} bits, groups of {self.group}"

    @property
    def size(self) -> int:
        """Weights."""
        return int(self.codes.size)

    @property
    def bytes(self) -> int:
        """In whole bits for each code and zero point, and half precision."""
        halves = 2 if self.offset is not None else 1
        zeros = 0 if self.zero is None or (self.zero == self.zero.flat[0]).all() else self.bits
        return math.ceil((self.size * self.bits + self.scale.size * (16 * halves + zeros)) / 8)

    def levels(self) -> NDArray[np.int16]:
        """Codes less their zero points [R,n]."""
        found = self.codes.astype(np.int16)
        return found if self.zero is None else found - np.repeat(self.zero, self.group, axis=1)

    def real(self) -> Array:
        """The weights [R,n], columns in the order of the inputs."""
        found = self.table[self.codes] if self.table is not None else self.levels().astype(np.float32)
        found *= np.repeat(self.scale, self.group, axis=1)
        if self.offset is not None:
            found += np.repeat(self.offset, self.group, axis=1)
        return found if self.order is None else found[:, np.argsort(self.order)]

    def rows(self, chosen: slice) -> Codes:
        """Of some outputs alone."""
        return replace(self, codes=self.codes[chosen], scale=self.scale[chosen],
                       zero=None if self.zero is None else self.zero[chosen],
                       offset=None if self.offset is None else self.offset[chosen])
