"""How much each rounding hurts when it alone is done, and all else is float.

The float values of all samples are computed once, node after node. At each place one value is replaced by what a
quantizer makes of it, and the float rest of the network is run on that:

    float values ──▶ one quantizer ──▶ the float nodes behind it ──▶ outputs, against the float outputs

Roundings of different places are nearly independent, so that their noise adds up: thousands of ways to choose
precisions can be compared without running them.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import all_nodes, bodies, constant, is_constant, label, reads
from edgeq.inference.columns import apart, errors_apart
from edgeq.inference.partial import Columns, PartialRun, run_nodes
from edgeq.inference.session import Arrays
from edgeq.metrics import CEILING_DB, ErrorPower
from edgeq.ops import WEIGHTED, stored_inputs
from edgeq.quant.plan import QuantPlan, Weight
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import QuantParams, dequantize, quantize

Key = TypeVar("Key", bound=Hashable)
Told: TypeAlias = Callable[[int, int], None]  # how many are done, of how many


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One change of the float network. value: what it changes. change: the float values of all samples -> the changed
    ones of `value`. needs: names of the values that it reads.
    """

    value: ir.Value
    needs: tuple[str, ...]
    change: Callable[[Columns], list[NDArray[Any]]]


def errors_alone(network: ir.Model, quantizers: Mapping[Key, Quantizer], feeds: Sequence[Arrays],
                 progress: Told = lambda done, total: None) -> dict[Key, list[ErrorPower]]:
    """The error of every computed output, of columns that are measured apart, for each quantizer alone.

    Time: about half a run of the network for each quantizer and sample. Memory: the values that are alive at one place,
    for all samples.

    Raises:
        ModelError: onnxruntime cannot run a part of the model.
    """
    position = {node: number for number, node in enumerate(network.graph)}

    def place(key: Key) -> int:
        producer = quantizers[key].value.producer()
        return -1 if producer is None else position[producer]

    run = PartialRun(network, feeds, held=[(name, place(key)) for key, found in quantizers.items()
                                           for name in found.needs])
    expected = run.outputs()
    parts = apart(network.graph, [{name: column[k] for name, column in expected.items()} for k in range(len(feeds))])
    errors: dict[Key, list[ErrorPower]] = {}
    for done, key in enumerate(sorted(quantizers, key=place), 1):
        run.advance(place(key) + 1)
        outputs = run.rest(quantizers[key].value, quantizers[key].change(run.values))
        errors[key] = [error for name in expected for error in errors_apart(
            parts.get(name), expected[name], outputs[name])]
        progress(done, len(quantizers))
    return {key: errors[key] for key in quantizers}


def quantizer_on(value: ir.Value, grid: QuantParams) -> Quantizer:
    """Round a value to a grid."""
    name = value.name or ""
    return Quantizer(value, (name,),
                     lambda columns: [dequantize(quantize(data, grid), grid) for data in columns[name]])


def activation_quantizers(network: ir.Model, graph: ir.Model) -> dict[str, Quantizer]:
    """Every value of the float network that the quantized graph rounds, by name."""
    values = {value.name or "": value for node in network.graph for value in node.outputs}
    values |= {value.name or "": value for value in network.graph.inputs}
    found = {}
    for node in graph.graph:
        if node.op_type == QUANTIZE and node.inputs[0] is not None and not is_constant(node.inputs[0]):
            grid, reader = grid_of(node), next((use.node for use in node.outputs[0].uses()), None)
            names = [node.inputs[0].name or ""] + ([reader.outputs[0].name or ""] if reader is not None else [])
            value = next((values[name] for name in names if name in values), None)
            if grid is not None and value is not None:
                found[value.name or ""] = quantizer_on(value, grid)
    return found


def weight_quantizers(network: ir.Model, graph: ir.Model, layers: Mapping[str, ir.Node]) -> dict[str, Quantizer]:
    """Every layer whose constants the quantized graph stores as integers, by label: the layer with these constants."""
    twins = {label(node): node for node in all_nodes(graph.graph)}
    outside = {inner: node for node in network.graph for body in bodies(node) for inner in all_nodes(body)}
    found = {}
    for name, node in layers.items():
        constants = {value.name or "": data for value, twin in zip(node.inputs, twins[name].inputs, strict=True)
                     if value is not None and is_constant(value) and (data := _stored(twin)) is not None}
        if constants:
            found[name] = _with_constants(network, outside.get(node, node), constants)
    return found


def _stored(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant, or one behind a DequantizeLinear, as float32."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != DEQUANTIZE:
        return constant(value)
    data, grid = constant(producer.inputs[0]), grid_of(producer)
    return None if data is None or grid is None else dequantize(np.asarray(data).astype(np.int32), grid)


def _with_constants(network: ir.Model, node: ir.Node, constants: Arrays) -> Quantizer:
    """node: in the main graph; a layer in a body is seen in what the If or Loop around it gives: of several results, in
    the first float that is read.
    """
    needs = tuple(value.name or "" for value in reads(node)
                  if value.name not in constants and not is_constant(value))
    result = next((value for value in node.outputs if value.dtype == ir.DataType.FLOAT
                   and (value.uses() or value.is_graph_output())), node.outputs[0])

    def change(columns: Columns) -> list[NDArray[Any]]:
        count = len(columns[needs[0]])
        return run_nodes(network, [node], columns, [result], count, constants)[result.name or ""]

    return Quantizer(result, needs, change)


# -- the layers of a quantized graph -----------------------------------------------------------------------------------

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
                progress: Told = lambda done, total: None) -> list[Damage]:
    """The damage of each layer of `network`, the worst first. graph: the same network, quantized by `plan`.

    Raises:
        ModelError: as `errors_alone`.
    """
    units = {unit.value.name or "": unit for unit in find_units(network, graph)}
    errors = errors_alone(network, {name: _alone(graph, unit) for name, unit in units.items()}, feeds, progress)
    kinds: dict[str, list[Weight]] = {}
    for weight in plan.weights:
        kinds.setdefault(weight.node, []).append(weight)
    found = []
    for name, unit in units.items():
        weights = kinds.get(label(unit.node), [])
        data = [network.graph.initializers[weight.value].const_value for weight in weights]
        found.append(Damage(label(unit.node), unit.node.op_type, name, weights[0].type.bits if weights else None,
                            sum(tensor.nbytes for tensor in data if tensor is not None),
                            min((error.sqnr_db for error in errors[name]), default=CEILING_DB)))
    return sorted(found, key=lambda damage: damage.sqnr_db)


def _alone(graph: ir.Model, unit: Unit) -> Quantizer:
    """The layer's result, from the float values that it reads."""
    given = {ours.name or "": real.name or "" for real, ours in unit.given}

    def change(columns: Columns) -> list[NDArray[Any]]:
        known = {ours: columns[real] for ours, real in given.items()}
        count = len(next(iter(known.values())))
        return run_nodes(graph, unit.nodes, known, [unit.result], count)[unit.result.name or ""]

    return Quantizer(unit.value, tuple(given.values()), change)


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
