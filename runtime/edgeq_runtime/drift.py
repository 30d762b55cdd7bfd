"""Does what a device sees still look like what the model was calibrated with?

A camera that fogs, a microphone that is replaced or a preprocessing that lost its scale shows first as values outside
the range of the calibration samples, where an integer model saturates. Counting them is cheap enough to leave on: of
an array with more than 4096 values, about so many are looked at, other ones in every run.
"""
from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from .errors import BundleError
from .manifest import Manifest

SAMPLE = 4096
NOTED = 0.01  # of the values; good data have thinner tails


@dataclass(frozen=True)
class Drift:
    """One input since the start or the last reset.

    low, high: the range of the calibration samples. values: how many were looked at. outside: how many of these lay
    outside, or were not a number.
    """

    input: str
    low: float
    high: float
    values: int
    outside: int

    @property
    def share(self) -> float:
        """Of the values outside, 0 to 1."""
        return self.outside / self.values if self.values else 0.0

    @property
    def is_noteworthy(self) -> bool:
        """More than the tails of good data."""
        return self.share > NOTED

    def __str__(self) -> str:
        return (f"{100 * self.share:.2g} % of the values of '{self.input}' lie outside {self.low:.4g} to "
                f"{self.high:.4g}, the range of the calibration samples")


class DriftWatch:
    """Counts for the inputs of one model; safe from several threads."""

    def __init__(self, names: Sequence[str], ranges: Mapping[str, Sequence[float]]) -> None:
        """names: the inputs, in the order in which `add` gets their arrays. ranges: (low, high) by name."""
        self._watched = [(k, name, float(ranges[name][0]), float(ranges[name][1]))
                         for k, name in enumerate(names) if name in ranges]
        self._lock = Lock()
        self.reset()

    @classmethod
    def of(cls, manifest: Manifest) -> DriftWatch:
        """For the float inputs whose ranges the manifest knows; integers are codes or pixels, which every value is.

        Raises:
            BundleError: its ranges are none.
        """
        ranges = (manifest.calibration or {}).get("ranges", {})
        floats = {spec.name for spec in manifest.inputs if spec.dtype.startswith("float")}
        try:
            return cls([spec.name for spec in manifest.inputs], {name: ranges[name] for name in floats & set(ranges)})
        except (IndexError, KeyError, TypeError, ValueError):
            raise BundleError(f"the manifest's calibration ranges cannot be read: {ranges!r:.80}") from None

    def reset(self) -> None:
        with self._lock:
            self._runs = 0
            self._counts: Dict[str, Tuple[int, int]] = {name: (0, 0) for _, name, _, _ in self._watched}

    def add(self, arrays: Sequence[Any]) -> None:
        """One more run."""
        self._runs += 1  # a lost update of two threads changes which values are looked at, nothing else
        for position, name, low, high in self._watched:
            values = _some(arrays[position], self._runs)
            # min and max of a NaN are NaN, so that this is false as well.
            inside = not values.size or (values.min() >= low and values.max() <= high)
            outside = 0 if inside else values.size - int(np.count_nonzero((values >= low) & (values <= high)))
            with self._lock:
                seen, before = self._counts[name]
                self._counts[name] = seen + values.size, before + outside

    def report(self) -> List[Drift]:
        with self._lock:
            return [Drift(name, low, high, *self._counts[name]) for _, name, low, high in self._watched]


def _some(array: Any, run: int) -> Any:
    """About SAMPLE values, evenly spread and starting elsewhere in each run; all of them where there are few."""
    step = array.size // SAMPLE
    return array.reshape(-1)[run % step::step] if step > 1 else array
