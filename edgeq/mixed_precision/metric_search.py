"""The smallest bundle that keeps the user's metric, or the best one within so many bytes.

    every rounding alone ──▶ Pareto path ──▶ a few of its assignments quantized, scored, written ──▶ what is asked for
"""
from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from edgeq import policy
from edgeq.mixed_precision.candidates import BITS, measured_path
from edgeq.mixed_precision.fidelity import score_graph
from edgeq.mixed_precision.goal import Goal
from edgeq.mixed_precision.result import Measurement, MixedPrecision, Trial
from edgeq.mixed_precision.trial_builder import Built, TrialBuilder, precisions

_REASON: Final = "the search gave it to float"


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """A trial of the assignment at one place of the path, and what was built for it."""

    place: int
    refit: bool
    built: Built
    size: int
    trial: Trial


def search(builder: TrialBuilder, goal: Goal, size: Callable[[ir.Model], int], bits: Collection[int] = BITS,
           ) -> tuple[Built, MixedPrecision]:
    """Find the precisions that the goal asks for. size: quantized graph -> bytes of its largest artifact. bits: that a
    layer's weights may have.

    Where nothing keeps its limits, the best that was tried. At most `policy.SEARCH_BUDGET` assignments are scored.

    Raises:
        EvaluationError: the metric gives no score.
    """
    return _Search(builder, goal, size, bits).run()


def score_alone(builder: TrialBuilder, goal: Goal, layer: str) -> float:
    """The metric with one layer quantized as the scheme says, and all others in float."""
    float_ = precisions(dict.fromkeys(builder.layers, 32), builder.work)
    del float_[layer]
    return score_graph(goal.evaluation, builder.build(float_).graph)


class _Search:
    def __init__(self, builder: TrialBuilder, goal: Goal, size: Callable[[ir.Model], int], bits: Collection[int]):
        self.builder, self.goal, self.size = builder, goal, size
        self.attempts: list[_Attempt] = []
        feeds = builder.samples.chosen(policy.NOISE_SAMPLES.value) if builder.samples is not None else goal.feeds
        self.path = measured_path(builder, feeds, bits)

    def run(self) -> tuple[Built, MixedPrecision]:
        end = len(self.path) - 1
        if self.goal.floor is not None:
            place = self._first(0, end, lambda attempt: self.goal.keeps(attempt.trial.score))
        else:
            place = self._first(0, end, lambda attempt: not self.goal.fits(attempt.size)) - 1  # the last that fits
            most = self._try(max(place, 0))
            place = self._first(0, most.place, lambda attempt: self._drop(attempt) <= self._drop(most))
        self._refit(min(place, end))
        best = self._best([attempt for attempt in self.attempts if self._met(attempt)])
        metric = self.goal.evaluation.metric
        return best.built, MixedPrecision.of(Measurement(
            "the metric", None, best.trial, tuple(attempt.trial for attempt in self.attempts),
            policy.SEARCH_BUDGET.value, metric=metric.name, unit=metric.unit))

    def _first(self, low: int, high: int, holds: Callable[[_Attempt], bool]) -> int:
        """The first place of the path in low..high where something holds, if it does so to the end; else high + 1."""
        high += 1
        while low < high and len(self.attempts) < policy.SEARCH_BUDGET.value - policy.SEARCH_REFITS.value:
            middle = (low + high) // 2
            if holds(self._try(middle)):
                high = middle
            else:
                low = middle + 1
        return high

    def _refit(self, place: int) -> None:
        """Weights that are fitted to one another keep more, so that a smaller assignment may do."""
        low, high = 0, place
        for _ in range(policy.SEARCH_REFITS.value):
            if low > high or min(self.path[high].bits.values(), default=8) >= 8:
                return
            if not self._met(self._try(high, refit=True)):
                return
            high -= max(1, (high - low) // 2)

    def _try(self, place: int, *, refit: bool = False) -> _Attempt:
        for attempt in self.attempts:
            if attempt.place == place and attempt.refit == refit:
                return attempt
        assignment = self.path[place]
        self.builder.progress("searching", len(self.attempts), policy.SEARCH_BUDGET.value)
        layers = precisions(assignment.bits, assignment.floats, _REASON)
        built = self.builder.build(layers, refit=refit)
        size = self.size(built.graph)
        trial = Trial(layers, score_graph(self.goal.evaluation, built.graph), assignment.float_share, size)
        self.attempts.append(_Attempt(place, refit, built, size, trial))
        return self.attempts[-1]

    def _best(self, kept: list[_Attempt]) -> _Attempt:
        """The smallest that keeps the metric; within bytes, or where nothing keeps it, the one that scores best."""
        if self.goal.floor is not None and kept:
            return min(kept, key=lambda attempt: (attempt.size, self._drop(attempt)))
        fitting = [attempt for attempt in self.attempts if self.goal.fits(attempt.size)]
        if not fitting:
            return min(self.attempts, key=lambda attempt: attempt.size)
        return min(fitting, key=lambda attempt: (self._drop(attempt), attempt.trial.float_share, attempt.size))

    def _drop(self, attempt: _Attempt) -> float:
        return self.goal.drop(attempt.trial.score)

    def _met(self, attempt: _Attempt) -> bool:
        return self.goal.keeps(attempt.trial.score) and self.goal.fits(attempt.size)
