"""Channels scaled or not: of the scalings that a method would try, the one whose outputs are nearest to float.

A scaling leaves the float function as it is. What it does to single layers says too little of the outputs: behind the
layer that gains, another may lose more. So whole networks are quantized, and compared on samples that neither scales
nor ranges have seen.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from edgeq import policy
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.mixed_precision.trial_builder import TrialBuilder
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.calibrate.auto import DEFAULT
from edgeq.quant.samples import Samples
from edgeq.quant.scaling.accept import Scaled


def choose_scaling(builder: TrialBuilder, samples: Samples, bits: int) -> tuple[ir.Model, list[Scaled]]:
    """The float network scaled by the best of `method.alternatives`, and where; as it is where none gains enough.

    builder: of the network before. bits: of the weights.
    """
    folds = _folds(samples)
    plain = [_sqnr_db(builder, builder.network, learn, judge, bits) for learn, judge in folds]
    best: tuple[str, ...] = ()
    gain = policy.SCALING_WORTH_DB.value
    for names in builder.method.alternatives if folds else ():
        won = []
        for (learn, judge), before in zip(folds, plain, strict=True):
            network, places = _scaled(builder, names, learn, bits)
            if not places:
                break
            won.append(_sqnr_db(builder, network, learn, judge, bits) - before)
        if len(won) == len(folds) and sum(won) / len(won) >= gain:
            best, gain = names, sum(won) / len(won)
    return _scaled(builder, best, samples, bits) if best else (builder.network, [])


def _folds(samples: Samples) -> list[tuple[Samples, Samples]]:
    """(to learn from, to judge by): one of each where there are enough, else both halves in turn."""
    enough = 2 * policy.FIDELITY_SAMPLES.value
    if samples.count < policy.SCALING_LEAST_SAMPLES.value:
        return []
    first, second = samples.split(max(2, samples.count // policy.FIDELITY_SAMPLES.value))
    return [(first, second)] if samples.count >= enough else [(first, second), (second, first)]


def _scaled(builder: TrialBuilder, names: Sequence[str], samples: Samples, bits: int,
            ) -> tuple[ir.Model, list[Scaled]]:
    network = builder.network.clone()
    method = replace(builder.method.in_short(bits), scalings=tuple(names))
    return network, method.scale(network, builder.plan({}), samples, bits)


def _sqnr_db(builder: TrialBuilder, network: ir.Model, learn: Samples, judge: Samples, bits: int) -> float:
    """Of the worst output of the quantized network, against the float one."""
    method = builder.method.in_short(bits)
    sources = replace(builder, network=network).plan({}).sources
    statistics = calibrate(network, sources, learn.chosen(policy.SCALING_SAMPLES.value)) if sources else {}
    trial = replace(builder, network=network, samples=learn, statistics=statistics, calibrator=CALIBRATORS[DEFAULT],
                    method=method, fits=type(builder.fits)())
    return Fidelity.of(builder.network, judge).sqnr_db(trial.build({}).graph)
