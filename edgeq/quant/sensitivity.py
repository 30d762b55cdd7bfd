"""How much each layer hurts when it alone is quantized.

The float values of all samples are computed once, layer after layer. At each layer its quantized part is run on them,
and the float rest of the network on what it gives:

    float values ──▶ the layer, on its grids ──▶ the float layers behind it ──▶ outputs, against the float outputs
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import is_constant, label
from edgeq.inference.prefix import Arrays, part_session, reads
from edgeq.inference.walk import Columns, Walk
from edgeq.ops import WEIGHTED, stored_inputs
from edgeq.quant.plan import QuantPlan, Weight
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE

CEILING_DB: Final = 200.0  # of outputs that are equal


@dataclass(frozen=True, slots=True)
class Damage:
    """One layer, quantized alone. node, op: of the float model. value: what it computes; of several outputs, the first
    that is read. bits: of its weights, or None.

    sqnr_db: of the worst output, over all samples: the lower, the more this layer hurts. weight_bytes: of its float
    weights.
    """

    node: str
    op: str
    value: str
    bits: int | None
    weight_bytes: int
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Unit:
    """A layer in the quantized graph. nodes: in order, from the roundings of its inputs to that of its output.

    value: what it computes, in the float graph. result: the same, rounded. given: (value of the float graph, of the
    quantized graph) that it reads.
    """

    node: ir.Node
    value: ir.Value
    result: ir.Value
    nodes: tuple[ir.Node, ...]
    given: tuple[tuple[ir.Value, ir.Value], ...]


def sensitivity(network: ir.Model, graph: ir.Model, plan: QuantPlan, feeds: Sequence[Arrays],
                progress: Callable[[int, int], None] = lambda done, total: None) -> list[Damage]:
    """The damage of each layer of `network`, the worst first. graph: the same network, quantized by `plan`.

    Time: about half a run of the network for each layer and sample. Memory: the values that are alive at one layer, for
    all samples.

    Raises:
        ModelError: onnxruntime cannot run a part of the model.
    """
    position = {node: number for number, node in enumerate(network.graph)}
    units = sorted(find_units(network, graph), key=lambda unit: _place(unit, position))
    walk = Walk(network, feeds, [(real.name or "", _place(unit, position)) for unit in units for real, _ in unit.given])
    kinds: dict[str, list[Weight]] = {}
    for weight in plan.weights:
        kinds.setdefault(weight.node, []).append(weight)
    expected = walk.outputs()
    found = []
    for number, unit in enumerate(units):
        walk.advance(_place(unit, position))
        outputs = walk.rest(unit.value, _run_unit(graph, unit, walk.values))
        decibel = min((sqnr_db(expected[name], outputs[name]) for name in expected if name in outputs),
                      default=CEILING_DB)
        weights = kinds.get(label(unit.node), [])
        data = [network.graph.initializers[weight.value].const_value for weight in weights]
        found.append(Damage(label(unit.node), unit.node.op_type, unit.value.name or "",
                            weights[0].type.bits if weights else None,
                            sum(tensor.nbytes for tensor in data if tensor is not None), decibel))
        progress(number + 1, len(units))
    return sorted(found, key=lambda damage: damage.sqnr_db)


def _place(unit: Unit, position: dict[ir.Node, int]) -> int:
    producer = unit.value.producer()
    return -1 if producer is None else position[producer]


# -- the layers of a quantized graph -----------------------------------------------------------------------------------

def find_units(network: ir.Model, graph: ir.Model) -> list[Unit]:
    """Every value that the quantized graph rounds, with the layer that computes it; and every layer that only has
    quantized weights. Values are found by their names, which quantization keeps.
    """
    floats = {value.name: value for node in network.graph for value in node.outputs}
    floats |= {value.name: value for value in network.graph.inputs}
    twins = {label(node): node for node in network.graph}
    units: list[Unit] = []
    covered: set[ir.Node] = set()
    for node in graph.graph:
        dequantize = next((use.node for use in node.outputs[0].uses()), None) if node.op_type == QUANTIZE else None
        exact = node.inputs[0] if node.inputs else None
        if dequantize is not None and dequantize.op_type == DEQUANTIZE and exact is not None and not is_constant(exact):
            unit = _unit(graph, exact, (node, dequantize), floats, twins)
            if unit is not None:
                units.append(unit)
                covered.update(unit.nodes)
    for node in graph.graph:
        if node not in covered and _has_quantized_weights(node):
            read = next(value for value in node.outputs if value.uses() or value.is_graph_output())
            unit = _unit(graph, read, (), floats, twins)
            units += [] if unit is None else [unit]
    return list({unit.value: unit for unit in units}.values())


def _has_quantized_weights(node: ir.Node) -> bool:
    return any(_is_dequantized(node.inputs[index]) for index in stored_inputs(node.op_type))


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == DEQUANTIZE


def _unit(graph: ir.Model, exact: ir.Value, rounding: tuple[ir.Node, ...], floats: dict[str | None, ir.Value],
          twins: dict[str, ir.Node]) -> Unit | None:
    """The slice of the quantized graph in front of `exact`, back to the float values behind the roundings of inputs.

    rounding: the QuantizeLinear and DequantizeLinear of the result, or nothing. None for the rounding of an input,
    which is a part of the layers that read it.
    """
    result = rounding[-1].outputs[0] if rounding else exact
    value = floats.get(exact.name) or floats.get(result.name)  # an output gives its name to the rounded value
    if value is None or value.producer() is None:
        return None
    nodes, given, open_ = set(rounding), dict[ir.Value, ir.Value](), [exact]
    while open_:
        current = open_.pop()
        node = current.producer()
        if node is None:
            given[floats[current.name]] = current
            continue
        nodes.add(node)
        for source in reads(node):
            before = source.producer()
            if before is not None and before.op_type == DEQUANTIZE:
                nodes.add(before)
                quantizer = before.inputs[0].producer() if before.inputs[0] is not None else None
                if quantizer is not None and quantizer.inputs[0] is not None:
                    nodes.add(quantizer)
                    origin = quantizer.inputs[0]
                    given[floats.get(origin.name) or floats[source.name]] = origin
            elif node.op_type in WEIGHTED and source is node.inputs[0] and source.name in floats:
                given[floats[source.name]] = source
            elif not is_constant(source) and before not in nodes:
                open_.append(source)
    ordered = tuple(node for node in graph.graph if node in nodes)
    products = [twins[label(node)] for node in ordered if node.op_type in WEIGHTED and label(node) in twins]
    main = products[-1] if products else value.producer()
    assert main is not None
    return Unit(main, value, result, ordered, tuple(given.items()))


def _run_unit(graph: ir.Model, unit: Unit, values: Columns) -> list[NDArray[Any]]:
    """The layer's result for each sample, from the float values that it reads."""
    sources = {ours: values[real.name or ""] for real, ours in unit.given}
    made = {value for node in unit.nodes for value in node.outputs}
    constants = {value.name or "": value.const_value.numpy() for node in unit.nodes for value in reads(node)
                 if value not in made and value not in sources and value.const_value is not None}
    session = part_session(graph, unit.nodes, {ours: column[0] for ours, column in sources.items()}, constants,
                           [unit.result])
    count = len(next(iter(sources.values())))
    return [session.run(None, {ours.name: column[k] for ours, column in sources.items()})[0] for k in range(count)]


def sqnr_db(reference: list[NDArray[Any]], got: list[NDArray[Any]]) -> float:
    noise = sum(float(np.square(g.astype(np.float64) - r).sum()) for r, g in zip(reference, got, strict=True))
    signal = sum(float(np.square(r.astype(np.float64)).sum()) for r in reference)
    if noise == 0:
        return CEILING_DB
    if math.isnan(noise) or signal == 0:
        return -CEILING_DB
    return float(np.clip(10 * math.log10(signal / noise), -CEILING_DB, CEILING_DB))
