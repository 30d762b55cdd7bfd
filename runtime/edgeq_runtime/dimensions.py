"""Sizes of a tensor's axes: a number, or one that each run chooses within limits. Standard library only."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple, Union

from .errors import BundleError


@dataclass(frozen=True)
class Range:
    """Any size from `low` to `high`, both included; no upper limit where `high` is None.

    name: axes of one name have one size in each run.
    """

    name: str
    low: int = 1
    high: Optional[int] = None

    def __post_init__(self) -> None:
        if self.low < 1 or (self.high is not None and self.high < self.low):
            raise BundleError(f"no size lies in the range {self}")

    def __str__(self) -> str:
        if self.low == 1 and self.high is None:
            return self.name
        return f"{self.name}={self.low}..{'' if self.high is None else self.high}"

    def allows(self, size: int) -> bool:
        return self.low <= size <= (math.inf if self.high is None else self.high)


@dataclass(frozen=True)
class Choice:
    """One of the enumerated `sizes`, in ascending order. name: axes of one name have one size in each run."""

    name: str
    sizes: Tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise BundleError(f"the sizes to choose from must be positive and ascend, not {self}")

    def __str__(self) -> str:
        return f"{self.name}={'/'.join(map(str, self.sizes))}"

    def allows(self, size: int) -> bool:
        return size in self.sizes


Free = Union[Range, Choice]
Dimension = Union[int, str, Free]  # a string names a size that the data decides: nothing is promised of it


def fits(shape: Sequence[int], expected: Sequence[Dimension], sizes: Dict[str, int]) -> bool:
    """Whether an array's shape is one that a specification allows.

    sizes: what the named axes of the same run were seen to be; the new ones are added.
    """
    return len(shape) == len(expected) and all(
        size == wanted if isinstance(wanted, int) else _named(size, wanted, sizes)
        for size, wanted in zip(shape, expected, strict=True))


def _named(size: int, wanted: Union[str, Free], sizes: Dict[str, int]) -> bool:
    if isinstance(wanted, str):
        return sizes.setdefault(wanted, size) == size
    return wanted.allows(size) and sizes.setdefault(wanted.name, size) == size


def from_json(value: Any, where: str) -> Dimension:
    """A number, a name, {"name", "low", "high"} or {"name", "sizes"}.

    Raises:
        BundleError: anything else.
    """
    if (type(value) is int and value >= 0) or (isinstance(value, str) and value):
        return value
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        limits = {key: limit for key, limit in value.items() if key != "name"}
        sizes = limits.get("sizes")
        if set(limits) == {"sizes"} and isinstance(sizes, list) and all(type(size) is int for size in sizes):
            return Choice(value["name"], tuple(sizes))
        if set(limits) == {"low", "high"} and type(limits["low"]) is int and type(limits["high"]) in (int, type(None)):
            return Range(value["name"], **limits)
    raise BundleError(f"{where}: a dimension is neither a size nor a name: {value}")
