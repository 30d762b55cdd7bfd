"""4 bits that still work: which layers keep 8 bits is measured, where rules would spend these bytes worse.

The planner's rules say how many bytes go to layers of higher precision. Every layer is rounded alone, to 4 and to 8
bits; the path of assignments that follows is left where it has spent as much, or a little later where the next layers
are worth it.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from edgeq import policy
from edgeq.errors import ModelError
from edgeq.graph import constant_bytes
from edgeq.mixed_precision.candidates import layer_bytes, measured_path
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.mixed_precision.greedy_path import Assignment
from edgeq.mixed_precision.result import Measurement, MixedPrecision, Trial
from edgeq.mixed_precision.trial_builder import LARGEST, TrialBuilder, precisions
from edgeq.quant.plan.weights import fewest_bits


def higher_precision_layers(builder: TrialBuilder, fidelity: Fidelity) -> MixedPrecision:
    """The layers that keep 8 bits in a network of 4, in about as many bytes as the planner's rules would take.

    Weights are rounded without a look at the samples here, so that these may judge.
    """
    measured = Measurement("rounded weights alone", budget=2 * policy.ALLOCATION_TRIALS.value)
    if constant_bytes(builder.network.graph) > LARGEST:
        return MixedPrecision.of(replace(measured, note="the network is too large to measure its layers one by one"))
    builder = replace(builder, method=replace(builder.method, settings=None),
                      scheme=replace(builder.scheme, activation=None))
    by_rule = {weight.node: weight.type.bits for weight in builder.plan({}).weights}
    if all(by_rule[name] == fewest_bits(node) for name, node in builder.layers.items()):
        return MixedPrecision()
    fixed = sum(layer_bytes(node, 8) for node in builder.layers.values() if fewest_bits(node) == 8)
    room = sum(layer_bytes(node, by_rule[name]) for name, node in builder.layers.items()) - fixed
    measured = replace(measured, plain=fidelity.sqnr_db(builder.build({}).graph))
    try:
        path = [replace(assignment, weight_bytes=assignment.weight_bytes - fixed)
                for assignment in measured_path(builder, fidelity.feeds[:policy.NOISE_SAMPLES.value], (4, 8))]
    except ModelError as error:
        note = f"the layers could not be measured one by one: {error}"
        return MixedPrecision.of(replace(measured, note=note))
    return MixedPrecision.of(_best(builder, _worth_trying(path, room), room, fidelity, measured))


def _worth_trying(path: Sequence[Assignment], room: int) -> list[Assignment]:
    """The last assignments that the room holds, and those around the one that is worth most of what needs more."""
    inside = sum(assignment.weight_bytes <= room for assignment in path)
    outside = sum(assignment.weight_bytes <= policy.ALLOCATION_MOST_BYTES.value * room for assignment in path)
    best = max(range(max(inside - 1, 0), outside), default=0,
               key=lambda place: _worth(-10 * math.log10(max(path[place].noise, 1e-30)), path[place], room))
    count = policy.ALLOCATION_TRIALS.value
    places = {*range(inside - count, inside), *range(best + 1 - count, best + 1)}
    return [path[place] for place in sorted(places) if 0 <= place < outside]


def _worth(decibel: float, assignment: Assignment, room: int) -> float:
    return decibel - policy.ALLOCATION_DOUBLED_DB.value * max(0.0, assignment.weight_bytes / room - 1)


def _best(builder: TrialBuilder, tried: Sequence[Assignment], room: int, fidelity: Fidelity, measured: Measurement,
          ) -> Measurement:
    assert measured.plain is not None
    chosen, most, trials = None, measured.plain + policy.ALLOCATION_WORTH_DB.value, list[Trial]()
    for assignment in tried:
        layers = precisions(assignment.bits, ())
        trials.append(Trial(layers, fidelity.sqnr_db(builder.build(layers).graph)))
        worth = _worth(trials[-1].score, assignment, room)
        if worth > most:
            chosen, most = trials[-1], worth
    return replace(measured, chosen=chosen, trials=tuple(trials))
