"""Numbers of edgeq/policy.py that decide accuracy, tried one by one, and chosen with one model left out at a time.

    python benchmarks/policy.py [--numbers OWN_GRID,...] [--items NAME,...] [--samples 64] [--json FILE]

Every real model is quantized for ONNX Runtime with the number as it is and with each other value of NUMBERS, and
compared with float on evaluation samples, which nothing was fitted to. What counts is the gain in dB, within 3 either
way, less what more bytes and more float would have to gain (ALLOCATION_DOUBLED_DB, FALLBACK_WORTH_DB). others: the mean
gain of each other value. chosen: by how many of the folds, each of which leaves one model out. unseen: mean gain that
the folds' choices have on the models left out; a number is worth changing where that is clearly above 0. A model that
never reads a number is no fold of it. At 4 bits the language model keeps float activations.
"""
from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from common import open_zoo, padded, parser, report, shapes

from edgeq import policy
from edgeq.conversion.metadata import input_specs
from edgeq.conversion.options import Options
from edgeq.conversion.quantization import quantize_network
from edgeq.conversion.request import read_request
from edgeq.frontends import load_model
from edgeq.graph import constant_bytes
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.passes import canonicalize
from edgeq.quant.samples import open_samples

LANGUAGE = "lm_stories260k"
EVALUATED, MOST = 48, 3.0  # samples; dB that one model may say
NUMBERS: Mapping[str, tuple[int, tuple[float, ...]]] = {  # bits, other values
    "SCORES_DB": (8, (26.0, 38.0)), "VALUES_DB": (8, (32.0, 44.0)), "OWN_GRID": (8, (0.25, 1.0)),
    "FALLBACK_WORTH_DB": (8, (5.0, 20.0)), "FALLBACK_STEP_DB": (8, (0.25, 1.0)), "FALLBACK_GAIN_DB": (8, (0.25, 1.0)),
    "FALLBACK_TRIALS": (8, (4, 16)), "FALLBACK_NOISE_SAMPLES": (8, (2, 8)), "SCALING_WORTH_DB": (8, (0.0, 1.0)),
    "EMBEDDING_SAVES_BYTES": (8, (0, 1 << 20)), "AUTO_MARGIN": (8, (0.9, 1.0)), "AUTO_CHOOSING": (8, (4, 16)),
    "CHOICE_JUDGES_ONE_IN": (8, (2, 5)), "FIRST_LAYER_SHARE": (4, (0.0, 0.05)), "LAST_LAYER_SHARE": (4, (0.05, 0.3)),
    "SMALLEST_LAYERS_SHARE": (4, (0.0, 0.1)), "ALLOCATION_WORTH_DB": (4, (0.0, 1.0)),
    "ALLOCATION_MOST_BYTES": (4, (1.0, 1.3)), "ALLOCATION_TRIALS": (4, (1, 5)),
    "FIT_VALIDATION_ONE_IN": (4, (3, 8)),
}


@dataclass(frozen=True)
class Row:
    number: str
    bits: int
    value: float
    others: str
    folds: int
    chosen: str
    unseen: float | None


@dataclass(frozen=True)
class Result:
    decibel: float
    bytes: int
    float_share: float

    def gain_over(self, other: Result) -> float:
        gained = min(MOST, max(-MOST, self.decibel - other.decibel))
        return gained - policy.ALLOCATION_DOUBLED_DB.value * math.log2(self.bytes / other.bytes) - (
            policy.FALLBACK_WORTH_DB.value * (self.float_share - other.float_share))


class Watched:
    """A parameter that tells when it is read."""

    def __init__(self, name: str, parameter: Any, seen: set[str]):
        self._name, self._parameter, self._seen = name, parameter, seen

    @property
    def value(self) -> Any:
        self._seen.add(self._name)
        return self._parameter.value


def quantized(zoo: Any, item: str, bits: int, count: int) -> Result:
    network = load_model(zoo.model(item), inputs=shapes(zoo, item))
    canonicalize(network)
    calibration = [padded(item, feed) for feed in zoo.feeds(item, "calib", count)]
    others = [padded(item, feed) for feed in zoo.feeds(item, "eval", EVALUATED)]
    activations = "float" if item == LANGUAGE and bits == 4 else "auto"
    request = read_request("onnxruntime", Options(bits=bits, calibration=calibration, activations=activations))
    done = quantize_network(network, request, open_samples(calibration, input_specs(network)).hold_out()[0])
    assert done.plan is not None
    others = list(open_samples(others, input_specs(network)))
    judge = Fidelity(network, others, others)
    share = done.trials.float_share(done.plan) if done.trials is not None else 0.0
    return Result(judge.sqnr_db(done.graph), constant_bytes(done.graph.graph), share)


def gains(zoo: Any, item: str, numbers: Sequence[str], count: int) -> Iterator[tuple[str, list[float]]]:
    """The gain of each other value, for each number that the model's conversion reads."""
    committed = {name: getattr(policy, name) for name in numbers}
    for bits in sorted({NUMBERS[name][0] for name in numbers}):
        seen = set[str]()
        for name in numbers:
            setattr(policy, name, Watched(name, committed[name], seen))
        base = quantized(zoo, item, bits, count)
        for name in numbers:
            setattr(policy, name, committed[name])
        for name in (name for name in numbers if NUMBERS[name][0] == bits and name in seen):
            found = []
            for value in NUMBERS[name][1]:
                setattr(policy, name, replace(committed[name], value=value))
                found.append(quantized(zoo, item, bits, count).gain_over(base))
            setattr(policy, name, committed[name])
            print(f"{item} {name} {committed[name].value}: " + ", ".join(
                f"{value:g} {gain:+.2f}" for value, gain in zip(NUMBERS[name][1], found, strict=True)),
                file=sys.stderr, flush=True)
            yield name, found


def row(name: str, found: Sequence[Sequence[float]]) -> Row:
    """found: of each model, the gain of each other value."""
    bits, others = NUMBERS[name]
    table = np.array([[0.0, *each] for each in found]).reshape(-1, len(others) + 1)
    chosen, unseen = [], []
    for left_out in range(len(table)) if len(table) > 1 else ():
        best = int(np.delete(table, left_out, 0).mean(0).argmax())
        chosen.append(best)
        unseen.append(table[left_out, best])
    values = [getattr(policy, name).value, *others]
    means = table[:, 1:].mean(0) if len(table) else []
    tried = ", ".join(f"{value:g} {gain:+.2f}" for value, gain in zip(others, means, strict=False))
    folds = ", ".join(f"{values[k]:g} x {chosen.count(k)}" for k in sorted(set(chosen)))
    return Row(name, bits, values[0], tried, len(table), folds, float(np.mean(unseen)) if unseen else None)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--numbers", default=",".join(NUMBERS))
    options.add_argument("--items")
    options.add_argument("--samples", type=int, default=64)
    given = options.parse_args()
    zoo = open_zoo(given.models)
    numbers = given.numbers.split(",")
    found: dict[str, list[list[float]]] = {name: [] for name in numbers}
    for item in given.items.split(",") if given.items else zoo.ids:
        for name, each in gains(zoo, item, numbers, given.samples):
            found[name].append(each)
    report([row(name, found[name]) for name in numbers], "gains in dB over the number as it is", given.json)


if __name__ == "__main__":
    main()
