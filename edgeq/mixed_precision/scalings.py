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
from edgeq.quant.scaling.accept import Scaled, scale_alternatives


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
    alternatives = builder.method.alternatives if folds else ()
    gains = [0.0] * len(alternatives)
    for fold in folds:
        plain = _sqnr_db(rounding, rounding.network, fold)
        for at, (network, places) in enumerate(_scaled(builder, alternatives, fold.learn)):
            gains[at] += (_sqnr_db(rounding, network, fold) - plain) / len(folds) if places else 0.0
    best = max(range(len(gains)), key=gains.__getitem__, default=0)
    if not gains or gains[best] < policy.SCALING_WORTH_DB.value:
        return builder.network, []
    return _scaled(builder, [alternatives[best]], samples)[0]


def _folds(network: ir.Model, samples: Samples) -> list[_Fold]:
    """One where there are enough samples, else both halves in turn; none where there are too few."""
    if samples.count < policy.SCALING_LEAST_SAMPLES.value:
        return []
    first, second = samples.split(max(2, samples.count // policy.FIDELITY_SAMPLES.value))
    pairs = [(first, second), (second, first)]
    return [_Fold(learn, Fidelity.of(network, judge)) for learn, judge in pairs[
        :1 if samples.count >= 2 * policy.FIDELITY_SAMPLES.value else 2]]


def _scaled(builder: TrialBuilder, alternatives: Sequence[Sequence[str]], samples: Samples,
            ) -> list[tuple[ir.Model, list[Scaled]]]:
    """The network scaled by each of them, and where."""
    networks = [builder.network.clone() for _ in alternatives]
    done = scale_alternatives(list(zip(networks, alternatives, strict=True)), builder.plan({}),
                              samples.chosen(policy.SCALING_SAMPLES.value), fitted=builder.method.is_fitted(samples, 8))
    return list(zip(networks, done, strict=True))


def _sqnr_db(builder: TrialBuilder, network: ir.Model, fold: _Fold) -> float:
    """Of the worst output of the quantized network, against the float one."""
    trial = replace(builder, network=network, calibrator=CALIBRATORS[DEFAULT])
    sources = trial.plan({}).sources
    statistics = calibrate(network, sources, fold.learn.chosen(policy.SCALING_SAMPLES.value)) if sources else {}
    return fold.fidelity.sqnr_db(replace(trial, statistics=statistics).build({}).graph)
