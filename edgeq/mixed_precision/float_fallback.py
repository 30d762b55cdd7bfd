"""8 bits that nobody notices: the few layers that cause most of the outputs' error compute in float, as far as the time
that this takes allows; and so does what is slower on integers.

Plain W8A8 is measured against float first. Where it is good, nothing more is done. Else every rounding is measured
alone, and the path of precision assignments is followed as long as what it gains is worth its price.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

import onnx_ir as ir

from edgeq import policy
from edgeq.errors import ModelError
from edgeq.graph import constant_bytes, label
from edgeq.mixed_precision.candidates import layer_bytes, measured_path
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.mixed_precision.greedy_path import Assignment
from edgeq.mixed_precision.price import Price
from edgeq.mixed_precision.result import Measurement, MixedPrecision, Trial
from edgeq.mixed_precision.trial_builder import LARGEST, TrialBuilder, precisions
from edgeq.quant.plan import Precision, QuantPlan
from edgeq.quant.plan.units import weights_of
from edgeq.state import loop_nodes, state_pairs
from edgeq.targets import Same

_FASTER: Final = "computes faster in float, by the measured costs of its operators"
_STATE: Final = "at 8 bits a state drifts here, step by step"


def float_fallback(builder: TrialBuilder, fidelity: Fidelity, price: Price) -> MixedPrecision:
    """As few layers in float as bring the outputs near enough to the float network's. builder: of 8-bit weights."""
    trying = _Trying(builder, fidelity, price)
    plain = best = trying.trial({})
    enough = policy.SCORES_DB.value if _gives_scores(builder.network) else policy.VALUES_DB.value
    ended = f"From {enough:g} dB on nothing more is tried."
    measured = Measurement("8-bit weights and activations", plain.score, budget=policy.FALLBACK_TRIALS.value,
                           times=price.reference(), clocked=price.clocked(), slower=price.slower(),
                           most_time=1 + price.room if price.is_timed else None)
    trials = list[Trial]()
    first = _in_float(builder, _faster(builder, price))
    if first:
        trials.append(trying.trial(first))
        if not trials[0].beside or price.gains(trials[0].times, trials[0].beside["plain"]):
            best = trials[0]
        else:
            first = {}
    if plain.score >= enough or not builder.plan({}).groups:
        return MixedPrecision.of(replace(measured, chosen=None if best is plain else best, trials=tuple(trials),
                                         stopped=ended))
    if constant_bytes(builder.network.graph) > LARGEST:
        return MixedPrecision.of(replace(measured, note="the network is too large to measure its layers one by one"))

    def saves() -> bool:
        return best.score < policy.BROKEN_DB.value

    carrying = _carrying_state(builder)
    if carrying and price.allows(builder.plan(first | carrying), saves=saves()):
        trials.append(trying.trial(first | carrying))
        if trials[-1].score >= best.score + policy.FALLBACK_GAIN_DB.value and price.keeps(trials[-1], saves=saves()):
            best, first = trials[-1], first | carrying
        if best.score >= enough:
            return MixedPrecision.of(replace(measured, chosen=best, trials=tuple(trials), stopped=ended))
    try:
        path = measured_path(builder, fidelity.feeds[:policy.FALLBACK_NOISE_SAMPLES.value], (8, 16),
                             policy.FALLBACK_MOST_BYTES.value, price.extra, frozenset(first))
    except ModelError as error:  # plain W8A8 is what the user gets then, and is told
        note = f"the layers could not be measured one by one: {error}"
        return MixedPrecision.of(replace(measured, note=note))
    places = _worth_trying(path, price, saves=saves())
    options = [_with_reasons(path[:place + 1], first) for place in places]
    for trial in _in_order(trying, options, enough, saves) if price.clock is None else _halved(trying, options, enough):
        trials.append(trial)
        if best.score < enough and price.keeps(trial, saves=saves()) and trial.score >= (
                best.score + policy.FALLBACK_GAIN_DB.value) and _worth(trial, price) > _worth(best, price):
            best = trial
    stopped = ended if best.score >= enough else price.limit
    return MixedPrecision.of(replace(measured, chosen=None if best is plain else best, trials=tuple(trials),
                                     stopped=stopped))


@dataclass(frozen=True)
class _Trying:
    builder: TrialBuilder
    fidelity: Fidelity
    price: Price

    def trial(self, layers: Mapping[str, Precision]) -> Trial:
        built = self.builder.build(layers)
        return Trial(layers, self.fidelity.sqnr_db(built.graph), self._share(built.plan), constant_bytes(
            built.graph.graph), *(self.price.times(built) if layers else ()))

    def allows(self, layers: Mapping[str, Precision], *, saves: bool) -> bool:
        plan = self.builder.plan(layers)
        return self.price.allows(plan, saves=saves) and (
            self.price.is_timed or self._share(plan) <= policy.FALLBACK_MOST_FLOAT.value)

    def _share(self, plan: QuantPlan) -> float:
        return self.builder.float_share(plan) - self.builder.float_share(self._plain)

    @cached_property
    def _plain(self) -> QuantPlan:
        return self.builder.plan({})


