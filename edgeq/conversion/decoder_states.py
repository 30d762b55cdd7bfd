"""Hidden states of many sequences: in memory, or on the disk where they are large."""
from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

States: TypeAlias = Sequence[NDArray[Any]]  # of each sequence [1, tokens, width]


def kept(states: Iterable[NDArray[Any]]) -> States:
    """Those of the first sequences in memory, what goes beyond `policy.HELD_STATES` in files."""
    held: list[NDArray[Any]] = []
    size, iterator = 0, iter(states)
    for one in iterator:
        held.append(one)
        size += one.nbytes
        if size > policy.HELD_STATES.value:
            return _OnDisk(held, iterator)
    return held


class _OnDisk(Sequence[NDArray[Any]]):
    """The files vanish with it."""

    def __init__(self, held: list[NDArray[Any]], states: Iterator[NDArray[Any]]):
        self._held = held
        self._folder = tempfile.TemporaryDirectory(prefix="edgeq-")
        self._count = len(held)
        for one in states:
            np.save(self._path(self._count), one)
            self._count += 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[Any]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | Sequence[NDArray[Any]]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._held[index] if index < len(self._held) else np.load(self._path(index))

    def _path(self, index: int) -> Path:
        return Path(self._folder.name) / f"{index}.npy"
