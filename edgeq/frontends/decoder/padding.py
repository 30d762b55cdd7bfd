"""Widths inside of MLPs that no block of weights divides, made wider by zeros."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq.quant.codes import Codes
from edgeq.quant.decoder import StoredMatrix

Array: TypeAlias = NDArray[np.float32]


class _Weights(Protocol):
    def matrix(self, role: str, layer: int | None = None) -> Array: ...

    def vector(self, role: str, part: str, layer: int | None = None) -> Array: ...

    def codes(self, role: str, layer: int | None = None) -> Codes | StoredMatrix | str | None: ...


@dataclass(frozen=True, slots=True)
class PaddedWeights:
    """Weights of a network whose MLPs are `inner` wide instead of less.

    Every activation is 0 at 0, and `down` multiplies what is added by 0: the network computes what it computed before.
    """

    weights: _Weights
    inner: int

    def matrix(self, role: str, layer: int | None = None) -> Array:
        found = self.weights.matrix(role, layer)
        if role in ("gate", "up"):
            return np.pad(found, ((0, self.inner - len(found)), (0, 0)))
        return np.pad(found, ((0, 0), (0, self.inner - found.shape[1]))) if role == "down" else found

    def codes(self, role: str, layer: int | None = None) -> Codes | StoredMatrix | str | None:
        """Of those that are made wider, the reason why they have none."""
        found = self.weights.codes(role, layer)
        if found is None or role not in ("gate", "up", "down"):
            return found
        return "no blocks divide the width inside of its MLP, which is made wider"

    def vector(self, role: str, part: str, layer: int | None = None) -> Array:
        found = self.weights.vector(role, part, layer)
        return np.pad(found, (0, self.inner - len(found))) if role in ("gate", "up") else found
