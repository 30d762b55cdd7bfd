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
from edgeq.quant.feeds import Feed
from edgeq.quant.samples import add_to_digest

_BINS: Final = 16
_NAMED: Final = 3  # samples or values in one sentence


@dataclass(frozen=True, slots=True)
class Look:
    """One input of one sample. interleaved: how much smoother it is at a distance of its channels than between
    neighbours, or 1; below 1, the last axis holds pixels channel by channel. alike: correlation of neighbours, along
    the axis where it is highest; None where there are none. bins: how many numbers lie in each of equal parts of the
    sample's own range. content: a hash.
    """

    kind: str
    shape: tuple[int, ...]
    low: float
    high: float
    mean: float
    square: float
    whole: bool
    interleaved: float
    alike: float | None
    bins: tuple[int, ...]
    content: bytes

    @property
    def peak(self) -> float:
        return max(-self.low, self.high)

    @property
    def is_constant(self) -> bool:
        return self.low == self.high

    @property
    def is_one_number(self) -> bool:
        """As a sampling rate, a length or a threshold is."""
        return sum(self.bins) == 1

    @property
    def is_picture(self) -> bool:
        """[N,C,H,W] or [N,H,W,C] of 1 or 3 channels."""
        if len(self.shape) != 4:
            return False
        first, last = (self.shape[1], self.shape[2:]), (self.shape[3], self.shape[1:3])
        return any(channels in (1, 3) and min(sides) >= policy.NEIGHBOURS.value for channels, sides in (first, last))


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
    contents: list[bytes] = []
    for feed in samples:
        add_to_digest(total, feed)
        for name, array in feed.items():
            if array.dtype.kind in "fiu" and array.size:
                looks.setdefault(name, []).append(look(array))
        contents.append(hashlib.sha256(b"".join(seen[-1].content for seen in looks.values())).digest())
    count = len(contents)
    warnings = [*_constant(looks), *_repeated(contents)]
    warnings += [warning for name, seen in looks.items() if not all(one.is_one_number for one in seen)
                 for check in CHECKS if (warning := check(name, seen))]
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
    low, high = float(data.min()), float(data.max())
    bins = np.histogram(data, _BINS, (low, high))[0] if high > low else [data.size]
    return Look(array.dtype.kind, array.shape, low, high, float(data.mean()), float(np.square(data).mean()), whole,
                _interleaved(data), _alike(data), tuple(map(int, bins)), hashlib.sha256(array.tobytes()).digest())


def _alike(data: NDArray[np.float64]) -> float | None:
    """Correlation of neighbours along the axis where it is highest, of those long enough to tell."""
    variance = float(data.var())
    axes = [axis for axis, size in enumerate(data.shape) if size >= policy.NEIGHBOURS.value] if variance > 0 else []
    return max((1 - float(np.square(np.diff(data, axis=axis)).mean()) / (2 * variance) for axis in axes), default=None)


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


def _constant(looks: Mapping[str, Sequence[Look]]) -> list[str]:
    """Blank samples. Where a model has several inputs, one of them may be blank while others are not: a state at the
    start of a recording, a mask, a sampling rate.
    """
    counted = {name: seen for name, seen in looks.items() if not all(one.is_one_number for one in seen)}
    found = []
    for name, seen in counted.items():
        values = {one.low for one in seen} if all(one.is_constant for one in seen) else set()
        if len(values) == 1 and seen[0].kind == "f" and (len(looks) == 1 or values == {0.0}):
            found.append(f"every number of input '{name}' is {seen[0].low:.4g}: " + (
                "these are no real samples" if len(looks) == 1 else
                "give what it holds in use; of a state, what the model returned for the step before"))
    if found or not counted:
        return found
    count = min(map(len, counted.values()))
    blank = [number for number in range(count) if all(seen[number].is_constant for seen in counted.values())]
    named = f"input '{next(iter(counted))}'" if len(counted) == 1 else "every input"
    return [f"{_samples(blank)} of {named} hold one number only: remove them"] if blank else []


def _repeated(contents: Sequence[bytes]) -> list[str]:
    """contents: a hash of each whole sample."""
    counts = Counter(contents)
    if len(contents) > 1 and len(counts) == 1:
        return ["the samples are all the same"]
    again = len(contents) - len(counts)
    many = again > len(contents) // policy.MANY_ONE_IN.value
    return [f"{again} of the {len(contents)} samples are repeated"] if many else []


