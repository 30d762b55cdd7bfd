"""From the smallest mixture of precisions to the most exact one, by the step that removes most noise for its cost.

The noise of single roundings adds up (see `noise`), so this is a knapsack: the greedy path runs along the convex hull
of its solutions. Plain arithmetic; nothing is quantized or run here.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# Computing the whole network in float costs as much as this many times its 8-bit weights. A search that counted bytes
# alone would always do that first, and make a slow bundle.
FLOAT_COST: Final = 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    """weight_bytes, noise: by bits, ascending; what wide weights lose is 0. multiplications: of one run."""

    weight_bytes: Mapping[int, int]
    noise: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A value on an integer grid. nodes: what must compute in float for it to be float."""

    noise: float
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Mixture:
    """bits: of the weights, by layer. floats: nodes that compute in float. noise: predicted, relative to the signal.

    float_share: of all multiplications.
    """

    bits: Mapping[str, int]
    floats: frozenset[str]
    noise: float
    weight_bytes: int
    float_share: float


@dataclass(frozen=True, slots=True)
class _Step:
    gain: float
    cost: float
    layer: str = ""
    bits: int = 0
    nodes: frozenset[str] = frozenset()


def path(layers: Mapping[str, Layer], values: Mapping[str, Rounded], multiplications: Mapping[str, int],
         ) -> list[Mixture]:
    """Every mixture on the way. multiplications: by node, of all of them."""
    return list(_Walk(layers, values, multiplications).mixtures())


class _Walk:
    def __init__(self, layers: Mapping[str, Layer], values: Mapping[str, Rounded], multiplications: Mapping[str, int]):
        self.layers, self.multiplications = layers, multiplications
        self.bits = {name: min(layer.weight_bytes) for name, layer in layers.items()}
        self.floats: set[str] = set()
        self.rounded = dict(values)
        self.all_bytes = max(1, sum(layer.weight_bytes.get(8, 0) for layer in layers.values()))
        self.all_multiplications = max(1, sum(multiplications.values()))

    def mixtures(self) -> Iterator[Mixture]:
        yield self._mixture()
        while steps := [step for step in self._steps() if step.gain > 0]:
            best = max(steps, key=lambda step: step.gain / max(step.cost, 1e-9))
            if best.layer:
                self.bits[best.layer] = best.bits
            self.floats |= best.nodes
            self.rounded = {name: value for name, value in self.rounded.items() if not value.nodes <= self.floats}
            yield self._mixture()

    def _steps(self) -> Iterator[_Step]:
        for name, layer in self.layers.items():
            now = self.bits[name]
            for bits, size in layer.weight_bytes.items():
                if bits > now:
                    nodes = frozenset({name} if bits >= 16 and self.multiplications else ())
                    cost = (size - layer.weight_bytes[now]) / self.all_bytes + self._float_cost(nodes)
                    yield _Step(layer.noise[now] - layer.noise[bits], cost, name, bits, nodes)
        for value in self.rounded.values():
            yield _Step(value.noise, self._float_cost(value.nodes), nodes=value.nodes)

    def _float_cost(self, nodes: Collection[str]) -> float:
        return FLOAT_COST * self._share(name for name in nodes if name not in self.floats)

    def _share(self, nodes: Iterator[str] | Collection[str]) -> float:
        return sum(self.multiplications.get(name, 0) for name in nodes) / self.all_multiplications

    def _mixture(self) -> Mixture:
        noise = sum(layer.noise[self.bits[name]] for name, layer in self.layers.items())
        noise += sum(value.noise for value in self.rounded.values())
        size = sum(layer.weight_bytes[self.bits[name]] for name, layer in self.layers.items())
        return Mixture(dict(self.bits), frozenset(self.floats), noise, size, self._share(self.floats))


def first(mixtures: Sequence[Mixture], noise: float) -> int:
    """The place of the first mixture with at most so much predicted noise; the last one where none has."""
    return next((place for place, mixture in enumerate(mixtures) if mixture.noise <= noise), len(mixtures) - 1)
