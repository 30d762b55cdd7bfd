"""What calibration remembers of a tensor: a histogram whose range doubles, so that it streams and merges exactly."""
from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import CalibrationError

BINS: Final = 2048  # per sign: a tensor fills more than half of its range, so an 8-bit step spans 4 to 16 bins
FORMAT: Final = 2
_UNREADABLE: Final = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile,
                      zlib.error)
_SMALLEST_EXPONENT: Final = -100  # below 2**-100 everything counts as zero; BINS / bound stays finite in float32


@dataclass(frozen=True, slots=True, eq=False)
class TensorStatistics:
    """The distribution of one float tensor over all samples.

    min and max are of every element. Of a tensor with more than 16384 elements the histogram takes the outermost 64th,
    where ranges are decided, and of the rest every n-th, which stands for n: counting all would outlast the inference.

    counts: int64 [2 * BINS - 1]; counts[BINS - 1 + k] holds the elements x with trunc(x / width) == k. So bin 0 is
        (-width, width), where the exact zeros of a Relu lie at its centre, and every other bin is one width wide.
    exponent: all elements are within +-2**exponent. A power of two, so that every scaling is exact in float32.
    min, max: of the elements, exact. +inf and -inf while there are none.
    """

    counts: NDArray[np.int64]
    exponent: int
    min: float
    max: float

    @classmethod
    def empty(cls) -> TensorStatistics:
        """Statistics of no elements: the neutral element of `merge`."""
        return cls(np.zeros(2 * BINS - 1, np.int64), _SMALLEST_EXPONENT, math.inf, -math.inf)

    @property
    def bound(self) -> float:
        """All elements are within +-bound."""
        return 2.0**self.exponent

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.bound / BINS

    @property
    def count(self) -> int:
        """Number of elements that the histogram stands for."""
        return int(self.counts.sum())

    def add(self, data: NDArray[Any], turn: int = 0) -> TensorStatistics:
        """These statistics and the elements of ``data`` (any shape, any float type).

        turn: where to begin where only every n-th element counts; the number of the sample, so that all take turns.

        Raises:
            CalibrationError: NaN or infinity in ``data``.
        """
        flat = np.ascontiguousarray(data, np.float32).reshape(-1)
        if not flat.size:
            return self
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError("NaN or infinity")
        grown = self.grown(_exponent(max(-low, high)))
        counts = grown.counts + _sampled_histogram(flat, low, grown.exponent, turn)
        return TensorStatistics(counts, grown.exponent, min(self.min, low), max(self.max, high))

    def grown(self, exponent: int) -> TensorStatistics:
        """The same elements in a range of at least +-2**exponent.

        Exact: trunc(trunc(x / width) / 2) == trunc(x / (2 * width)), so doubling only adds neighbouring bins.
        """
        steps = exponent - self.exponent
        if steps <= 0:
            return self
        index = np.arange(1 - BINS, BINS)
        index = np.sign(index) * (np.abs(index) >> min(steps, 63))
        counts = np.zeros_like(self.counts)
        np.add.at(counts, index + BINS - 1, self.counts)
        return TensorStatistics(counts, exponent, self.min, self.max)

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """The statistics of both sets of elements. Exact and associative: only integers are added."""
        exponent = max(self.exponent, other.exponent)
        return TensorStatistics(self.grown(exponent).counts + other.grown(exponent).counts, exponent,
                                min(self.min, other.min), max(self.max, other.max))


