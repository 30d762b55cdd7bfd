"""The noise that each single rounding brings to the outputs, all else in float.

Roundings of different places are nearly independent, so that their noise adds up; that is what lets a search compare
thousands of mixtures without running them.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant, is_constant, label
from edgeq.inference.prefix import Arrays, part_session, reads
from edgeq.inference.walk import Columns, Walk
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import QuantParams, dequantize, quantize


@dataclass(frozen=True, slots=True)
class Rounding:
    """One change of the float network. value: what it changes. change: the float values of all samples -> the changed
    ones of `value`. needs: values that it reads.
    """

    value: ir.Value
    needs: tuple[str, ...]
    change: Callable[[Columns], list[NDArray[Any]]]


def noises(network: ir.Model, roundings: Sequence[Rounding], feeds: Sequence[Arrays],
           progress: Callable[[int, int], None] = lambda done, total: None) -> list[float]:
    """Power of the error over power of the signal, of the worst output, for each rounding alone."""
    position = {node: number for number, node in enumerate(network.graph)}

    def place(rounding: Rounding) -> int:
        producer = rounding.value.producer()
        return -1 if producer is None else position[producer]

    walk = Walk(network, feeds, [(name, place(rounding)) for rounding in roundings for name in rounding.needs])
    expected = walk.outputs()
    found = [0.0] * len(roundings)
    for done, number in enumerate(sorted(range(len(roundings)), key=lambda k: place(roundings[k])), 1):
        rounding = roundings[number]
        walk.advance(place(rounding))
        outputs = walk.rest(rounding.value, rounding.change(walk.values))
        found[number] = max((_relative(expected[name], outputs[name]) for name in expected if name in outputs),
                            default=0.0)
        progress(done, len(roundings))
    return found


def _relative(expected: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> float:
    noise = sum(float(np.square(g.astype(np.float64) - e).sum()) for e, g in zip(expected, got, strict=True))
    signal = sum(float(np.square(e.astype(np.float64)).sum()) for e in expected)
    return noise / signal if signal else float(noise > 0)


def activation_roundings(network: ir.Model, graph: ir.Model) -> dict[str, Rounding]:
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
                found[value.name or ""] = rounded_on(value, grid)
    return found


def rounded_on(value: ir.Value, grid: QuantParams) -> Rounding:
    name = value.name or ""
    return Rounding(value, (name,), lambda columns: [dequantize(quantize(data, grid), grid) for data in columns[name]])


def weight_roundings(network: ir.Model, graph: ir.Model, layers: Mapping[str, ir.Node]) -> dict[str, Rounding]:
    """Every layer whose constants the quantized graph stores as integers, by label: the layer with these constants."""
    twins = {label(node): node for node in graph.graph}
    found = {}
    for name, node in layers.items():
        constants = {value.name or "": data for value, twin in zip(node.inputs, twins[name].inputs, strict=True)
                     if value is not None and is_constant(value) and (data := _stored(twin)) is not None}
        if constants:
            found[name] = _with_constants(network, node, constants)
    return found


def _stored(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant, or one behind a DequantizeLinear, as float32."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != DEQUANTIZE:
        return constant(value)
    data, grid = constant(producer.inputs[0]), grid_of(producer)
    return None if data is None or grid is None else dequantize(np.asarray(data).astype(np.int32), grid)


def _with_constants(network: ir.Model, node: ir.Node, constants: Mapping[str, NDArray[Any]]) -> Rounding:
    given = [value for value in reads(node) if value.name not in constants and not is_constant(value)]
    others = {value.name or "": value.const_value.numpy() for value in reads(node)
              if value.name not in constants and value.const_value is not None}

    def change(columns: Columns) -> list[NDArray[Any]]:
        session = part_session(network, [node], {value: columns[value.name or ""][0] for value in given},
                               {**others, **constants}, [node.outputs[0]])
        count = len(columns[given[0].name or ""])
        return [session.run(None, {value.name: columns[value.name or ""][k] for value in given})[0]
                for k in range(count)]

    return Rounding(node.outputs[0], tuple(value.name or "" for value in given), change)
