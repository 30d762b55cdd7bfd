"""What the user measures, and what a search must keep, in the words of the command line."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import UsageError
from edgeq.inference.reference import predictor
from edgeq.inference.session import Arrays
from edgeq.metrics import Metric
from edgeq.state import filled, state_pairs
from edgeq.verification.evaluate import Evaluation

_NUMBERS_KEPT, _FEEDS_KEPT = 1024, 1000  # memory: 4 MB for each input

_UNITS: Final[Mapping[str, int]] = MappingProxyType({"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9})


@dataclass(frozen=True, slots=True)
class Drop:
    """At most so much worse than float: in the metric's unit, or as a share of the float model's score."""

    amount: float
    relative: bool = False

    def floor(self, metric: Metric, reference: float) -> float:
        """The worst score that is allowed."""
        allowed = abs(reference) * self.amount / 100 if self.relative else self.amount
        return reference - allowed if metric.higher_is_better else reference + allowed


@dataclass(frozen=True, slots=True)
class Least:
    """A score that must be reached, whatever the float model's is."""

    score: float

    def floor(self, metric: Metric, reference: float) -> float:
        return self.score


@dataclass(frozen=True, slots=True)
class Limits:
    """quality: of the metric, or None. bytes: of the largest artifact, or None."""

    quality: Drop | Least | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """What the user measures, and what a result must keep. feeds: a few of those that the metric is measured on.
    samples: how many they are. told: where they come from, in words. unseen: the same metric on samples that a search
    does not see, which its result is reported on; None where all of them lead it, or nothing is searched. numbers:
    some of those that go into each input of floats.
    """

    evaluation: Evaluation
    limits: Limits
    float_score: float
    feeds: tuple[Arrays, ...]
    samples: int = 0
    told: str = ""
    numbers: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    unseen: Goal | None = None

    @property
    def floor(self) -> float | None:
        """The worst score that is allowed."""
        quality = self.limits.quality
        return None if quality is None else quality.floor(self.evaluation.metric, self.float_score)

    def drop(self, score: float) -> float:
        return self.evaluation.metric.drop(self.float_score, score)

    def keeps(self, score: float) -> bool:
        return self.floor is None or self.evaluation.metric.drop(self.floor, score) <= 0

    def fits(self, size: int) -> bool:
        return self.limits.bytes is None or size <= self.limits.bytes

    def to_json(self, score: Callable[[Evaluation], float], size: int) -> dict[str, Any]:
        """How a bundle of so many bytes does. score: what it scores by an evaluation.

        Limits are kept or missed where the search kept them; what is reported first comes from samples that it did not
        see, where there are some.
        """
        metric, own = self.evaluation.metric, score(self.evaluation)
        found = {"metric": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better,
                 **self._scored(own), "max_bytes": self.limits.bytes, "met": self.keeps(own) and self.fits(size)}
        if self.unseen is None:
            return found
        unseen = score(self.unseen.evaluation)
        return {**found, **self.unseen._scored(unseen), "met_unseen": self.unseen.keeps(unseen),
                "search": self._scored(own)}

    def _scored(self, score: float) -> dict[str, Any]:
        return {"score": score, "float_score": self.float_score, "worst_score_allowed": self.floor,
                "samples": self.samples, "data": self.told}


def goal_on(network: ir.Model, evaluation: Evaluation, limits: Limits, told: str = "", unseen: Goal | None = None,
            ) -> Goal:
    """Score the float network, and note what it is fed."""
    seen: list[Arrays] = []
    given: list[Arrays] = []
    numbers: dict[str, list[NDArray[Any]]] = {}
    count = 0
    predict, pairs = predictor(network, fused=True), state_pairs(network)

    def noting(feed: Arrays) -> Mapping[str, Any]:
        nonlocal count
        count += 1
        for name, array in feed.items():
            if array.dtype.kind == "f" and name not in pairs and count <= _FEEDS_KEPT:
                numbers.setdefault(name, []).append(array.reshape(-1)[::max(1, array.size // _NUMBERS_KEPT)])
        if len(seen) < policy.NOISE_SAMPLES.value:
            seen.append(feed)
            given.append(predict(feed))
            return given[-1]
        return predict(feed)

    score = evaluation.score(noting)
    return Goal(evaluation, limits, score, tuple(filled(seen, given, pairs)), count, told,
                {name: np.concatenate(parts) for name, parts in numbers.items()}, unseen)


def limits_of(max_drop: float | str | None, min_metric: float | None, max_bytes: int | str | None) -> Limits:
    """From the values of --max-drop, --min-metric and --max-bytes.

    Raises:
        UsageError: text that is no number of its kind, or two demands of one kind.
    """
    if max_drop is not None and min_metric is not None:
        raise UsageError("--max-drop and --min-metric both say what the metric must keep; give one")
    quality: Drop | Least | None = None if min_metric is None else Least(min_metric)
    return Limits(_drop(str(max_drop)) if max_drop is not None else quality,
                  None if max_bytes is None else _bytes(str(max_bytes)))


def _drop(text: str) -> Drop:
    try:
        return Drop(float(text.removesuffix("%")), text.endswith("%"))
    except ValueError:
        raise UsageError(f"--max-drop {text}: give a number in the metric's unit, such as 1.0, or a share of the float "
                         "model's score, such as 1%") from None


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?B?)", text.strip())
    unit = found[2] if found else ""
    if found is None or (unit and not unit.endswith("B")):
        raise UsageError(f"--max-bytes {text}: give a number of bytes, such as 600000, 600kB or 1.5MB")
    return int(float(found[1]) * _UNITS[unit])