def _faster(builder: TrialBuilder, price: Price) -> frozenset[str]:
    """What computes faster in float, where all of it together gains enough and takes no more bytes than allowed."""
    found = price.fastest()
    sizes = {name: [layer_bytes(node, bits) for bits in (8, 16 if name in found else 8)]
             for name, node in builder.layers.items()}
    plain, grown = (sum(size[k] for size in sizes.values()) for k in (0, 1))
    if not found or grown > policy.FALLBACK_MOST_BYTES.value * plain:
        return frozenset()
    return found if price.gains(price.milliseconds(builder.plan(_in_float(builder, found)))) else frozenset()


def _in_float(builder: TrialBuilder, nodes: Collection[str]) -> dict[str, Precision]:
    """Weights too: between integers, an engine would compute with stored integers as ever."""
    return precisions({name: 16 for name in builder.layers if name in nodes}, nodes, _FASTER)


def _carrying_state(builder: TrialBuilder) -> dict[str, Precision]:
    """What computes a state from itself without weights: a rounding there comes back in every step, where one of what a
    layer reads does not.
    """
    integers = builder.integers
    nodes = [] if integers is None or not state_pairs(builder.network) else [
        node for node in loop_nodes(builder.network) if node in integers.nodes
        and not weights_of(node) and builder.units.constraint(node, Same) is None]
    return precisions({}, map(label, nodes), _STATE)


def _worth(trial: Trial, price: Price) -> float:
    return trial.score - (0.0 if price.is_timed else policy.FALLBACK_WORTH_DB.value * trial.float_share)


def _gives_scores(network: ir.Model) -> bool:
    """True when every output but state is one row of scores, of which the largest counts; or one for each of a free
    batch.
    """
    state = state_pairs(network).values()
    outputs = [value for value in network.graph.outputs if value.name not in state]
    shapes = [list(value.shape) for value in outputs if value.shape is not None]
    return all(shape and isinstance(shape[-1], int) and shape[-1] > 1 and all(
        size == 1 or (axis == 0 and not isinstance(size, int)) for axis, size in enumerate(shape[:-1]))
        for shape in shapes)


def _in_order(trying: _Trying, options: Sequence[Mapping[str, Precision]], enough: float, saves: Callable[[], bool],
              ) -> Iterator[Trial]:
    """Trials of what is predicted to be fast enough, until one is good enough."""
    for layers in options:
        if trying.allows(layers, saves=saves()):  # else float spreads to the neighbours, and more than was predicted
            yield (trial := trying.trial(layers))
            if trial.score >= enough:
                return


def _halved(trying: _Trying, options: Sequence[Mapping[str, Precision]], enough: float) -> list[Trial]:
    """Trials on the way to the last option that the clock allows, or the first that is good enough: with more in float
    both time and quality grow, nearly, so that each trial leaves half of the options. In the order of these.
    """
    trials, low, high = dict[int, Trial](), 0, len(options)
    while low < high and len(trials) < policy.FALLBACK_TRIALS.value:
        middle = (low + high) // 2
        trial = trials[middle] = trying.trial(options[middle])
        if trial.score >= enough or not trying.price.keeps(trial, saves=trial.score < policy.BROKEN_DB.value):
            high = middle
        else:
            low = middle + 1
    return [trials[place] for place in sorted(trials)]


def _worth_trying(path: Sequence[Assignment], price: Price, *, saves: bool) -> list[int]:
    """Places that are each predicted to be a step better than the one before, within the limits; all, with a clock."""
    step, last, found = 10**(-policy.FALLBACK_STEP_DB.value / 10), path[0].noise, list[int]()
    for place, assignment in enumerate(path[1:], 1):
        if price.is_timed and price.clock is None and not saves and assignment.price > price.room:
            break
        if not price.is_timed and assignment.float_share > policy.FALLBACK_MOST_FLOAT.value:
            break
        if assignment.noise <= last * step:
            last = assignment.noise
            found.append(place)
    most = policy.FALLBACK_TRIALS.value
    if price.clock is not None:
        return found
    if not price.is_timed:
        return found[:most]
    return [found[(k + 1) * len(found) // most - 1] for k in range(most)] if len(found) > most else found


def _with_reasons(path: Sequence[Assignment], first: Mapping[str, Precision]) -> dict[str, Precision]:
    """The last assignment of a path; each node says what its step won. first: what was in float at its beginning."""
    found = precisions(path[-1].bits, ())
    found |= {name: replace(given, weight_bits=found.get(name, given).weight_bits) for name, given in first.items()}
    for before, after in pairwise(path):
        gain = before.noise - after.noise
        lost = 10 * math.log10(path[0].noise / max(path[0].noise - gain, 1e-30))
        reason = f"costs {lost:.1f} dB of the output's SQNR at 8 bits"
        for name in after.floats - before.floats:
            found[name] = Precision(found[name].weight_bits if name in found else None, False, reason)
    return found
