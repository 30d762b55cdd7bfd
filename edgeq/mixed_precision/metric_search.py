"""The smallest bundle that keeps the user's metric, or the best one within so many bytes.

    every rounding alone ──▶ path of mixtures ──▶ a few of them quantized, scored, written ──▶ what is asked for
"""
from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

import onnx_ir as ir

from edgeq.mixed_precision.candidates import BITS, measured_path
from edgeq.mixed_precision.fidelity import score_graph
from edgeq.mixed_precision.goal import FEEDS, Goal
from edgeq.mixed_precision.greedy_path import Mixture
from edgeq.mixed_precision.trial_builder import Built, Workbench, precisions, spread

BUDGET: Final = 16  # mixtures that are quantized and scored: a bisection of a path of 1000 needs 10
REFITS: Final = 3  # of these, with weights fitted anew for the whole mixture, which takes longest
_REASON: Final = "the search gave it to float"


@dataclass(frozen=True, slots=True)
class Trial:
    """One mixture that was quantized and scored. bytes: of the largest artifact. score: in the metric's unit."""

    place: int
    mixture: Mixture
    built: Built = field(repr=False)
    bytes: int
    score: float
    refit: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ended with. met: does it keep what was asked? trials: all that was tried, in order."""

    chosen: Trial
    met: bool
    trials: tuple[Trial, ...]
    goal: Goal

    def to_json(self) -> dict[str, Any]:
        """For report.json: the choice by layer, and the curve of what was tried."""
        mixture = self.chosen.mixture
        return {
            **self.goal.to_json(self.chosen.score, self.chosen.bytes), "evaluations": len(self.trials),
            "budget": BUDGET, "float_share": round(mixture.float_share, 4),
            "layers": [{"node": name, "weight_bits": bits, "float": name in mixture.floats or bits >= 16}
                       for name, bits in mixture.bits.items()],
            "points": [{"bytes": trial.bytes, "score": trial.score, "float_share": round(trial.mixture.float_share, 4),
                        "chosen": trial is self.chosen} for trial in self.trials],
        }


def search(bench: Workbench, goal: Goal, size: Callable[[ir.Model], int], bits: Collection[int] = BITS) -> Found:
    """Find the mixture of precisions that the goal asks for. size: quantized graph -> bytes of its largest artifact.
    bits: that a layer's weights may have.

    Where none keeps its limits, the best that was tried, with met=False. At most BUDGET mixtures are scored.

    Raises:
        EvaluationError: the metric gives no score.
    """
    return _Search(bench, goal, size, bits).run()


def score_alone(bench: Workbench, goal: Goal, layer: str) -> float:
    """The metric with one layer quantized as the scheme says, and all others in float."""
    float_ = precisions(dict.fromkeys(bench.layers, 32), bench.work)
    del float_[layer]
    return score_graph(goal.evaluation, bench.build(float_).graph)


class _Search:
    def __init__(self, bench: Workbench, goal: Goal, size: Callable[[ir.Model], int], bits: Collection[int]):
        self.bench, self.goal, self.size = bench, goal, size
        self.trials: list[Trial] = []
        feeds = spread(bench.samples, FEEDS) if bench.samples is not None else goal.feeds
        self.path = measured_path(bench, feeds, bits)

    def run(self) -> Found:
        end = len(self.path) - 1
        if self.goal.floor is not None:
            place = self._first(0, end, lambda trial: self.goal.keeps(trial.score))
        else:
            place = self._first(0, end, lambda trial: not self.goal.fits(trial.bytes)) - 1  # the last that fits
            most = self._try(max(place, 0))
            place = self._first(0, most.place, lambda trial: self._drop(trial) <= self._drop(most))
        self._refit(min(place, end))
        kept = [trial for trial in self.trials if self._met(trial)]
        return Found(self._best(kept), bool(kept), tuple(self.trials), self.goal)

    def _first(self, low: int, high: int, holds: Callable[[Trial], bool]) -> int:
        """The first place of the path in low..high where something holds, if it does so to the end; else high + 1."""
        high += 1
        while low < high and len(self.trials) < BUDGET - REFITS:
            middle = (low + high) // 2
            if holds(self._try(middle)):
                high = middle
            else:
                low = middle + 1
        return high

    def _refit(self, place: int) -> None:
        """Weights that are fitted to one another keep more, so that a smaller mixture may do."""
        low, high = 0, place
        for _ in range(REFITS):
            if low > high or min(self.path[high].bits.values(), default=8) >= 8:
                return
            if not self._met(self._try(high, refit=True)):
                return
            high -= max(1, (high - low) // 2)

    def _try(self, place: int, *, refit: bool = False) -> Trial:
        for trial in self.trials:
            if trial.place == place and trial.refit == refit:
                return trial
        mixture = self.path[place]
        self.bench.progress("searching", len(self.trials), BUDGET)
        done = self.bench.build(precisions(mixture.bits, mixture.floats, _REASON), refit=refit)
        trial = Trial(place, mixture, done, self.size(done.graph), score_graph(self.goal.evaluation, done.graph), refit)
        self.trials.append(trial)
        return trial

    def _best(self, kept: list[Trial]) -> Trial:
        """The smallest that keeps the metric; within bytes, or where nothing keeps it, the one that scores best."""
        if self.goal.floor is not None and kept:
            return min(kept, key=lambda trial: (trial.bytes, self._drop(trial)))
        fitting = [trial for trial in self.trials if self.goal.fits(trial.bytes)]
        if not fitting:
            return min(self.trials, key=lambda trial: trial.bytes)
        return min(fitting, key=lambda trial: (self._drop(trial), trial.mixture.float_share, trial.bytes))

    def _drop(self, trial: Trial) -> float:
        return self.goal.drop(trial.score)

    def _met(self, trial: Trial) -> bool:
        return self.goal.keeps(trial.score) and self.goal.fits(trial.bytes)
