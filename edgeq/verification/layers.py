"""Layer by layer: where a bundle, or the quantized graph, leaves its float model.

    float model  ── every value ──────────────┐
                                              ├── per value: SQNR, share of the grid in use, saturation
    bundle ── probe: the values of its engine ┘

A probe knows how one engine names its values. What it cannot match by name is listed, never guessed.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.backend import Probe, Seen, backend_named
from edgeq.graph import label
from edgeq.inference.reference import run_onnx
from edgeq.inference.session import Arrays, exposing
from edgeq.metrics import CEILING_DB, ErrorPower
from edgeq.ops import KEEPING_ALL
from edgeq.scheme import QuantParams
from edgeq.verification.interface import as_taken
from edgeq.verification.probe import GraphProbe, float_values, is_inner
from edgeq_runtime.manifest import Manifest

KEPT_NUMBERS: Final = 2048  # of every value and feed, for a histogram


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One value of both networks, over all feeds.

    value: its name in the float model. op, node: what computes it there ("input" for an input). drop_db: how far its
    SQNR is below that of the worst value that it is computed from. range_used: share of the grid's steps between the
    smallest and the largest integer seen; saturated: share of elements on the first or last step; both None where the
    value is on no grid. sample: some of the float model's numbers. grid: what they are rounded to.
    """

    value: str
    op: str
    node: str
    sqnr_db: float
    drop_db: float
    range_used: float | None
    saturated: float | None
    sample: NDArray[np.float32]
    grid: QuantParams | None

    def to_json(self) -> dict[str, Any]:
        """Without the numbers themselves."""
        return {name: getattr(self, name) for name in ("value", "op", "node", "sqnr_db", "drop_db", "range_used",
                                                       "saturated")}


@dataclass(frozen=True, slots=True)
class LayerComparison:
    """layers: in the order of computation. unmatched: values of the float model that the other side does not show.

    outputs: names of the network's outputs.
    """

    layers: tuple[Layer, ...]
    unmatched: tuple[str, ...]
    outputs: frozenset[str]

    @property
    def first_broken(self) -> Layer | None:
        """The first layer below BROKEN_DB, where an output is: everything behind it only inherits the damage.

        Where the outputs are sound, no layer is broken: noise on values that nobody depends on is no damage.
        """
        if all(layer.sqnr_db >= policy.BROKEN_DB.value for layer in self.layers if layer.value in self.outputs):
            return None
        return next((layer for layer in self.layers if layer.sqnr_db < policy.BROKEN_DB.value), None)

    def worst(self, count: int) -> list[Layer]:
        """The layers that add the most noise relative to their signal, the worst first.

        Those whose inputs are still sound come first: behind a break, every layer only passes on, and often amplifies,
        what it was given.
        """
        def added(layer: Layer) -> tuple[bool, float]:
            before = layer.sqnr_db + layer.drop_db
            return before >= policy.BROKEN_DB.value, _ratio(layer.sqnr_db) - _ratio(before)
        return sorted((layer for layer in self.layers if layer.node), key=added, reverse=True)[:count]

    def to_json(self) -> dict[str, Any]:
        broken = self.first_broken
        return {"layers": [layer.to_json() for layer in self.layers], "unmatched": list(self.unmatched),
                "first_broken": None if broken is None else broken.value}


def _ratio(decibel: float) -> float:
    """Noise over signal, in power."""
    return float(10.0 ** (-min(max(decibel, -CEILING_DB), CEILING_DB) / 10))


def compare_layers(bundle: Path, network: ir.Model, feeds: Iterable[Arrays]) -> LayerComparison:
    """A bundle, run by its engine, against its float model. network: canonical, as the bundle was made from.

    Raises:
        MissingExtra: the engine is not installed. BundleError: the bundle cannot be read. UsageError: no backend that
            is installed wrote it.
    """
    manifest = Manifest.read(bundle)
    probe = backend_named(manifest.target).probe(bundle / manifest.entry, network, manifest)
    return compare_values(network, probe, feeds, lambda feed: as_taken(manifest, feed))


def compare_graphs(network: ir.Model, graph: ir.Model, feeds: Iterable[Arrays]) -> LayerComparison:
    """The quantized graph, run op by op, against the float one."""
    return compare_values(network, GraphProbe(graph, network, None), feeds)


