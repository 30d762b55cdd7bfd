"""How long an engine takes for a plan, predicted from measured costs of its operators: the same inputs always give the
same number, whatever else the machine does.

A backend's `costs` is a JSON file that `benchmarks/operator_costs.py` writes: for each kind of operator, on floats and
on integers, nanoseconds for each unit of what it does. The time of a plan is their sum over the network, with those of
the QUANTIZE and DEQUANTIZE between floats and integers.
"""
from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import onnx_ir as ir

from edgeq.graph import attribute, consumers, is_constant, label, static
from edgeq.ops import CONVOLUTIONS, KEEPING_ORDER, MATRIX_PRODUCTS, MOVING, RECURRENT
from edgeq.quant.plan import QuantPlan
from edgeq.quant.plan.units import Units, data_inputs, is_float, weights_of

# What an operator's time grows with: "runs", that it runs at all; "macs", multiplications, of output channels in full
# vectors of 16; "patches", numbers gathered for windows; "numbers" read and written, and those of them
# that are "far", beyond what a cache of half a megabyte holds; "weights" read.
_VECTOR: Final = 16
_NEAR: Final = 2**17
_POOLS: Final = ("MaxPool", "AveragePool")

Quantities: TypeAlias = Counter[tuple[str, str]]  # (kind and precision, quantity) -> how much of it


@dataclass(frozen=True, slots=True)
class OperatorCosts:
    """machine: where they were measured. nanoseconds: "conv int8" -> quantity -> of one unit of it."""

    engine: str
    machine: str
    nanoseconds: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, path: Path) -> OperatorCosts:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def of(self, quantities: Quantities) -> float:
        """Nanoseconds."""
        return sum(self._row(kind).get(quantity, 0.0) * amount for (kind, quantity), amount in quantities.items())

    def _row(self, kind: str) -> Mapping[str, float]:
        """What was not measured costs as much as on floats, and what was not at all as much as a product of two."""
        for known in (kind, f"{kind.partition(' ')[0]} float", "Mul float"):
            if known in self.nanoseconds:
                return self.nanoseconds[known]
        return {}


def plan_quantities(units: Units, plan: QuantPlan | None) -> Quantities:
    """All that a network's operators do. plan: None for the float network."""
    found: Quantities = Counter({("run", "runs"): 1})
    integers = set() if plan is None else integer_heads(units, plan)
    stored = set() if plan is None else {weight.node for weight in plan.weights}
    read = set() if plan is None else set(_values(units, plan))
    for node in units.heads():
        found += node_quantities(node, units, is_integer=node in integers, is_stored=label(node) in stored,
                                 is_read=units.output(node) in read)
    if plan is not None:
        found += _boundaries(units, plan, integers)
    return found


def integer_heads(units: Units, plan: QuantPlan) -> set[ir.Node]:
    """The units that compute on integers."""
    if plan.activation is None:
        return set()
    kept = {note.node for note in plan.kept}
    stored = {weight.node for weight in plan.weights}
    # Between integers, and with integer weights if any, what was to compute in float is written as all else.
    return {node for node in units.heads() if units.has_row(node) and is_float(node.outputs[0]) and (
        label(node) not in kept or ((label(node) in stored or not weights_of(node)) and _is_rounded(
            units.output(node), plan) and all(_is_rounded(v, plan) for v in data_inputs(node) if not is_constant(v))))}


def node_quantities(node: ir.Node, units: Units, *, is_integer: bool, is_stored: bool = False, is_read: bool = False,
                    ) -> Quantities:
    """Of one unit. is_stored: its weights are integers, which float kernels turn into floats first. is_read: integers
    are what a reader wants, and an engine may round what is moved before it is.
    """
    output = units.output(node)
    shape = static(output)
    if shape is None or all(is_constant(value) for value in node.inputs if value is not None):
        return Counter()
    kind, numbers = _kind(node), math.prod(shape) + sum(_size(v) for v in data_inputs(node) if not is_constant(v))
    weights = sum(map(_size, weights_of(node)))
    name = f"{kind} {'int8' if is_integer or (is_stored and node.op_type in RECURRENT) else 'float'}"
    if not is_integer and is_read and node.op_type in MOVING:
        name = f"{kind} between"
    elif is_stored and not is_integer and node.op_type not in RECURRENT:
        name = f"{kind} stored"
    found: Quantities = Counter({(name, "runs"): 1})
    if node.op_type in KEEPING_ORDER:
        return found
    found += _moved(name, numbers)
    if node.op_type in _POOLS:
        found[name, "patches"] = math.prod((*shape, *attribute(node, "kernel_shape")))
    if node.op_type in MATRIX_PRODUCTS | CONVOLUTIONS | RECURRENT:
        found[name, "macs"], found[name, "patches"] = _products(node, shape)
        found[name, "weights"] = weights
    return found