def _other_scale(name: str, seen: Sequence[Look]) -> str:
    """Samples in other units. Loud and quiet recordings, spectra and features differ by far more than pictures do, so
    that of all others only what one unit cannot hold counts: fractions within -1..1 beside a signal far beyond.
    """
    usual, whole = float(np.median([one.peak for one in seen])), 2 * sum(one.whole for one in seen) > len(seen)
    found = [number for number, one in enumerate(seen)
             if one.kind == "f" and usual and _is_in_other_units(one, usual, whole=whole)]
    if not found:
        return ""
    return (f"{_samples(found)} of input '{name}' reach {seen[found[0]].peak:.4g} where most reach {usual:.4g}: bring "
            "all to one scale")


def _is_in_other_units(one: Look, usual: float, *, whole: bool) -> bool:
    """usual, whole: what most samples reach, and whether they are whole numbers."""
    if one.is_picture and one.peak > policy.OTHER_SCALE.value * usual:
        return True
    if usual <= policy.FULL_SCALE.value and one.peak > policy.OTHER_SCALE.value:
        return one.low < 0 < one.high or one.whole
    return whole and usual > policy.OTHER_SCALE.value and 0 < one.peak <= policy.FULL_SCALE.value and not one.whole


def _noise(name: str, seen: Sequence[Look]) -> str:
    alike = [one.alike for one in seen if one.alike is not None]
    if not alike or float(np.median(alike)) >= policy.NOISE_CORRELATION.value:
        return ""
    if all(one.is_picture for one in seen):
        return (f"neighbouring pixels of input '{name}' have nothing in common: this is noise; real samples have "
                "ranges of their own")
    bins = np.sum([one.bins for one in seen if len(one.bins) == _BINS], axis=0, dtype=np.float64)
    chance = 4 / np.sqrt(max(bins.mean(), 1.0))
    even = np.abs(bins / bins.mean() - 1) < max(policy.EVEN_SPREAD.value, chance)
    is_flat = bins.sum() >= policy.EVEN_SPREAD_NUMBERS.value and bool(even.all())
    return (f"the numbers of input '{name}' are spread evenly, each without regard to the one before: this is noise; "
            "real samples have ranges of their own") if is_flat else ""


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


CHECKS: Final[tuple[Callable[[str, Sequence[Look]], str], ...]] = (_other_scale, _noise, _pixels, _layout)


def said_of_declared(found: InputSummary, ends: tuple[float, float]) -> str:
    """Of pictures that somebody else prepared. ends: the numbers that the declared preprocessing makes of pixels."""
    low, high = ends
    slack = (high - low) / 50  # resizing overshoots, means are rounded
    made = f"the declared preprocessing makes {low:.4g} to {high:.4g}"
    held = f"input '{found.name}' holds numbers from {found.smallest:.4g} to {found.largest:.4g}"
    if found.smallest < low - slack or found.largest > high + slack:
        return f"{held}, which {made} of no picture: prepare the samples by it"
    if found.largest - found.smallest < policy.DECLARED_REACH.value * (high - low):
        return f"{held} alone, where {made}: prepare the samples by it"
    return ""


def said_of_evaluation(found: InputSummary, fed: NDArray[Any]) -> str:
    """fed: numbers that --eval puts into the same input."""
    low, high = found.smallest, found.largest
    step = (high - low) / 256
    outside = float(np.mean((fed < low - step) | (fed > high + step))) if fed.size else 0.0
    if outside > policy.OUTSIDE_RANGE.value:
        return (f"{outside:.0%} of what --eval puts into input '{found.name}' lies outside {low:.4g} to {high:.4g}, "
                "the range of the calibration samples, and is cut off there: prepare both alike")
    if fed.size and high > low and np.ptp(fed) * policy.OTHER_SCALE.value < high - low:
        return (f"what --eval puts into input '{found.name}' reaches {fed.min():.4g} to {fed.max():.4g} alone, the "
                f"calibration samples {low:.4g} to {high:.4g}: prepare both alike")
    return ""


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
