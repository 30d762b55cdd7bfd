"""8 bits that nobody notices: the few layers that cause most of the outputs' error compute in float.

Plain W8A8 is measured against float first. Where it is good, nothing more is done. Else every rounding is measured
alone, and the path of mixtures is followed as long as what it repairs is worth the float compute.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import onnx_ir as ir

from edgeq.errors import ModelError
from edgeq.mixed_precision.candidates import measured_path
from edgeq.mixed_precision.fidelity import Judge
from edgeq.mixed_precision.greedy_path import Mixture
from edgeq.mixed_precision.trial_builder import LARGEST, Workbench, constant_bytes, precisions
from edgeq.quant.plan import Precision

# An error of 32 dB moves scores by a 40th of their size and hardly an argmax; images and boxes show more of it.
SCORES_DB: Final = 32.0
VALUES_DB: Final = 38.0
MOST_FLOAT: Final = 0.25  # of all work: beyond, the user did not ask for a float network
MOST_BYTES: Final = 1.1  # of plain W8A8's weights
WORTH_DB: Final = 10.0  # what computing everything in float would have to gain: 10 % of the work, 1 dB
TRIALS: Final = 8
PROBES: Final = 4  # of the judge's samples, to measure single roundings on


@dataclass(frozen=True, slots=True)
class Repair:
    """layers: what each gets; empty: plain W8A8. sqnr_db: of the worst output. plain_db: the same of plain W8A8.
    float_share: what it adds to plain W8A8's. note: why nothing was tried, or "".
    """

    plain_db: float
    sqnr_db: float
    layers: Mapping[str, Precision] = field(default_factory=dict)
    float_share: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"plain_sqnr_db": round(self.plain_db, 2), "sqnr_db": round(self.sqnr_db, 2),
                "float_share": round(self.float_share, 4), "note": self.note}


def repair(bench: Workbench, judge: Judge) -> Repair:
    """As few layers in float as bring the outputs near enough to the float network's. bench: of 8-bit weights."""
    plain = bench.build({})
    plain_db = judge.sqnr_db(plain.graph)
    best = Repair(plain_db, plain_db)
    enough = SCORES_DB if _gives_scores(bench.network) else VALUES_DB
    if plain_db >= enough or not plain.plan.groups:
        return best
    if constant_bytes(bench.network) > LARGEST:
        return replace(best, note="the network is too large to measure its layers one by one")
    try:
        path = measured_path(bench, judge.feeds[:PROBES], (8, 16), MOST_BYTES)
    except ModelError as error:  # plain W8A8 is what the user gets then, and is told
        return replace(best, note=f"the layers could not be measured one by one: {error}")
    for place in _worth_trying(path):
        layers = _with_reasons(path[:place + 1])
        built = bench.build(layers)
        share = bench.float_share(built.plan) - bench.float_share(plain.plan)
        if share > MOST_FLOAT:  # more than was predicted, where float spreads to the neighbours
            continue
        found = Repair(plain_db, judge.sqnr_db(built.graph), layers, share)
        best = max(best, found, key=_worth)
        if found.sqnr_db >= enough:
            break
    return best


def _worth(found: Repair) -> float:
    return found.sqnr_db - WORTH_DB * found.float_share


def _gives_scores(network: ir.Model) -> bool:
    """True when every output is one row of scores, of which the largest counts; or one for each of a free batch."""
    shapes = [list(value.shape) for value in network.graph.outputs if value.shape is not None]
    return all(shape and isinstance(shape[-1], int) and shape[-1] > 1 and all(
        size == 1 or (axis == 0 and not isinstance(size, int)) for axis, size in enumerate(shape[:-1]))
        for shape in shapes)


def _worth_trying(path: Sequence[Mixture]) -> Iterator[int]:
    """Places that are each predicted to be half a dB better than the one before, within the limits."""
    last, tried = path[0].noise, 0
    for place, mixture in enumerate(path[1:], 1):
        if mixture.float_share > MOST_FLOAT:
            return
        if mixture.noise <= last * 10**-0.05 and tried < TRIALS:
            last, tried = mixture.noise, tried + 1
            yield place


def _with_reasons(path: Sequence[Mixture]) -> dict[str, Precision]:
    """The last mixture of a path; each node says what its step won."""
    found = precisions(path[-1].bits, ())
    for before, after in pairwise(path):
        gain = before.noise - after.noise
        lost = 10 * math.log10(path[0].noise / max(path[0].noise - gain, 1e-30))
        reason = f"costs {lost:.1f} dB of the output's SQNR at 8 bits"
        for name in after.floats - before.floats:
            found[name] = Precision(found[name].weight_bits if name in found else None, False, reason)
    return found
