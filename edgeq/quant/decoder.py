"""A decoder whose weights are stored as integers: what the back ends for language models write down."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edgeq.quant.codes import Codes
from edgeq.quant.formats import FORMATS

Array: TypeAlias = NDArray[np.float32]
Key: TypeAlias = tuple[str, "int | None"]  # role and layer
_FLOATS: Final[Mapping[str, Any]] = MappingProxyType({
    "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16})

_PART: Final = 1 << 20  # weights that are unpacked at a time, in several arrays of their own


@dataclass(frozen=True, slots=True, eq=False)
class StoredMatrix:
    """type: a name of FORMATS, or F32, F16, BF16. data: the bytes of each row [R, bytes] uint8. columns: of a row."""

    type: str
    data: NDArray[np.uint8]
    columns: int

    @classmethod
    def of_floats(cls, type: str, weight: Array) -> StoredMatrix:
        """weight [R,n] in one of the float types."""
        rows = np.ascontiguousarray(weight.astype(_FLOATS[type])).view(np.uint8)
        return cls(type, rows.reshape(len(weight), -1), weight.shape[1])

    def real(self) -> Array:
        """The weights [R,n] that a reader computes with."""
        if self.type in FORMATS:
            found = np.empty((len(self.data), self.columns), np.float32)
            step = max(1, _PART // self.columns)
            for start in range(0, len(found), step):
                found[start:start + step] = FORMATS[self.type].dequantize(self.data[start:start + step])
            return found
        numbers = np.ascontiguousarray(self.data).view(_FLOATS[self.type])
        return np.asarray(numbers, np.float32).reshape(len(self.data), -1)

    def rows(self, order: NDArray[np.int64]) -> StoredMatrix:
        """The same rows in another order."""
        return StoredMatrix(self.type, self.data[order], self.columns)

    @property
    def size(self) -> int:
        """Weights."""
        return len(self.data) * self.columns

    @property
    def bytes(self) -> int:
        return self.data.size

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.size


Stored: TypeAlias = StoredMatrix | Codes


@dataclass(frozen=True, slots=True, eq=False)
class Layered(Mapping[Key, Stored]):
    """What lies in either of two."""

    first: Mapping[Key, Stored]
    second: Mapping[Key, Stored]

    def __getitem__(self, key: Key) -> Stored:
        return self.first[key] if key in self.first else self.second[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(dict.fromkeys((*self.first, *self.second)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, key: object) -> bool:
        return key in self.first or key in self.second


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedDecoder:
    """matrices: by role and layer; without "head" where it is the embedding. vector: role, part, layer -> a norm's
    weight or a bias, in float32.
    """

    matrices: Mapping[Key, Stored]
    vector: Callable[[str, str, int | None], Array]

    def bytes(self) -> int:
        return sum(matrix.bytes for matrix in self.matrices.values())