def compare_values(network: ir.Model, probe: Probe, feeds: Iterable[Arrays],
                   taken: Callable[[Arrays], Arrays] = lambda feed: feed) -> LayerComparison:
    """Run both sides feed by feed; only one feed's values are held at once. taken: a feed as the probe takes it."""
    shown = set(probe.names)
    wanted = [value for value in float_values(network.graph) if value.name in shown]
    sums = {value.name or "": _Sums() for value in wanted}
    feeds = list(feeds)
    for feed, expected in zip(feeds, run_onnx(exposing(network, list(sums)), feeds), strict=True):
        for name, seen in probe.run(taken(feed)).items():
            if name in sums:
                sums[name].add(np.asarray(feed[name] if name in feed else expected[name]), seen)
    return LayerComparison(_layers(network.graph, sums), tuple(_unmatched(network.graph, shown)),
                           frozenset(value.name or "" for value in network.graph.outputs))


class _Sums:
    """What is remembered of one value while the feeds go by."""

    def __init__(self) -> None:
        self.noise = self.signal = 0.0
        self.low: int | None = None
        self.high: int | None = None
        self.at_end = self.count = 0
        self.grid: QuantParams | None = None
        self.samples: list[NDArray[np.float32]] = []

    def add(self, reference: NDArray[Any], seen: Seen) -> None:
        r, g = (array.astype(np.float32, copy=False).ravel() for array in (reference, seen.real))
        if r.size != g.size:
            self.noise = float("nan")
            return
        finite = np.isfinite(r)
        if not finite.all():  # a mask's infinities are the same on both sides, or the rest shows it
            r, g = r[finite], g[finite]
        self.noise += _energy(g - r)
        self.signal += _energy(r)
        self.samples.append(r[::max(1, r.size // KEPT_NUMBERS)])
        if seen.stored is not None and seen.grid is not None and seen.stored.size:
            self._add_stored(seen.stored.astype(np.int32), seen.grid)

    def _add_stored(self, stored: NDArray[np.int32], grid: QuantParams) -> None:
        low, high = grid.type.range
        smallest, largest = int(stored.min()), int(stored.max())
        self.low = smallest if self.low is None else min(self.low, smallest)
        self.high = largest if self.high is None else max(self.high, largest)
        # The end that stands for zero is no saturation: a ReLU ends there.
        ends = [end for end in (low, high) if end != int(grid.zero_point)]
        self.at_end += sum(int(np.count_nonzero(stored == end)) for end in ends)
        self.count += stored.size
        self.grid = grid

    def layer(self, value: ir.Value, before_db: float) -> Layer:
        producer = value.producer()
        found = ErrorPower(self.noise, self.signal).sqnr_db
        used = saturated = None
        if self.grid is not None and self.low is not None and self.high is not None:
            first, last = self.grid.type.range
            used, saturated = (self.high - self.low) / (last - first), self.at_end / self.count
        sample = np.concatenate(self.samples) if self.samples else np.zeros(0, np.float32)
        return Layer(value.name or "", "input" if producer is None else producer.op_type,
                     "" if producer is None else label(producer), found, before_db - found, used, saturated, sample,
                     self.grid)


def _energy(numbers: NDArray[np.float32]) -> float:
    exact = numbers.astype(np.float64)
    return float(exact @ exact)


def _layers(graph: ir.Graph, sums: Mapping[str, _Sums]) -> tuple[Layer, ...]:
    """In graph order; each is set off against the values before it, through those that were not measured."""
    before: dict[ir.Value, float] = {}
    layers = []

    def note(value: ir.Value, worst_input: float) -> None:
        before[value] = worst_input
        if value.name in sums:
            layer = sums[value.name or ""].layer(value, worst_input)
            layers.append(layer)
            before[value] = layer.sqnr_db

    for value in graph.inputs:
        note(value, CEILING_DB)
    for node in graph:
        worst = min((before[value] for value in node.inputs if value in before), default=CEILING_DB)
        for value in node.outputs:
            note(value, worst)
    return tuple(layers)


def _unmatched(graph: ir.Graph, shown: set[str]) -> list[str]:
    """Computed values that the other side does not show; moving numbers about is no layer."""
    return [value.name or "" for value in float_values(graph) if value.name not in shown and not is_inner(value)
            and (producer := value.producer()) is not None and producer.op_type not in KEEPING_ALL]
