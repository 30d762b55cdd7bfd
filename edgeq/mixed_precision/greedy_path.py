"""From the smallest assignment of precisions to the most exact one, by the step that removes most noise for its cost.

The noise of single roundings adds up (see `quant.sensitivity`), so this is a knapsack: the greedy path runs along the
convex hull of its solutions. Plain arithmetic; nothing is quantized or run here.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeAlias

from edgeq import policy


@dataclass(frozen=True, slots=True)
class Layer:
    """weight_bytes, noise: by bits, ascending."""

    weight_bytes: Mapping[int, int]
    noise: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A value on an integer grid. nodes: what must compute in float for it to be float. ties: what must do so for it to
    get a grid of its own, where it shares one.
    """

    noise: float
    nodes: frozenset[str]
    ties: frozenset[str] = frozenset()

    def among(self, floats: AbstractSet[str]) -> Rounded:
        """The same, once these nodes compute in float."""
        return Rounded(self.noise * policy.OWN_GRID.value, self.nodes) if self.ties and self.ties <= floats else self


@dataclass(frozen=True, slots=True)
class Assignment:
    """bits: of the weights, by layer. floats: nodes that compute in float. noise: predicted, relative to the signal.

    float_share: of all work. price: of these nodes in float.
    """

    bits: Mapping[str, int]
    floats: frozenset[str]
    noise: float
    weight_bytes: int
    float_share: float
    price: float = 0.0


@dataclass(frozen=True, slots=True)
class _Step:
    gain: float
    cost: float
    layer: str = ""
    bits: int = 0
    nodes: frozenset[str] = frozenset()


# Nodes, and those that compute in float already -> what the nodes cost in float too.
Price: TypeAlias = Callable[[AbstractSet[str], AbstractSet[str]], float]


def pareto_path(layers: Mapping[str, Layer], values: Mapping[str, Rounded], work: Mapping[str, int],
                growth: float = math.inf, price: Price | None = None,
                floats: AbstractSet[str] = frozenset()) -> list[Assignment]:
    """Every assignment on the way. work: by node, of all that could compute on integers, in any unit. growth: of the
    smallest one's weights, what all others have at most; a step beyond is left out, and smaller ones are taken. price:
    of nodes in float; None: their share of the work. floats: what computes in float from the beginning.
    """
    return list(_Path(layers, values, work, growth, price, floats).assignments())


class _Path:
    def __init__(self, layers: Mapping[str, Layer], values: Mapping[str, Rounded], work: Mapping[str, int],
                 growth: float, price: Price | None, floats: AbstractSet[str]):
        self.layers, self.work, self.price = layers, work, price or self._float_share
        self.bits = {name: min(layer.weight_bytes) for name, layer in layers.items()}
        self.floats: set[str] = set(floats)
        self.rounded = {name: value.among(floats) for name, value in values.items() if not value.nodes <= floats}
        self.all_bytes = max(1, sum(layer.weight_bytes.get(8, 0) for layer in layers.values()))
        self.all_work = max(1, sum(work.values()))
        self.most_bytes = growth * self._weight_bytes()
        self.bits |= {name: max(layers[name].weight_bytes) for name in floats & layers.keys()}

    def assignments(self) -> Iterator[Assignment]:
        yield self._assignment()
        while steps := [step for step in self._steps() if step.gain > 0]:
            # What costs nothing comes first, what saves most of all before the rest.
            best = max(steps, key=lambda step: (-min(step.cost, 0.0), step.gain / max(step.cost, 1e-9)))
            if best.layer:
                self.bits[best.layer] = best.bits
            self.floats |= best.nodes
            self.rounded = {name: value.among(self.floats) for name, value in self.rounded.items()
                            if not value.nodes <= self.floats}
            yield self._assignment()

    def _steps(self) -> Iterator[_Step]:
        room = self.most_bytes - self._weight_bytes()
        for name, layer in self.layers.items():
            now = self.bits[name]
            for bits, size in layer.weight_bytes.items():
                grown = size - layer.weight_bytes[now]
                if bits > now and grown <= room:
                    nodes = frozenset({name} if bits >= 16 and self.work else ())
                    cost = grown / self.all_bytes + self._float_cost(nodes)
                    yield _Step(layer.noise[now] - layer.noise[bits], cost, name, bits, nodes)
        for value in self.rounded.values():
            yield _Step(value.noise, self._float_cost(value.nodes), nodes=value.nodes)
        for ties in {value.ties for value in self.rounded.values() if value.ties}:
            noise = sum(value.noise for value in self.rounded.values() if value.ties == ties)
            yield _Step(noise * (1 - policy.OWN_GRID.value), self._float_cost(ties), nodes=ties)

    def _float_cost(self, nodes: AbstractSet[str]) -> float:
        return self.price(nodes, self.floats)

    def _float_share(self, nodes: AbstractSet[str], floats: AbstractSet[str]) -> float:
        return policy.FLOAT_COST.value * self._share(nodes - floats)

    def _share(self, nodes: AbstractSet[str]) -> float:
        return sum(self.work.get(name, 0) for name in nodes) / self.all_work

    def _assignment(self) -> Assignment:
        noise = sum(layer.noise[self.bits[name]] for name, layer in self.layers.items())
        noise += sum(value.noise for value in self.rounded.values())
        return Assignment(dict(self.bits), frozenset(self.floats), noise, self._weight_bytes(),
                          self._share(self.floats), self.price(self.floats, frozenset()))

    def _weight_bytes(self) -> int:
        return sum(layer.weight_bytes[self.bits[name]] for name, layer in self.layers.items())
