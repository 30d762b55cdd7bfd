"""A number of taste: what it decides, and by what it was chosen. `edgeq.policy` holds them all."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T", int, float, tuple[float, ...])


@dataclass(frozen=True, slots=True)
class Measured:
    """found: what the command shows."""

    found: str
    command: str

    def __str__(self) -> str:
        return f"measured: {self.found} (`{self.command}`)"


@dataclass(frozen=True, slots=True)
class Convention:
    """What others use. source: where they say so."""

    source: str

    def __str__(self) -> str:
        return f"convention: {self.source}"


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """thought: why this number all the same, where that is known."""

    thought: str = ""

    def __str__(self) -> str:
        return f"not measured yet: {self.thought}" if self.thought else "not measured yet"


Evidence: TypeAlias = Measured | Convention | NotMeasured


@dataclass(frozen=True, slots=True)
class Parameter(Generic[T]):
    """decides: what the value is of, and what happens there."""

    value: T
    unit: str
    decides: str
    evidence: Evidence
