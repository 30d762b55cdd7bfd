"""8 bits that nobody notices: the few layers that cause most of the outputs' error compute in float.

Plain W8A8 is measured against float first. Where it is good, nothing more is done. Else every rounding is measured
alone, and the path of precision assignments is followed as long as what it gains is worth the float compute.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import onnx_ir as ir

from edgeq import policy
from edgeq.errors import ModelError
from edgeq.graph import constant_bytes
from edgeq.mixed_precision.candidates import measured_path
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.mixed_precision.greedy_path import Assignment
from edgeq.mixed_precision.result import Measurement, MixedPrecision, Trial
from edgeq.mixed_precision.trial_builder import LARGEST, TrialBuilder, precisions
from edgeq.quant.plan import Precision


def float_fallback(builder: TrialBuilder, fidelity: Fidelity) -> MixedPrecision:
    """As few layers in float as bring the outputs near enough to the float network's. builder: of 8-bit weights."""
    plain = builder.build({})
    plain_db = fidelity.sqnr_db(plain.graph)
    measured = Measurement("8-bit weights and activations", plain_db, budget=policy.FALLBACK_TRIALS.value)
    enough = policy.SCORES_DB.value if _gives_scores(builder.network) else policy.VALUES_DB.value
    if plain_db >= enough or not (plain.plan.groups or plain.plan.weights):
        return MixedPrecision.of(measured)
    if constant_bytes(builder.network.graph) > LARGEST:
        return MixedPrecision.of(replace(measured, note="the network is too large to measure its layers one by one"))
    try:
        path = measured_path(builder, fidelity.feeds[:policy.FALLBACK_NOISE_SAMPLES.value], (8, 16),
                             policy.FALLBACK_MOST_BYTES.value)
    except ModelError as error:  # plain W8A8 is what the user gets then, and is told
        note = f"the layers could not be measured one by one: {error}"
        return MixedPrecision.of(replace(measured, note=note))
    best, trials = Trial({}, plain_db), list[Trial]()
    for place in _worth_trying(path):
        layers = _with_reasons(path[:place + 1])
        built = builder.build(layers)
        share = builder.float_share(built.plan) - builder.float_share(plain.plan)
        if share > policy.FALLBACK_MOST_FLOAT.value:  # more than was predicted, where float spreads to the neighbours
            continue
        trials.append(Trial(layers, fidelity.sqnr_db(built.graph), share))
        best = max(best, trials[-1], key=_worth)
        if trials[-1].score >= enough:
            break
    return MixedPrecision.of(replace(measured, chosen=best if best in trials else None, trials=tuple(trials)))


def _worth(trial: Trial) -> float:
    return trial.score - policy.FALLBACK_WORTH_DB.value * trial.float_share


def _gives_scores(network: ir.Model) -> bool:
    """True when every output is one row of scores, of which the largest counts; or one for each of a free batch."""
    shapes = [list(value.shape) for value in network.graph.outputs if value.shape is not None]
    return all(shape and isinstance(shape[-1], int) and shape[-1] > 1 and all(
        size == 1 or (axis == 0 and not isinstance(size, int)) for axis, size in enumerate(shape[:-1]))
        for shape in shapes)


def _worth_trying(path: Sequence[Assignment]) -> Iterator[int]:
    """Places that are each predicted to be a step better than the one before, within the limits."""
    step = 10**(-policy.FALLBACK_STEP_DB.value / 10)
    last, tried = path[0].noise, 0
    for place, assignment in enumerate(path[1:], 1):
        if assignment.float_share > policy.FALLBACK_MOST_FLOAT.value:
            return
        if tried < policy.FALLBACK_TRIALS.value and assignment.noise <= last * step:
            last, tried = assignment.noise, tried + 1
            yield place


def _with_reasons(path: Sequence[Assignment]) -> dict[str, Precision]:
    """The last assignment of a path; each node says what its step won."""
    found = precisions(path[-1].bits, ())
    for before, after in pairwise(path):
        gain = before.noise - after.noise
        lost = 10 * math.log10(path[0].noise / max(path[0].noise - gain, 1e-30))
        reason = f"costs {lost:.1f} dB of the output's SQNR at 8 bits"
        for name in after.floats - before.floats:
            found[name] = Precision(found[name].weight_bits if name in found else None, False, reason)
    return found