def _boundaries(units: Units, plan: QuantPlan, integers: Collection[ir.Node]) -> Quantities:
    """QUANTIZE where floats go to integers, DEQUANTIZE where integers go to floats."""
    found: Quantities = Counter()
    for value in _values(units, plan):
        producer = value.producer()
        made = producer is not None and units.head(producer) in integers
        if not made:
            found += quantized("quantize", value)
        if value.name in plan.rounded and (value.is_graph_output() or any(
                units.head(reader) not in integers for reader in consumers(value))):
            found += quantized("dequantize", value)
    return found


def quantized(kind: Literal["quantize", "dequantize"], value: ir.Value) -> Quantities:
    """Of one QUANTIZE or DEQUANTIZE; that of an image may change its layout too."""
    name = f"{kind} {'image' if len(static(value) or ()) == 4 else 'rows'}"
    return Counter({(name, "runs"): 1}) + _moved(name, _size(value))


def _moved(kind: str, numbers: int) -> Quantities:
    return Counter({(kind, "numbers"): numbers, (kind, "far"): max(0, numbers - _NEAR)})


def _is_rounded(value: ir.Value, plan: QuantPlan) -> bool:
    """Whether all that read a value see it rounded."""
    return bool(value.uses()) and all(
        value.name in plan.rounded or (label(use.node), use.idx) in plan.readers for use in value.uses())


def _values(units: Units, plan: QuantPlan) -> Iterator[ir.Value]:
    """Computed values whose integers are read."""
    for value in (*units.graph.inputs, *(v for node in units.graph for v in node.outputs)):
        if not is_constant(value) and (value.name in plan.rounded or any(
                (label(use.node), use.idx) in plan.readers for use in value.uses())):
            yield value


def _size(value: ir.Value | None) -> int:
    return math.prod(static(value) or (0,))


def _kind(node: ir.Node) -> str:
    if node.op_type == "Conv":
        weight = static(node.inputs[1]) or (1, 1)
        groups = attribute(node, "group", 1)
        if groups > 1:
            return "depthwise" if weight[1] == 1 else "grouped"
        return "pointwise" if math.prod(weight[2:]) == 1 else "conv"
    if node.op_type in MATRIX_PRODUCTS:
        return "dense" if is_constant(node.inputs[1]) else "product"
    if node.op_type in KEEPING_ORDER:
        return "view"
    return node.op_type


def _products(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """(multiplications, numbers gathered for windows). shape: of the output."""
    weight = static(node.inputs[1]) or (1, 1)
    if node.op_type in RECURRENT:
        steps = (static(node.inputs[0]) or (1,))[0]
        recurrent = static(node.inputs[2]) or (1, 1, 1)
        return steps * (math.prod(weight) + math.prod(recurrent)), 0
    if node.op_type in MATRIX_PRODUCTS:
        depth = weight[-1] if attribute(node, "transB", 0) else weight[-2]
        return math.prod(shape[:-1]) * depth * _padded(shape[-1]), 0
    places = math.prod(shape[2:]) if node.op_type == "Conv" else _size(node.inputs[0]) // max(weight[0], 1)
    window = math.prod(weight[2:])
    if node.op_type == "ConvTranspose":
        return places * weight[0] * _padded(weight[1]) * window, places * weight[1] * window
    groups = attribute(node, "group", 1)
    if weight[1] == 1 and groups > 1:
        return places * _padded(shape[1]) * window, places * shape[1] * window
    gathered = places * weight[1] * groups * window if window > 1 else 0
    return places * groups * _padded(shape[1] // groups) * weight[1] * window, gathered


def _padded(channels: int) -> int:
    return -(-channels // _VECTOR) * _VECTOR
