"""Channels scaled or not: of the scalings that a method would try, the one whose outputs are nearest to float.

A scaling leaves the float function as it is. What it does to single layers says too little of the outputs: behind the
layer that gains, another may lose more. So whole networks are quantized, and compared on samples that neither scales
nor ranges have seen.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgeq import policy
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.mixed_precision.trial_builder import TrialBuilder
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.calibrate.auto import DEFAULT
from edgeq.quant.samples import Samples
from edgeq.quant.scaling.accept import Scaled


@dataclass(frozen=True, slots=True)
class _Fold:
    """learn: what scales and ranges are taken from. fidelity: to the float network, on others."""

    learn: Samples
    fidelity: Fidelity


def choose_scaling(builder: TrialBuilder, samples: Samples) -> tuple[ir.Model, list[Scaled]]:
    """The float network scaled by the best of `method.alternatives`, and where; as it is where none gains enough.

    builder: of the network before, with 8-bit weights. Scales are chosen for weights as the method makes them; to
    compare whole networks they are rounded, which takes a part of the time.
    """
    rounding = replace(builder, method=replace(builder.method, settings=None, at_8=None))
    folds = _folds(rounding.network, samples)
    plain = [_sqnr_db(rounding, rounding.network, fold) for fold in folds]
    best: tuple[str, ...] = ()
    gain = policy.SCALING_WORTH_DB.value
    for names in builder.method.alternatives if folds else ():
        won = []
        for fold, before in zip(folds, plain, strict=True):
            network, places = _scaled(builder, names, fold.learn)
            if not places:
                break
            won.append(_sqnr_db(rounding, network, fold) - before)
        if len(won) == len(folds) and sum(won) / len(won) >= gain:
            best, gain = names, sum(won) / len(won)
    return _scaled(builder, best, samples) if best else (builder.network, [])


def _folds(network: ir.Model, samples: Samples) -> list[_Fold]:
    """One where there are enough samples, else both halves in turn; none where there are too few."""
    if samples.count < policy.SCALING_LEAST_SAMPLES.value:
        return []
    first, second = samples.split(max(2, samples.count // policy.FIDELITY_SAMPLES.value))
    pairs = [(first, second), (second, first)]
    return [_Fold(learn, Fidelity.of(network, judge)) for learn, judge in pairs[
        :1 if samples.count >= 2 * policy.FIDELITY_SAMPLES.value else 2]]


def _scaled(builder: TrialBuilder, names: Sequence[str], samples: Samples) -> tuple[ir.Model, list[Scaled]]:
    network = builder.network.clone()
    return network, replace(builder.method, scalings=tuple(names)).scale(network, builder.plan({}), samples, bits=8)


def _sqnr_db(builder: TrialBuilder, network: ir.Model, fold: _Fold) -> float:
    """Of the worst output of the quantized network, against the float one."""
    trial = replace(builder, network=network, calibrator=CALIBRATORS[DEFAULT])
    sources = trial.plan({}).sources
    statistics = calibrate(network, sources, fold.learn.chosen(policy.SCALING_SAMPLES.value)) if sources else {}
    return fold.fidelity.sqnr_db(replace(trial, statistics=statistics).build({}).graph)
