"""Which layout every operator works in, chosen before anything is emitted, so that the fewest bytes are transposed.

A value costs its bytes once for every layout beyond the first in which its producer and its readers have it. Operators
that must have one order (a convolution channels last, a batched product ONNX order) speak for it; each wish spreads
through the operators that can follow, which gives a *proposal*: one consistent layout for a whole region. To adopt a
proposal in the best part of its region is a minimum cut: each operator either keeps the layout that it has or takes the
proposed one. Where a region has two proposals, as nearly all have (channels last and ONNX order), the first such cut is
the optimum. With more, cuts follow until none saves anything: expansion moves, after Boykov, Veksler and Zabih, "Fast
approximate energy minimization via graph cuts" (2001). The price of each further layout is the label cost of Delong et
al., "Fast approximate energy minimization with label costs" (2012).
"""
from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final, TypeAlias

import onnx_ir as ir

from edgeq.graph import consumers, is_constant, quant, real_inputs, shape, static
from edgeq.mincut import SINK, SOURCE, Network
from edgeq.ops import LIMITING
from edgeq_converters.tflite.layout import Layout, identity, permute
from edgeq_converters.tflite.layout_form import Form
from edgeq_converters.tflite.layout_rules import Rule, default_form, fixed_form, rule

BYTE: Final = 1 << 20  # a byte outweighs any number of operators, so that these decide among equals only
INFINITE: Final = 1 << 62

Key: TypeAlias = Callable[[Layout], tuple[int, ...]]


def assign_layouts(graph: ir.Graph) -> dict[str, Form]:
    """The form of every node that has a choice, by the name of its first output; the graph's inputs and outputs are in
    ONNX order."""
    used = (value for node in graph for value in node.outputs if value.uses() or value.is_graph_output())
    if any(static(value) is None for value in used):
        return {}  # to be refused, by name, while it is lowered
    problem = LayoutProblem.of(graph)
    minimize_transposes(problem)
    return {node.outputs[0].name or "": placed.form for node, placed in problem.chosen.items()}


@dataclass(frozen=True, slots=True)
class Placed:
    """A form of one node, and which layouts its values have there."""

    form: Form
    has: Mapping[ir.Value, frozenset[Layout]] = field(compare=False)

    @classmethod
    def of(cls, node: ir.Node, form: Form) -> Placed:
        found: dict[ir.Value, frozenset[Layout]] = {}
        for value, layout in ports(node, form):
            found[value] = found.get(value, frozenset()) | {layout}
        return cls(form, found)


Proposal: TypeAlias = Mapping[ir.Node, Placed]


