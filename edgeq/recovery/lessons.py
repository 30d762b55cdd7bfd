"""Samples with what the float network says to them, several side by side where a network takes them so."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq import policy
from edgeq.inference.session import Arrays
from edgeq.recovery.forms import Tensor
from edgeq.recovery.network import TorchNetwork


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """feed, teacher: of one sample or of several side by side. share: of all samples of a step."""

    feed: Arrays
    teacher: tuple[Tensor, ...]
    share: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """feeds: with a batch axis of 1. teacher: the outputs for each. side_by_side: several may go through at once."""

    feeds: Sequence[Arrays]
    teacher: Sequence[tuple[NDArray[Any], ...]]
    side_by_side: bool

    @property
    def each_step(self) -> int:
        """Samples that a step learns from: what says much teaches much."""
        rows = max(array.size // max(1, array.shape[-1] if array.ndim else 1) for array in self.teacher[0])
        most, least = policy.RECOVERY_BATCH.value, policy.RECOVERY_LEAST_BATCH.value
        return max(least, min(most, policy.RECOVERY_ROWS.value // max(1, rows)))

    def of_step(self, step: int) -> Iterator[Lesson]:
        """Every sample once before one comes again, in another order each time; this follows from the step alone."""
        count, size = len(self.feeds), self.each_step
        places = range(step * size, (step + 1) * size)
        orders = {turn: np.random.default_rng(turn).permutation(count) for turn in {at // count for at in places}}
        yield from self._grouped([int(orders[at // count][at % count]) for at in places])

    def all(self) -> Iterator[Lesson]:
        size = policy.RECOVERY_BATCH.value
        for start in range(0, len(self.feeds), size):
            yield from self._grouped(range(start, min(start + size, len(self.feeds))), len(self.feeds))

    def _grouped(self, chosen: Sequence[int], total: int = 0) -> Iterator[Lesson]:
        groups: dict[Any, list[int]] = {}
        for at in chosen:
            shapes = [array.shape for array in (*self.feeds[at].values(), *self.teacher[at])]
            groups.setdefault(str(shapes) if self.side_by_side else (at, len(groups)), []).append(at)
        for group in groups.values():
            yield _stacked([self.feeds[at] for at in group], [self.teacher[at] for at in group],
                           len(group) / (total or len(chosen)))


def takes_several(network: TorchNetwork, feeds: Sequence[Arrays]) -> bool:
    """Whether samples side by side give what each gives alone: tried with the first two of equal shapes."""
    first = feeds[0]
    other = next((feed for feed in feeds[1:] if all(feed[name].shape == first[name].shape for name in first)), None)
    if other is None or any(array.ndim == 0 or array.shape[0] != 1 for array in first.values()):
        return False
    with torch.no_grad():
        alone = [network.run(feed, {}) for feed in (first, other)]
        try:
            both = network.run({name: np.concatenate([first[name], other[name]]) for name in first}, {})
        except (RuntimeError, IndexError):  # what torch says of shapes that do not fit
            return False
    return all(found.ndim and found.shape[0] == 2 and torch.allclose(found, torch.cat(parts), rtol=1e-3, atol=1e-4)
               for found, *parts in zip(both, *alone, strict=True))


def _stacked(feeds: Sequence[Arrays], teacher: Sequence[tuple[NDArray[Any], ...]], share: float) -> Lesson:
    feed = {name: np.concatenate([each[name] for each in feeds]) if len(feeds) > 1 else feeds[0][name]
            for name in feeds[0]}
    outputs = tuple(torch.from_numpy(np.concatenate(parts) if len(parts) > 1 else np.array(parts[0]))
                    for parts in zip(*teacher, strict=True))
    return Lesson(feed, outputs, share)
