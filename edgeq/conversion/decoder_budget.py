"""Types for a budget of bits: each weight gets what lowers the KL divergence to the float network most for its bytes.

Single weights' divergences add up (docs/language-models.md), so each is measured alone, as one type; that of the others
follows from the squared errors that they leave, since a small divergence grows as these do.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq import policy
from edgeq.conversion.decoder_figures import logits_of
from edgeq.conversion.decoder_fit import (
    Array,
    DecoderWeights,
    Tokens,
    Types,
    embedded,
    head_inputs,
    input_squares,
    key_groups,
    states_behind,
)
from edgeq.conversion.decoder_states import States, kept
from edgeq.errors import UsageError
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import linear_roles, shape_of
from edgeq.progress import Progress, silent
from edgeq.quant.decoder import Key
from edgeq.quant.formats import FORMATS
from edgeq.verification.language import kl_divergence, log_softmax


@dataclass(frozen=True, slots=True)
class Choice:
    """One tensor of the file. keys: what it holds, more than one where weights are fused. weights: their number.
    divergence: in nats a token, by the types that fit its rows.
    """

    keys: tuple[Key, ...]
    weights: int
    divergence: Mapping[str, float]


def types_for_budget(choices: Sequence[Choice], budget: float) -> Types:
    """Types of the least divergence, all together of at most `budget` bits per weight: a knapsack, by dynamic
    programming over what is spent beyond the smallest types.

    Raises:
        UsageError: the smallest types have more.
    """
    total = sum(choice.weights for choice in choices)
    smallest = sum(min(map(_bits, choice.divergence)) * choice.weights for choice in choices)
    if budget * total < smallest:
        raise UsageError(f"--bits-per-weight {budget:g}: the smallest types that fit this network's rows have "
                         f"{smallest / total:.2f}")
    costs = [[round((_bits(type) - min(map(_bits, choice.divergence))) * choice.weights) for type in choice.divergence]
             for choice in choices]
    unit = math.gcd(*(cost for row in costs for cost in row)) or 1
    unit *= math.ceil((budget * total - smallest) / unit / policy.BUDGET_STEPS.value) or 1
    room = int((budget * total - smallest) // unit)
    least, taken = np.zeros(room + 1), []  # the least divergence for so many units, and the type that gives it
    for choice, row in zip(choices, costs, strict=True):
        trials = np.full((len(row), room + 1), np.inf)
        for number, (cost, divergence) in enumerate(zip(row, choice.divergence.values(), strict=True)):
            units = -(-cost // unit)
            if units <= room:
                trials[number, units:] = least[:room + 1 - units] + divergence
        taken.append(trials.argmin(0))
        least = trials.min(0)
    found: dict[Key, str] = {}
    for choice, row, best in reversed(list(zip(choices, costs, taken, strict=True))):
        number = int(best[room])
        room -= -(-row[number] // unit)
        found |= dict.fromkeys(choice.keys, list(choice.divergence)[number])
    return lambda role, layer: found[role, layer]


def measured_choices(spec: Spec, weights: DecoderWeights, tokens: Sequence[Tokens], ladder: Sequence[str],
                     fused: Mapping[str, str], budget: float, progress: Progress = silent) -> list[Choice]:
    """What every weight costs alone, as each type of `ladder` that fits its rows.

    tokens: to measure on; the first of `policy.SENSITIVITY_TOKENS`. fused: role -> the tensor that it is a part of.
    """
    rows = [row[:policy.SENSITIVITY_LENGTH.value] for row in tokens][
        :policy.SENSITIVITY_TOKENS.value // policy.SENSITIVITY_LENGTH.value]
    importance = input_squares(spec, weights, rows)
    errors = {key: _errors(weights.matrix(*key), importance.get(key), ladder)
              for keys in key_groups(spec) for key in keys}
    tried = {key: min(found, key=lambda type: abs(_bits(type) - budget)) for key, found in errors.items()}
    divergence = dict(_divergences(spec, weights, tried, rows, progress))
    return [_choice(spec, keys, errors, tried, divergence) for keys in _tensors(spec, fused)]


def _tensors(spec: Spec, fused: Mapping[str, str]) -> Iterator[tuple[Key, ...]]:
    for group in key_groups(spec):
        names: dict[str, list[Key]] = {}
        for role, layer in group:
            names.setdefault(fused.get(role, role), []).append((role, layer))
        yield from map(tuple, names.values())


def _choice(spec: Spec, keys: tuple[Key, ...], errors: Mapping[Key, Mapping[str, float]], tried: Mapping[Key, str],
            divergence: Mapping[Key, float]) -> Choice:
    def of(type: str) -> float:
        return sum(divergence[key] * errors[key][type] / max(errors[key][tried[key]], 1e-30) for key in keys)

    count = sum(int(np.prod(shape_of(spec, role, "weight"))) for role, _ in keys)
    return Choice(keys, count, {type: of(type) for type in errors[keys[0]]})


def _errors(weight: Array, importance: Array | None, ladder: Sequence[str]) -> dict[str, float]:
    """Type -> the squared error of its nearest levels, weighted as the inputs are, on some of the rows."""
    rows = weight[np.linspace(0, len(weight) - 1, min(len(weight), policy.SENSITIVITY_ROWS.value)).astype(np.int64)]
    counted = np.ones(weight.shape[1], np.float32) if importance is None else importance
    found = {}
    for name in ladder:
        if FORMATS[name].fits(weight.shape[1]):
            off = FORMATS[name].dequantize(FORMATS[name].quantize(rows, counted)) - rows
            found[name] = float((off * off * counted).sum(dtype=np.float64))
    if not found:
        raise UsageError(f"--bits-per-weight: no type of {', '.join(ladder)} takes rows of {weight.shape[1]} weights")
    return found


def _divergences(spec: Spec, weights: DecoderWeights, types: Mapping[Key, str], tokens: Sequence[Tokens],
                 progress: Progress) -> Iterator[tuple[Key, float]]:
    """KL of the network with one weight on the nearest levels of its type. All such networks go through the layers side
    by side, so that each layer is read once.
    """
    table = _rounded(weights, ("embedding", None), types)
    keys: list[Key | None] = [None, ("embedding", None)]  # None: the float network
    states: list[States] = [embedded(spec, weights, weights.matrix, tokens),
                            embedded(spec, weights, lambda role, layer: table, tokens)]
    for layer in range(len(spec.layers)):
        progress("measuring weights", layer, len(spec.layers))
        floats = {role: weights.matrix(role, layer) for role in linear_roles(spec)}
        rounded = {role: _rounded(weights, (role, layer), types) for role in floats}
        begun = [states_behind(spec, weights, floats | {role: rounded[role]}, layer, states[0]) for role in floats]
        passed = states_behind(spec, weights, floats, layer, [one for group in states for one in group])
        states = [kept(passed[start:start + len(tokens)]) for start in range(0, len(passed), len(tokens))] + begun
        keys += [(role, layer) for role in floats]
    head: Key = ("embedding" if spec.tied else "head", None)
    exact = [log_softmax(logits_of(spec, one[0], weights.matrix(*head)))
             for one in head_inputs(spec, weights, states[0])]
    if not spec.tied:
        states, keys = [*states, states[0]], [*keys, head]
    for key, group in zip(keys[1:], states[1:], strict=True):
        assert key is not None
        last = _rounded(weights, key, types) if key == head else weights.matrix(*head)
        kl = [kl_divergence(true, log_softmax(logits_of(spec, one[0], last)))
              for true, one in zip(exact, head_inputs(spec, weights, group), strict=True)]
        yield key, float(np.concatenate(kl).mean())


def _rounded(weights: DecoderWeights, key: Key, types: Mapping[Key, str]) -> Array:
    format = FORMATS[types[key]]
    return format.dequantize(format.quantize(weights.matrix(*key)))


def _bits(type: str) -> float:
    return FORMATS[type].bits_per_weight
