"""One layer from weights and moments to integers: the algorithms of this package, composed."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.quant.formats.grid import Whole
from edgeq.quant.solve.adaround import adaround
from edgeq.quant.solve.descent import descend
from edgeq.quant.solve.gptq import gptq
from edgeq.quant.solve.moments import Moments, Objective, mean_error, objective, output_error
from edgeq.quant.solve.scales import Blocks, clipped_scales, refitted_scales

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Settings:
    """Which algorithms run, in this order.

    clip: search the scales. gptq, adaround: begin with one of them, else with the nearest integers. passes: of
    coordinate descent, at most. refits: of the scales to the integers, each followed by a descent. corrections: see
    `objective`, the best is taken. bias: whether it takes up the mean error. damping: see `objective`.
    """

    clip: bool = True
    gptq: bool = True
    adaround: bool = False
    passes: int = policy.DESCENT_PASSES.value
    refits: int = policy.REFITS.value
    corrections: tuple[float, ...] = (math.inf, *policy.CORRECTIONS.value)
    bias: bool = True
    damping: float = policy.DAMPING.value


NO_CORRECTION: Final = math.inf
DEFAULT: Final = Settings()


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What is to be quantized. weight: [G,R,n]. qmax: the largest integer. least: of the scales [S], when clipping."""

    weight: Array
    blocks: Blocks
    qmax: int
    least: Array
    has_bias: bool

    @property
    def levels(self) -> Whole:
        return Whole(-self.qmax, self.qmax)


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """integers: [G,R,n]. scales: [S]. shift: what to add to the bias [G,R], or None."""

    integers: Array
    scales: Array
    shift: Array | None = None

    def weight(self, blocks: Blocks) -> Array:
        """The real weights [G,R,n] that these stand for."""
        return self.integers * blocks.spread(self.scales, self.integers.shape)


def solve(layer: Layer, training: Moments, validation: Moments, rounded: Sequence[Solution], settings: Settings,
          ) -> Solution:
    """The integers of one layer.

    Data can mislead: with few samples the moments describe these alone. So what is fitted to `training` is judged by
    the error on `validation`, samples that it has not seen, before it is done again with both. rounded: what needs no
    data, which wins where fitting does no better.
    """
    free = settings.bias and layer.has_bias
    correction = best_correction(layer.weight, training, validation, free, settings)
    trials = [_begin(layer, training, correction, free, settings), *rounded]
    best = int(np.argmin([_judge(layer, trial, validation) for trial in trials]))
    return trials[best] if best else _finish(layer, training.merge(validation), correction, free, settings)


def best_correction(weight: Array, training: Moments, validation: Moments, free: bool, settings: Settings) -> float:
    """The correction whose real weights, before any rounding, do best on samples that they have not seen. free: the
    layer has a bias that may move.
    """
    def error(correction: float) -> float:
        problem = objective(weight, training, free_bias=free, correction=correction, damping=settings.damping)
        shift = mean_error(weight, problem.target, training) if free else None
        return float(output_error(weight, problem.target, shift, validation).sum())

    return min(settings.corrections, key=error) if len(settings.corrections) > 1 else settings.corrections[0]


def _judge(layer: Layer, trial: Solution, validation: Moments) -> float:
    return float(output_error(layer.weight, trial.weight(layer.blocks), trial.shift, validation).sum())


def _begin(layer: Layer, moments: Moments, correction: float, free: bool, settings: Settings) -> Solution:
    """Steps and a first set of integers."""
    problem = objective(layer.weight, moments, free_bias=free, correction=correction, damping=settings.damping)
    return _with_bias(layer, _first(layer, problem, settings), moments, free)


def _finish(layer: Layer, moments: Moments, correction: float, free: bool, settings: Settings) -> Solution:
    """The same, and then descent and better scales in turn; the best of what was found on the way."""
    problem = objective(layer.weight, moments, free_bias=free, correction=correction, damping=settings.damping)
    found = _first(layer, problem, settings)
    tried = [found]
    for turn in range(settings.refits + 1 if settings.passes else 0):
        integers, scales = found.integers, found.scales
        if turn:
            scales = refitted_scales(integers, problem.target, problem.hessian, scales, layer.blocks, layer.least)
        scale = layer.blocks.spread(scales, integers.shape)
        integers = descend(integers, problem.target, problem.hessian, scale, layer.levels, passes=settings.passes)
        found = Solution(integers, scales)
        tried.append(found)
    errors = [problem.error(solution.weight(layer.blocks)).sum() for solution in tried]
    return _with_bias(layer, tried[int(np.argmin(errors))], moments, free)


def _first(layer: Layer, problem: Objective, settings: Settings) -> Solution:
    scales = clipped_scales(problem.target, problem.hessian, layer.blocks, layer.qmax, layer.least,
                          candidates=policy.CLIPS.value if settings.clip else 1)
    scale = layer.blocks.spread(scales, problem.target.shape)
    if settings.gptq:
        return Solution(gptq(problem.target, problem.hessian, scale, layer.levels), scales)
    if settings.adaround:
        return Solution(adaround(problem.target, problem.hessian, scale, layer.qmax), scales)
    return Solution(layer.levels.nearest(problem.target / scale), scales)


def _with_bias(layer: Layer, found: Solution, moments: Moments, free: bool) -> Solution:
    if not free:
        return found
    return Solution(found.integers, found.scales, mean_error(layer.weight, found.weight(layer.blocks), moments))
