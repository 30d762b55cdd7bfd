"""What float costs a plan: time, taken where there is a clock, or predicted where an engine's operators were measured;
else a share of the work.

Times are relative to plain INT8's on the same engine, so that the targets of one plan can be added up.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from edgeq import policy
from edgeq.backend import backend_named
from edgeq.graph import consumers, is_constant, label
from edgeq.mincut import SINK, SOURCE, Network
from edgeq.mixed_precision.plan_time import (
    OperatorCosts,
    Quantities,
    integer_heads,
    node_quantities,
    plan_quantities,
    quantized,
)
from edgeq.mixed_precision.result import Clock, Clocked, Times, Trial
from edgeq.mixed_precision.trial_builder import Built, TrialBuilder
from edgeq.quant.plan import QuantPlan

PREFERENCES: Final[Mapping[str, float]] = MappingProxyType({
    "accuracy": policy.PREFER_ACCURACY.value, "balanced": policy.PREFER_BALANCED.value,
    "speed": policy.PREFER_SPEED.value})
_UNIT: Final = 10**9  # capacities of a cut are whole numbers


@dataclass(frozen=True, slots=True)
class _Value:
    """A value between units: `maker` and `readers` are labels, None for what always computes in float. quantize,
    dequantize: relative time of either.
    """

    maker: str | None
    readers: frozenset[str | None]
    quantize: float
    dequantize: float

    def cost(self, floats: AbstractSet[str]) -> float:
        made_float = self.maker is None or self.maker in floats
        reading = {reader is None or reader in floats for reader in self.readers}
        if made_float:
            return self.quantize if False in reading else 0.0
        return self.dequantize if True in reading else 0.0


class Price:
    """Of the plans of one builder. prefer: one of PREFERENCES; None: times are told, and do not count. clock: takes the
    times that decide; predicted ones still say what is tried.
    """

    def __init__(self, builder: TrialBuilder, prefer: str | None, clock: Clock | None = None):
        self.builder, self.prefer, self.clock = builder, prefer, clock
        found = {target.name: backend_named(target.name).costs for target in builder.targets}
        self.costs = {name: OperatorCosts.read(path) for name, path in found.items() if path is not None}

    @property
    def is_timed(self) -> bool:
        """Whether time alone says what float costs: the user prefers so, and it is known of every target."""
        return self.prefer is not None and (
            self.clock is not None or len(self.costs) == len(self.builder.targets))

    @property
    def room(self) -> float:
        """Relative time beyond plain INT8's that a plan may take."""
        return 0.0 if self.prefer is None else PREFERENCES[self.prefer] - 1

    @property
    def limit(self) -> str:
        """A sentence on what ends the path."""
        if not self.is_timed:
            return (f"At most {policy.FALLBACK_MOST_FLOAT.value:.0%} of the work goes to float"
                    + (f": times on {self._without} are not known." if self._without else "."))
        by = "predicted" if self.clock is None else "measured"
        return (f"Float may make the model at most {self.room:.0%} slower than plain 8 bits, {by}, and must gain "
                f"{policy.FALLBACK_GAIN_DB.value:g} dB (--prefer {self.prefer}).")

    def milliseconds(self, plan: QuantPlan | None) -> dict[str, float]:
        """Predicted, of a plan or of the float network, on each engine whose operators were measured."""
        found = plan_quantities(self.builder.units, plan)
        return {name: costs.of(found) / 1e6 for name, costs in self.costs.items()}

    def reference(self) -> Mapping[str, Times]:
        """Times in float and of plain INT8."""
        if self.clock is not None:
            return self._clocked[0]
        return {"float": self._in_float, "plain": self._plain} if self.costs else {}

    def clocked(self) -> Mapping[str, Clocked]:
        """How times were taken; nothing where they are predicted."""
        return {} if self.clock is None else self._clocked[1]

    def times(self, built: Built) -> tuple[Times, Mapping[str, Times]]:
        """`times` and `beside` of a Trial."""
        if self.clock is None:
            return self.milliseconds(built.plan), {}
        found = self.clock([self.builder.network, self._plain_graph, built.graph])
        in_float, plain, own = ({name: times[k] for name, (times, _) in found.items()} for k in range(3))
        return own, {"float": in_float, "plain": plain}

    def allows(self, plan: QuantPlan, *, saves: bool = False) -> bool:
        """Whether it is predicted to be fast enough; with a clock, that says so later. saves: as of `keeps`."""
        return self.prefer is None or self.clock is not None or self._is_fast(
            self.milliseconds(plan), self.reference(), saves)

    def keeps(self, trial: Trial, *, saves: bool = False) -> bool:
        """Whether what was timed is fast enough on every engine. saves: plain INT8 is broken, so that only float is a
        limit.
        """
        return not trial.beside or self._is_fast(trial.times, trial.beside, saves)

    def _is_fast(self, times: Times, beside: Mapping[str, Times], saves: bool) -> bool:
        return all(time <= max(beside["float"][name], beside["plain"][name]) and (
            saves or time <= (1 + self.room) * beside["plain"][name]) for name, time in times.items())

    def gains(self, times: Times, plain: Times | None = None) -> bool:
        """Whether these are so much less than plain INT8's, taken together, that the bytes are worth it, and nowhere
        more. plain: those of the same rounds; None: predicted.
        """
        ratios = [time / (plain or self._plain)[name] for name, time in times.items()]
        return self.is_timed and max(ratios) <= 1 and sum(ratios) <= policy.FASTER_FLOAT.value * len(ratios)

    def slower(self) -> tuple[str, ...]:
        """Where plain INT8 is slower than float: a sentence for each engine, with the operators that cause most."""
        remedy = "--prefer speed leaves that in float" if self.prefer is None else "--bits 16 or 32 leave all in float"
        times = self.reference()
        return tuple(f"On {name} plain 8 bits would take {plain:.3g} ms, float {times['float'][name]:.3g}"
                     f"{self._culprits(name)}; {remedy}" for name, plain in times.get("plain", {}).items()
                     if policy.FASTER_FLOAT.value * plain > times["float"][name])

    def _culprits(self, target: str) -> str:
        if target not in self.costs:
            return ""
        costs, units, found = self.costs[target], self.builder.units, Counter[str]()
        integers = integer_heads(units, self.builder.plan({}))
        for node in integers:
            on_integers, in_float = (costs.of(node_quantities(node, units, is_integer=kind))
                                     for kind in (True, False))
            found[node.op_type] += round(on_integers - in_float)
        kinds = plan_quantities(units, self.builder.plan({}))
        found["QUANTIZE and DEQUANTIZE"] = round(costs.of(Counter({
            key: amount for key, amount in kinds.items() if "quantize" in key[0]})))
        return ": " + " and ".join(f"{op} costs {extra / 1e6:.3g} ms more there" for op, extra in found.most_common(2)
                                   if extra > 0)

    @cached_property
    def _plain_graph(self) -> ir.Model:
        return self.builder.build({}).graph

    @cached_property
    def _clocked(self) -> tuple[Mapping[str, Times], Mapping[str, Clocked]]:
        assert self.clock is not None
        found = self.clock([self.builder.network, self._plain_graph])
        in_float, plain = ({name: times[k] for name, (times, _) in found.items()} for k in range(2))
        return {"float": in_float, "plain": plain}, {name: how for name, (_, how) in found.items()}

    @cached_property
    def _plain(self) -> dict[str, float]:
        return self.milliseconds(self.builder.plan({}))

    @cached_property
    def _in_float(self) -> dict[str, float]:
        return self.milliseconds(None)

    @property
    def _without(self) -> str:
        return " and ".join(target.name for target in self.builder.targets if target.name not in self.costs)

    # -- steps of a path -----------------------------------------------------------------------------------------------

    def extra(self, nodes: AbstractSet[str], floats: AbstractSet[str]) -> float:
        """Relative time that more nodes in float cost, below 0 where it is saved. floats: those that are already."""
        new = nodes - floats
        found = sum(self._units.get(name, 0.0) for name in new)
        after = floats | new
        touched = {number for name in new for number in self._touching.get(name, ())}
        return found + sum(self._values[k].cost(after) - self._values[k].cost(floats) for k in touched)

    def fastest(self) -> frozenset[str]:
        """The units that compute faster in float, with what goes to and from them; none where that gains too little.

        The minimum cut between "on integers" and "in float" is the least sum of both kinds of costs.
        """
        network, places = Network(), dict[str, int]()
        for name, extra in self._units.items():
            places[name] = network.node()
            capacity = round(extra * _UNIT) + 1  # where both are as fast, integers
            if capacity > 0:  # cut where it is in float
                network.edge(SOURCE, places[name], capacity)
            else:
                network.edge(places[name], SINK, -capacity)
        endless = 1 + sum(network.capacity)
        for value in self._values:
            maker = SINK if value.maker is None else places[value.maker]
            readers = [SINK if reader is None else places[reader] for reader in value.readers]
            between = network.node()  # on integers as long as the maker is and all readers are
            network.edge(maker, between, round(value.dequantize * _UNIT))
            for reader in readers:
                network.edge(between, reader, endless)
            between = network.node()
            network.edge(between, maker, round(value.quantize * _UNIT))
            for reader in readers:
                network.edge(reader, between, endless)
        integers = network.source_side()
        return frozenset(name for name, place in places.items() if place not in integers)

    @cached_property
    def _units(self) -> dict[str, float]:
        """Label of a unit that may compute on integers -> relative time of its float kernel less its integer one."""
        integers = self.builder.integers
        if integers is None:
            return {}
        units, total = self.builder.units, max(1, sum(self.builder.work.values()))
        found = {}
        for node in integers.nodes:
            kinds = [node_quantities(node, units, is_integer=is_integer) for is_integer in (False, True)]
            timed = self._relative(kinds[0]) - self._relative(kinds[1])
            untimed = policy.FLOAT_COST.value * self.builder.work[label(node)] / total
            without = len(self.builder.targets) - len(self._priced)
            found[label(node)] = timed + untimed * without / len(self.builder.targets)
        return found

    @cached_property
    def _values(self) -> list[_Value]:
        units = self.builder.units
        return [_Value(self._capable(value.producer()), frozenset(
            self._capable(reader) for reader in consumers(value)), self._relative(quantized("quantize", value)),
            self._relative(quantized("dequantize", value)))
            for node in units.heads() for value in units.outputs(node) if consumers(value)] + [
            _Value(None, frozenset(self._capable(reader) for reader in consumers(value)), self._relative(
                quantized("quantize", value)), 0.0) for value in units.graph.inputs if not is_constant(value)]

    @cached_property
    def _touching(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, value in enumerate(self._values):
            for name in {value.maker, *value.readers} - {None}:
                found.setdefault(str(name), []).append(number)
        return found

    def _capable(self, node: ir.Node | None) -> str | None:
        head = None if node is None else self.builder.units.head(node)
        return None if head is None or label(head) not in self._units else label(head)

    def _relative(self, quantities: Quantities) -> float:
        """Mean over the targets of time to plain INT8's."""
        return sum(costs.of(quantities) / 1e6 / self._plain[name] for name, costs in self._priced.items()) / len(
            self.builder.targets)

    @property
    def _priced(self) -> Mapping[str, OperatorCosts]:
        return {} if self.prefer is None else self.costs
