"""What a network's single roundings cost, measured, and the path of precision assignments that follows from it."""
from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import onnx_ir as ir

from edgeq.graph import consumers, is_constant, label
from edgeq.graph import shape as shape_of
from edgeq.inference.session import Arrays
from edgeq.mixed_precision.greedy_path import Assignment, Layer, Price, Rounded, pareto_path
from edgeq.mixed_precision.trial_builder import TrialBuilder, precisions
from edgeq.quant.plan import QuantPlan
from edgeq.quant.plan.integers import IntegerNodes
from edgeq.quant.plan.units import data_inputs, weights_of
from edgeq.quant.plan.weights import fewest_bits
from edgeq.quant.sensitivity import Quantizer, activation_quantizers, errors_alone, weight_quantizers
from edgeq.targets import Same

BITS: Final = (4, 8, 16)


def measured_path(builder: TrialBuilder, feeds: Sequence[Arrays], bits: Collection[int] = BITS,
                  growth: float = math.inf, price: Price | None = None,
                  floats: frozenset[str] = frozenset()) -> list[Assignment]:
    """Quantize the network uniformly at each width, measure every rounding alone, and line up the assignments. growth,
    price, floats: as in `pareto_path`.
    """
    built = {width: builder.build(precisions(dict.fromkeys(builder.layers, width), ())) for width in bits if width < 16}
    activations = activation_quantizers(builder.network, built[max(built)].graph)
    # (value, None) of an activation, (layer, bits) of weights
    quantizers: dict[tuple[str, int | None], Quantizer] = {(name, None): found for name, found in activations.items()}
    for width, done in built.items():
        quantizers |= {(name, width): found for name, found in weight_quantizers(
            builder.network, done.graph, builder.layers).items()}
    errors = errors_alone(builder.network, quantizers, feeds, lambda done, total: builder.progress(
        "measuring single roundings", done, total))
    noise = {key: max((error.ratio for error in found), default=0.0) for key, found in errors.items()}
    layers = {name: _layer(node, {width: noise.get((name, width), 0.0) for width in built}, bits)
              for name, node in builder.layers.items()}
    plan, integers = built[max(built)].plan, builder.integers
    values = {} if integers is None else {
        name: Rounded(noise[name, None], _around(found.value, integers), _ties(plan, name, integers))
        for name, found in activations.items() if name in plan.sources or name in plan.fixed}
    ends = _ends(builder)
    return pareto_path(layers, {name: found for name, found in values.items() if not found.nodes & ends}, builder.work,
                       growth, price, floats)


def _ends(builder: TrialBuilder) -> frozenset[str]:
    """The nodes next to inputs and outputs that are integers: in float they would need a conversion at the interface.
    """
    graph, scheme = builder.network.graph, builder.scheme
    first = [node for value in graph.inputs for node in consumers(value)] if scheme.integer_inputs else []
    last = [value.producer() for value in graph.outputs] if scheme.integer_outputs else []
    return frozenset(label(builder.units.head(node)) for node in (*first, *last) if node is not None)


def _layer(node: ir.Node, noise: Mapping[int, float], bits: Collection[int]) -> Layer:
    widths = [width for width in bits if width >= fewest_bits(node)]
    return Layer({width: layer_bytes(node, width) for width in widths},
                 {width: noise.get(width, 0.0) for width in widths})


def layer_bytes(node: ir.Node, bits: int) -> int:
    """Of the codes, and of a float32 scale for each channel: of as many as the longest axis, at most."""
    shapes = [shape_of(value) for value in weights_of(node)]
    scales = 4 * sum(max(shape, default=1) for shape in shapes) if bits < 16 else 0
    return sum(map(math.prod, shapes)) * bits // 8 + scales


def _around(value: ir.Value, integers: IntegerNodes) -> frozenset[str]:
    """The nodes that must compute in float for a value to be float: what writes its integers, what only moves them, and
    what reads them.
    """
    found: set[ir.Node] = set()
    open_ = [value]
    while open_:
        current = open_.pop()
        producer = current.producer()
        near = [integers.units.head(producer)] if producer is not None else []
        near += consumers(current)
        for node in near:
            if node in integers.nodes and node not in found:
                found.add(node)
                if integers.units.constraint(node, Same) is not None:
                    open_ += [v for v in (*data_inputs(node), *integers.units.outputs(node)) if not is_constant(v)]
    return frozenset(label(node) for node in found)


def _ties(plan: QuantPlan, name: str, integers: IntegerNodes) -> frozenset[str]:
    """The nodes that put several values on the grid of this one."""
    leader = plan.groups[name]
    if sum(plan.groups[source] == leader for source in plan.sources) < 2:
        return frozenset()
    return frozenset(label(node) for node in integers.nodes
                     if integers.units.constraint(node, Same) is not None and len(data_inputs(node)) > 1
                     and any(plan.groups.get(value.name or "") == leader for value in data_inputs(node)))
