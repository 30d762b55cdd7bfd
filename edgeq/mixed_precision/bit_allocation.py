"""4 bits that still work: which layers keep 8 bits is measured, where rules would spend these bytes worse.

The planner's rules say how many bytes go to wider layers. Every layer is rounded alone, to 4 and to 8 bits; the path of
mixtures that follows is left where it has spent as much, or a little later where the next layers are worth it.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from edgeq.errors import ModelError
from edgeq.mixed_precision.candidates import layer_bytes, measured_path
from edgeq.mixed_precision.fidelity import Judge
from edgeq.mixed_precision.goal import FEEDS
from edgeq.mixed_precision.greedy_path import Mixture
from edgeq.mixed_precision.trial_builder import LARGEST, Workbench, constant_bytes, precisions
from edgeq.quant.plan import Precision
from edgeq.quant.plan.weights import fewest_bits

WORTH_DB: Final = 0.5  # less is what other samples would have changed too
DOUBLED_DB: Final = 24.0  # what doubling all bytes, from 4 to 8 bits, gains: a layer has to give more for its bytes
MOST_BYTES: Final = 1.15  # of what the rules take for layers that can have 4 bits
TRIALS: Final = 3  # the noise of single layers adds up nearly, so a smaller mixture is sometimes the better one


@dataclass(frozen=True, slots=True)
class Wider:
    """layers: what each gets; empty: the planner's rules hold. rule_db, sqnr_db: of the worst output, weights rounded
    and nothing else, by the rules and as chosen. note: why nothing was measured, or "".
    """

    layers: Mapping[str, Precision] = field(default_factory=dict)
    rule_db: float | None = None
    sqnr_db: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"measured": bool(self.layers), "rule_sqnr_db": self.rule_db, "sqnr_db": self.sqnr_db, "note": self.note}


def choose_wider(bench: Workbench, judge: Judge) -> Wider:
    """The layers that keep 8 bits in a network of 4, in about as many bytes as the planner's rules would take.

    Weights are rounded without a look at the samples here, so that these may judge.
    """
    if constant_bytes(bench.network) > LARGEST:
        return Wider(note="the network is too large to measure its layers one by one")
    bench = replace(bench, method=replace(bench.method, settings=None), scheme=replace(bench.scheme, activation=None))
    kept = {weight.node: weight.type.bits for weight in bench.plan({}).weights}
    if all(kept[name] == fewest_bits(node) for name, node in bench.layers.items()):
        return Wider()
    fixed = sum(layer_bytes(node, 8) for node in bench.layers.values() if fewest_bits(node) == 8)
    room = sum(layer_bytes(node, kept[name]) for name, node in bench.layers.items()) - fixed
    rule_db = judge.sqnr_db(bench.build({}).graph)
    try:
        path = [replace(mixture, weight_bytes=mixture.weight_bytes - fixed)
                for mixture in measured_path(bench, judge.feeds[:FEEDS], (4, 8))]
    except ModelError as error:
        return Wider(rule_db=rule_db, sqnr_db=rule_db, note=f"the layers could not be measured one by one: {error}")
    return _best(bench, _worth_trying(path, room), room, judge, Wider(rule_db=rule_db, sqnr_db=rule_db))


def _worth_trying(path: Sequence[Mixture], room: int) -> list[Mixture]:
    """The last mixtures that the room holds, and those around the one that is worth most of what needs more."""
    inside = sum(mixture.weight_bytes <= room for mixture in path)
    outside = sum(mixture.weight_bytes <= MOST_BYTES * room for mixture in path)
    best = max(range(max(inside - 1, 0), outside), default=0,
               key=lambda place: _worth(-10 * math.log10(max(path[place].noise, 1e-30)), path[place], room))
    places = {*range(inside - TRIALS, inside), *range(best + 1 - TRIALS, best + 1)}
    return [path[place] for place in sorted(places) if 0 <= place < outside]


def _worth(decibel: float, mixture: Mixture, room: int) -> float:
    return decibel - DOUBLED_DB * max(0.0, mixture.weight_bytes / room - 1)


def _best(bench: Workbench, trials: Sequence[Mixture], room: int, judge: Judge, rules: Wider) -> Wider:
    assert rules.rule_db is not None
    best, most = rules, rules.rule_db + WORTH_DB
    for mixture in trials:
        layers = precisions(mixture.bits, ())
        found = judge.sqnr_db(bench.build(layers).graph)
        if _worth(found, mixture, room) > most:
            best, most = Wider(layers, rules.rule_db, found), _worth(found, mixture, room)
    return best
