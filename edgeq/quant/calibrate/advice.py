"""Whether calibration samples are what a model will see: what can be said without its labels."""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.calibrate.calibrators import Calibrator
from edgeq.quant.calibrate.statistics import Statistics
from edgeq.quant.samples import Feed, add_to_digest

_NAMED: Final = 3  # samples or values in one sentence


@dataclass(frozen=True, slots=True)
class Look:
    """One input of one sample. interleaved: how much smoother it is at a distance of its channels than between
    neighbours, or 1; below 1, the last axis holds pixels channel by channel. content: a hash.
    """

    low: float
    high: float
    mean: float
    square: float
    whole: bool
    interleaved: float
    content: bytes


@dataclass(frozen=True, slots=True)
class InputSummary:
    """All samples of one input together."""

    name: str
    smallest: float
    largest: float
    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Move:
    """A value whose range is another after the later samples. ratio: of the later range's width to the earlier's."""

    value: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Survey:
    """The samples themselves. sha256: as `Samples.digest`. warnings: sentences, each with what helps."""

    samples: int
    sha256: str
    inputs: tuple[InputSummary, ...]
    warnings: tuple[str, ...]


def survey(samples: Iterable[Feed]) -> Survey:
    """Read all samples once; holds a few numbers of each."""
    total, looks = hashlib.sha256(), dict[str, list[Look]]()
    count = 0
    for feed in samples:
        count += 1
        add_to_digest(total, feed)
        for name, array in feed.items():
            if array.dtype.kind in "fiu" and array.size:
                looks.setdefault(name, []).append(look(array))
    warnings = [warning for name, seen in looks.items() for check in CHECKS if (warning := check(name, seen))]
    enough = policy.ENOUGH_SAMPLES.value
    if count < enough:
        warnings.append(f"{count} samples are few: with {enough} or more the ranges depend less on the choice "
                        "of samples")
    return Survey(count, total.hexdigest(), tuple(_summary(name, seen) for name, seen in looks.items()),
                  tuple(warnings))


def look(array: NDArray[Any]) -> Look:
    """What is remembered of one input of one sample."""
    data = array.astype(np.float64)
    whole = array.dtype.kind == "f" and bool((data == np.rint(data)).all())
    return Look(float(data.min()), float(data.max()), float(data.mean()), float(np.square(data).mean()), whole,
                _interleaved(data), hashlib.sha256(array.tobytes()).digest())


def _interleaved(data: NDArray[np.float64]) -> float:
    """Of images [1,C,H,W] with 3 or 4 channels: mean difference of values C apart over that of neighbours along W.

    Neighbours in a picture are alike. In one whose memory holds red, green and blue of a pixel side by side, as NHWC
    does, and that was reshaped to NCHW instead of transposed, those three apart are.
    """
    if data.ndim != 4 or data.shape[1] not in (3, 4) or data.shape[3] <= 2 * data.shape[1]:
        return 1.0
    near = np.abs(np.diff(data, axis=3)).mean()
    apart = np.abs(data[..., data.shape[1]:] - data[..., :-data.shape[1]]).mean()
    return float(apart / near) if near > 0 else 1.0


def _constant(name: str, seen: Sequence[Look]) -> str:
    found = [number for number, one in enumerate(seen) if one.low == one.high]
    if len(found) == len(seen) and len({one.low for one in seen}) == 1:
        return f"every number of input '{name}' is {seen[0].low:.4g}: these are no real samples"
    return f"{_samples(found)} of input '{name}' hold one number only: remove them" if found else ""


def _repeated(name: str, seen: Sequence[Look]) -> str:
    counts = Counter(one.content for one in seen)
    if len(seen) > 1 and len(counts) == 1:
        return f"the samples of input '{name}' are all the same"
    again = len(seen) - len(counts)
    many = again > len(seen) // policy.MANY_ONE_IN.value
    return f"{again} of the {len(seen)} samples of input '{name}' are repeated" if many else ""


def _other_scale(name: str, seen: Sequence[Look]) -> str:
    peaks = np.array([max(-one.low, one.high) for one in seen])
    usual, limit = float(np.median(peaks)), policy.OTHER_SCALE.value
    found = [number for number, peak in enumerate(peaks)
             if usual and peak and not 1 / limit < peak / usual < limit]
    if not found:
        return ""
    return (f"{_samples(found)} of input '{name}' reach {peaks[found[0]]:.4g} where most reach {usual:.4g}: bring all "
            "to one scale")


def _pixels(name: str, seen: Sequence[Look]) -> str:
    raw = all(one.whole and one.low >= 0 and one.high <= 255 for one in seen) and any(
        one.high > policy.RAW_PIXEL.value for one in seen)
    return (f"input '{name}' holds whole numbers from 0 to 255, as raw pixels do: unless the model was trained on "
            "them, scale them as in training (--preprocess)") if raw else ""


def _layout(name: str, seen: Sequence[Look]) -> str:
    found = [number for number, one in enumerate(seen) if one.interleaved < policy.INTERLEAVED.value]
    if 2 * len(found) <= len(seen):
        return ""
    return (f"input '{name}' looks like channels-last pixels that were reshaped: transpose (0, 3, 1, 2) instead of "
            "reshaping")


CHECKS: Final[tuple[Callable[[str, Sequence[Look]], str], ...]] = (_constant, _repeated, _other_scale, _pixels, _layout)


def _samples(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
    return f"{len(numbers)} samples ({named})" if len(numbers) > 1 else f"sample {named}"


def _summary(name: str, seen: Sequence[Look]) -> InputSummary:
    mean = float(np.mean([one.mean for one in seen]))
    variance = float(np.mean([one.square for one in seen])) - mean**2
    return InputSummary(name, min(one.low for one in seen), max(one.high for one in seen), mean,
                        float(np.sqrt(max(variance, 0.0))))


def moves(statistics: Statistics, calibrator: Calibrator, bits: int = 8) -> list[Move]:
    """The values whose range moved by more than a tenth over the later samples, the farthest first."""
    earlier: Mapping[str, Any] = statistics.earlier or {}
    found = []
    for name, later in statistics.items():
        if name in earlier:
            before, after = (high - low for low, high in (calibrator(part, bits) for part in (earlier[name], later)))
            ratio = after / max(before, after / 1000) if after > 0 else 1.0
            if abs(ratio - 1) > policy.RANGE_MOVED.value:
                found.append(Move(name, float(ratio)))
    return sorted(found, key=lambda move: -abs(np.log(move.ratio)))


def said_of_moves(statistics: Statistics, found: Sequence[Move]) -> str:
    """One sentence, or "" where nothing can be said: all samples came in one."""
    if statistics.earlier is None or not statistics.earlier:
        return ""
    span = f"samples {statistics.earlier.samples + 1} to {statistics.samples}"
    least = f"{policy.RANGE_MOVED.value:.0%}"
    if not found:
        return f"{span} moved none of {len(statistics)} ranges by more than {least}: more would change little"
    named = ", ".join(f"{move.value} to {move.ratio:.2f} times" for move in found[:_NAMED])
    many = len(found) > len(statistics) // policy.MANY_ONE_IN.value
    advice = "; more samples would move them further" if many else ""
    return f"{span} moved {len(found)} of {len(statistics)} ranges by more than {least}, farthest {named}{advice}"