class Statistics(Mapping[str, TensorStatistics]):
    """Value name -> statistics, with the number of samples that they were gathered from.

    earlier: the same after a part of the samples, at most half of them: how ranges moved since tells whether more
    samples would move them further.
    """

    def __init__(self, tensors: Mapping[str, TensorStatistics], samples: int, earlier: Statistics | None = None):
        self._tensors = dict(tensors)
        self.samples, self.earlier = samples, earlier

    def __getitem__(self, name: str) -> TensorStatistics:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of samples; a name that only one of them knows keeps its statistics."""
        names = dict.fromkeys([*self, *other])
        tensors = {name: union(part[name] for part in (self, other) if name in part) for name in names}
        return Statistics(tensors, self.samples + other.samples)

    def save(self, path: str | Path, **origin: str) -> None:
        """Write an .npz that `load` reads, to resume later or to merge with another worker's. origin: what `load` shall
        find again, the digest of the data say.
        """
        arrays = self._arrays("") | (self.earlier._arrays("earlier_") if self.earlier is not None else {})
        arrays |= {f"origin_{key}": np.array(text) for key, text in origin.items()}
        with open(path, "wb") as file:
            np.savez_compressed(file, format=np.int64(FORMAT), **arrays)

    def _arrays(self, prefix: str) -> dict[str, Any]:
        parts = list(self.values())
        columns = {
            "samples": np.int64(self.samples), "names": np.array(list(self), np.str_),
            "counts": np.array([part.counts for part in parts], np.int64).reshape(len(parts), 2 * BINS - 1),
            "exponents": np.array([part.exponent for part in parts], np.int64),
            "ranges": np.array([(part.min, part.max) for part in parts], np.float64).reshape(len(parts), 2)}
        return {prefix + key: column for key, column in columns.items()}

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read what `save` wrote.

        Raises:
            CalibrationError: not such a file, or of another format.
        """
        return cls.load_with_origin(path)[0]

    @classmethod
    def load_with_origin(cls, path: str | Path) -> tuple[Statistics, dict[str, str]]:
        """The same, with the origin that `save` was given."""
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            if int(stored["format"]) != FORMAT:
                raise CalibrationError(f"'{path}' has the statistics format {int(stored['format'])}, this edgeq reads "
                                       f"{FORMAT}; calibrate again")
            earlier = cls._read(stored, "earlier_", None) if "earlier_samples" in stored else None
            origin = {key.removeprefix("origin_"): str(text) for key, text in stored.items()
                      if key.startswith("origin_")}
            return cls._read(stored, "", earlier), origin
        except _UNREADABLE as error:
            raise CalibrationError(f"'{path}' does not hold calibration statistics; calibrate again") from error

    @classmethod
    def _read(cls, stored: Mapping[str, NDArray[Any]], prefix: str, earlier: Statistics | None) -> Statistics:
        columns = (stored[prefix + key] for key in ("names", "counts", "exponents", "ranges"))
        tensors = {str(name): TensorStatistics(counts, int(exponent), float(low), float(high))
                   for name, counts, exponent, (low, high) in zip(*columns, strict=True)}
        return cls(tensors, int(stored[prefix + "samples"]), earlier)


def union(parts: Iterable[TensorStatistics]) -> TensorStatistics:
    """The statistics of several tensors as one: what values that share a grid are quantized by."""
    merged = TensorStatistics.empty()
    for part in parts:
        merged = merged.merge(part)
    return merged


def _exponent(magnitude: float) -> int:
    """The smallest exponent whose power of two exceeds ``magnitude``."""
    return max(math.frexp(magnitude)[1], _SMALLEST_EXPONENT) if magnitude > 0 else _SMALLEST_EXPONENT


def _sampled_histogram(flat: NDArray[np.float32], low: float, exponent: int, turn: int) -> NDArray[np.int64]:
    """flat [n], none below low -> int64 [2 * BINS - 1]: outer bins exact, inner ones by every n-th element, times n."""
    weight = -(-flat.size // policy.HISTOGRAM_ELEMENTS.value)  # neighbours in a large feature map tell little more
    counts = weight * _histogram(flat[turn % weight::weight], exponent)
    if weight == 1:
        return counts
    by_magnitude = counts[BINS - 1:] + counts[BINS - 1::-1]
    beyond = np.cumsum(by_magnitude[::-1])[::-1]  # elements in a bin or farther out; falls with the bin
    first = max(int(np.count_nonzero(beyond > flat.size // policy.HISTOGRAM_TAIL.value)), 1)
    edge = np.float32(first * 2.0**exponent / BINS)
    outside = flat >= edge
    if low <= -edge:
        outside |= flat <= -edge
    outer = _histogram(flat.compress(outside), exponent)
    inner = slice(BINS - first, BINS - 1 + first)
    outer[inner] = counts[inner]
    return outer


def _histogram(elements: NDArray[np.float32], exponent: int) -> NDArray[np.int64]:
    """elements [n], all below 2**exponent in magnitude -> int64 [2 * BINS - 1].

    Scaling by a power of two and truncating are exact. np.bincount was the fastest of the compiled histograms measured:
    1.4 to 2.0 ns an element with these indices, boost-histogram 2.1 to 2.8 (benchmarks/calibration.py).
    """
    index = (elements * np.float32(2.0**-exponent * BINS)).astype(np.int16)
    index += BINS - 1
    return np.bincount(index, minlength=2 * BINS - 1)