@dataclass(slots=True)
class LayoutProblem:
    """rules: the nodes with a choice. fixed: the layouts that all others and the interface have of a value. around: the
    nodes with a choice at a value. chosen: the form of each node so far."""

    rules: dict[ir.Node, Rule] = field(default_factory=dict)
    fixed: dict[ir.Value, set[Layout]] = field(default_factory=lambda: defaultdict(set))
    around: dict[ir.Value, list[ir.Node]] = field(default_factory=lambda: defaultdict(list))
    chosen: dict[ir.Node, Placed] = field(default_factory=dict)
    _prices: dict[ir.Value, tuple[tuple[int, Key], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ir.Graph) -> LayoutProblem:
        problem = cls()
        for value in (*real_inputs(graph), *graph.outputs):
            problem.fixed[value].add(identity(len(shape(value))))
        for node in graph:
            found = rule(node)
            if found is None:
                for value, layout in ports(node, fixed_form(node)):
                    problem.fixed[value].add(layout)
                continue
            problem.rules[node] = found
            for other in dict.fromkeys((*node.inputs, *node.outputs)):
                if other is not None and not is_constant(other) and static(other) is not None:
                    problem.around[other].append(node)
        return problem

    def layouts(self, value: ir.Value) -> set[Layout]:
        """All in which a value is made or read."""
        return self.fixed.get(value, set()).union(*(
            self.chosen[node].has.get(value, ()) for node in self.around.get(value, ())))

    def prices(self, value: ir.Value) -> tuple[tuple[int, Key], ...]:
        """See `prices`; a value is asked for many times."""
        if value not in self._prices:
            self._prices[value] = prices(value)
        return self._prices[value]

    def cost(self, values: Iterable[ir.Value] | None = None) -> int:
        """Of all values, or of these: transposed bytes times BYTE, plus operators."""
        return sum(weight * (len({key(layout) for layout in self.layouts(value)}) - 1)
                   for value in ({**self.fixed, **self.around} if values is None else values)
                   for weight, key in self.prices(value))


def ports(node: ir.Node, form: Form) -> Iterator[tuple[ir.Value, Layout]]:
    """Which value has which layout in a form of a node."""
    for position, layout in form.reads:
        value = node.inputs[position]
        assert value is not None
        yield value, layout
    yield from ((value, layout) for value, layout in zip(node.outputs, form.makes, strict=True)
                if static(value) is not None)  # None of optional outputs that nobody asked for


def prices(value: ir.Value) -> tuple[tuple[int, Key], ...]:
    """What every further layout of a value costs, and what tells one from another: an operator where the tensor gets
    another shape (RESHAPE) or order (TRANSPOSE), and its bytes where axes longer than 1 change places."""
    sizes = shape(value)
    readers = consumers(value)
    # A kernel takes the limits behind it up, unless a TRANSPOSE stands between.
    unfused = len(readers) == 1 and readers[0].op_type in LIMITING

    def moved(layout: Layout) -> tuple[int, ...]:
        return tuple(axis for axis in layout if sizes[axis] != 1)

    def stored(layout: Layout) -> tuple[int, ...]:
        return (*permute(sizes, layout), *moved(layout))

    width = 1 if quant(value) is not None or value.dtype is None else max(1, int(value.dtype.itemsize))
    return (1 + unfused, stored), (prod(sizes) * width * BYTE, moved)


# -- proposals -----------------------------------------------------------------------------------
def proposals(problem: LayoutProblem) -> list[Proposal]:
    """Every wish, spread as far as it goes; each node with a choice is in one of them."""
    made: list[Proposal] = []
    seen: set[tuple[ir.Value, Layout]] = set()
    for value, layouts in problem.fixed.items():
        for layout in sorted(layouts):
            if value in problem.around and (value, layout) not in seen:
                made.append(_spread(problem, {value: layout}, {}, seen))
    covered = {node for proposal in made for node in proposal}
    for node, found in problem.rules.items():
        if node not in covered:
            form = default_form(node, found)
            made.append(_spread(problem, dict(ports(node, form)), {node: Placed.of(node, form)}, seen))
            covered.update(made[-1])
    return [proposal for proposal in made if proposal]


def _spread(problem: LayoutProblem, layouts: dict[ir.Value, Layout], forms: dict[ir.Node, Placed],
            seen: set[tuple[ir.Value, Layout]]) -> Proposal:
    waiting = deque(layouts)
    while waiting:
        value = waiting.popleft()
        seen.add((value, layouts[value]))
        for node in problem.around.get(value, ()):
            if node in forms:
                continue
            form = _following(problem.rules[node], node, value, layouts[value])
            if form is None:
                continue
            forms[node] = Placed.of(node, form)
            for other, layout in ports(node, form):
                if other not in layouts:
                    layouts[other] = layout
                    waiting.append(other)
    return forms


def _following(found: Rule, node: ir.Node, value: ir.Value, layout: Layout) -> Form | None:
    """The form in which a node has a value in a layout."""
    if value is node.outputs[0]:
        return found.from_output(node, layout)
    if value in node.outputs:
        return found.from_output(node, layout) if len(layout) == len(shape(node.outputs[0])) else None
    position = next(i for i, other in enumerate(node.inputs) if other is value)
    return found.from_input(node, position, layout)


# -- solution ------------------------------------------------------------------------------------
def minimize_transposes(problem: LayoutProblem) -> None:
    """Fill `problem.chosen`."""
    offered = proposals(problem)
    for proposal in offered:
        for node, placed in proposal.items():
            problem.chosen.setdefault(node, placed)
    while sum(expand(problem, proposal) for proposal in offered):
        pass


def expand(problem: LayoutProblem, proposal: Proposal) -> bool:
    """Adopt the proposal wherever that is cheaper, by one minimum cut; whether it was anywhere."""
    chosen = problem.chosen
    free = {node: placed for node, placed in proposal.items() if placed != chosen[node]}
    touched = dict.fromkeys(value for node, placed in free.items() for value in (*placed.has, *chosen[node].has))
    network = Network()
    place = {node: network.node() for node in free}  # on the source's side: takes the proposal
    for value in touched:
        for weight, key in problem.prices(value):
            _add_price(network, place, problem, proposal, value, weight, key)
    side = network.source_side()
    taken = {node: placed for node, placed in free.items() if place[node] in side}
    before, kept = problem.cost(touched), {node: chosen[node] for node in taken}
    chosen.update(taken)
    if problem.cost(touched) < before:
        return True
    chosen.update(kept)
    return False


def _add_price(network: Network, place: Mapping[ir.Node, int], problem: LayoutProblem, proposal: Proposal,
               value: ir.Value, weight: int, key: Key) -> None:
    """`weight` for every layout that the value then has: some node keeps it, or some node takes it.

    A layout that one node would keep and another take is charged for each; that happens only where a wish meets
    itself the other way round, and `expand` compares the true costs before it adopts anything.
    """
    keeping: dict[Layout, set[int]] = defaultdict(set)
    taking: dict[Layout, set[int]] = defaultdict(set)
    anyway = {key(layout) for layout in problem.fixed.get(value, ())}
    for node in problem.around.get(value, ()):
        now = set(map(key, problem.chosen[node].has.get(value, ())))
        then = set(map(key, proposal[node].has.get(value, ()))) if node in place else now
        anyway |= now & then
        for layout in now - then:
            keeping[layout].add(place[node])
        for layout in then - now:
            taking[layout].add(place[node])
    for layout, keepers in keeping.items():
        if layout not in anyway:
            any_keeps = network.node()
            network.edge(SOURCE, any_keeps, weight)
            for keeper in keepers:
                network.edge(any_keeps, keeper, INFINITE)
    for layout, takers in taking.items():
        if layout not in anyway:
            any_takes = network.node()
            network.edge(any_takes, SINK, weight)
            for taker in takers:
                network.edge(taker, any_takes, INFINITE)
