"""How the weights of each layer are stored."""
from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import onnx_ir as ir

from edgeq import policy
from edgeq.graph import all_nodes, attribute, is_constant, is_finite, is_transpose, label
from edgeq.ops import MATRIX_PRODUCTS, RECURRENT
from edgeq.quant.plan.integers import is_kept
from edgeq.quant.plan.spectral import spectral_layers
from edgeq.quant.plan.types import Bias, Precision, Weight
from edgeq.quant.plan.units import Units, channel_axis, embedding_of, feeds_only, shape, weights_of
from edgeq.scheme import Granularity, PerBlock, PerChannel, PerTensor, QuantType


def weighted_layers(units: Units, keep: Sequence[re.Pattern[str]], integer: Collection[ir.Node]) -> list[ir.Node]:
    """The nodes whose weights may be stored in fewer bits, in graph order; those of bodies too.

    integer: the nodes that compute on integers. The table of an embedding among them lies on the grid of its result. A
    layer whose weights are empty or hold infinity stays as it is: no grid has a place for that. So does one that
    reads nothing but constants.
    """
    return [node for node in all_nodes(units.graph) if weights_of(node) and not is_kept(node, units, keep)
            and all(map(is_finite, weights_of(node)))
            and not all(is_constant(value) for value in node.inputs if value is not None)
            and not (embedding_of(node) and (node in integer or units.keeps_embeddings))]


def kept_embeddings(units: Units, integer: Collection[ir.Node]) -> dict[ir.Node, str]:
    """The embeddings whose tables an engine wants in float -> why."""
    return {node: units.keeps_embeddings for node in all_nodes(units.graph)
            if embedding_of(node) and units.keeps_embeddings and node not in integer}


def plan_weights(units: Units, layers: Sequence[ir.Node], wanted: QuantType, given: Mapping[str, Precision],
                 table_channels: int = 0, integer: Collection[ir.Node] = (),
                 ) -> tuple[tuple[Weight, ...], tuple[str, ...]]:
    """-> the integer weights, and the names of those stored as float16. wanted, table_channels: of the scheme. given:
    layer -> what it gets instead. integer: the nodes that compute on integers.
    """
    heads = _heads(layers)
    sensitive = find_sensitive(units) if wanted.bits < 8 else set()
    sensitive |= {node for node in heads if node in integer}  # 8 bits for both are less than 8 and 4
    weights, half = [], []
    embeddings: dict[str, QuantType] = {}  # initializer -> how it is stored
    for node in layers:
        names = [value.name or "" for value in weights_of(node)]
        bits = given.get(label(node), Precision()).weight_bits or (8 if node in sensitive else wanted.bits)
        bits = max(bits, fewest_bits(node))
        if bits == 16:
            half += names
        elif bits < 16:
            granularity = wanted.granularity if bits == wanted.bits else PerChannel()
            if bits == 8 and node in integer and len(shape(weights_of(node)[0])) > 2 and node.op_type == "MatMul":
                granularity = PerTensor()  # of a stack of matrices: all that every engine's integer kernel takes
            kind = QuantType(bits, granularity=_granularity(node, granularity))
            bias = _bias_of(node, units)
            tables = table_channels if bits == 4 and _has_tables(node, kind) else 0
            weights += [Weight(label(node), name, kind, bias.name or "" if bias else "", tables) for name in names]
            embeddings |= dict.fromkeys(names, kind) if embedding_of(node) else {}
    tables_of = {label(node): table.name or "" for node, table in heads.items()}
    weights = [_alike(weight, tables_of.get(weight.node, weight.value), embeddings) for weight in weights]
    integers = {weight.value for weight in weights}  # where layers share a weight and disagree, these win
    return tuple(weights), tuple(name for name in dict.fromkeys(half) if name not in integers)


def fewest_bits(node: ir.Node) -> int:
    """An embedding costs a language model as much at 4 bits as 40 % of all its layers, and next to nothing at 8."""
    return 8 if embedding_of(node) else 4


def _heads(layers: Sequence[ir.Node]) -> dict[ir.Node, ir.Value]:
    """The layers that multiply with the transpose [D,V] of an embedding's table [V,D], as a language model's head."""
    tables = [table for node in layers if (table := embedding_of(node)) is not None]
    found: dict[ir.Node, ir.Value] = {}
    for node in layers:
        if node.op_type in MATRIX_PRODUCTS and channel_axis(node) == 1:
            table = next((table for table in tables if is_transpose(weights_of(node)[0], table)), None)
            found |= {} if table is None else {node: table}
    return found


def _alike(weight: Weight, table: str, embeddings: Mapping[str, QuantType]) -> Weight:
    """A weight of 8 bits with the integers of a table that holds the same numbers, or their transpose."""
    kind = embeddings.get(table)
    if kind is None or (weight.value != table and weight.type.bits != 8):
        return weight
    transposed = weight.value != table and isinstance(kind.granularity, PerChannel)
    kind = replace(kind, granularity=PerChannel(1)) if transposed else kind
    return replace(weight, type=kind, table_channels=0, shares_embedding=True)


def _has_tables(node: ir.Node, kind: QuantType) -> bool:
    """Whether the rows of a weight are its output channels in order, each with a grid of its own."""
    return isinstance(kind.granularity, PerChannel) and node.op_type not in RECURRENT


def plan_biases(units: Units, integer: set[ir.Node], weights: Sequence[Weight], bits: Literal[32, 64] = 32,
                ) -> tuple[Bias, ...]:
    """The biases of the layers that compute on integers: what their accumulators of so many bits start from."""
    planned = {weight.node: weight for weight in weights}
    biases = []
    for node in units.graph:
        weight = planned.get(label(node))
        if node in integer and weight and weight.bias and not isinstance(weight.type.granularity, PerBlock):
            assert node.inputs[0] is not None
            adder = label(units.bias_add.get(node, node))
            biases.append(Bias(adder, weight.bias, node.inputs[0].name or "", weight.value, bits))
    return tuple(biases)


def _bias_of(node: ir.Node, units: Units) -> ir.Value | None:
    if node in units.bias_add:
        return next(value for value in units.bias_add[node].inputs if is_constant(value))
    if node.op_type in RECURRENT:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias if is_constant(bias) and shape(bias) == (_output_channels(node),) else None


def _output_channels(node: ir.Node) -> int:
    channels = shape(node.inputs[1])[channel_axis(node)]
    return channels * (int(attribute(node, "group", 1)) if node.op_type == "ConvTranspose" else 1)


def find_sensitive(units: Units) -> set[ir.Node]:
    """Layers that stay at 8 bits in a network of 4: the first to break, where they hold few of the weights.

    Depthwise filters, what computes or reads a spectrum, the first layer and the last; and as many of the smallest
    layers as fit into a twentieth.
    """
    layers = [node for node in all_nodes(units.graph) if weights_of(node) and not embedding_of(node)]
    sizes = {node: sum(math.prod(shape(weight)) for weight in weights_of(node)) for node in layers}
    total = sum(sizes.values())
    found = {node for node in layers if node.op_type == "Conv" and int(attribute(node, "group", 1)) > 1
             and shape(node.inputs[1])[1] == 1}
    outer = [node for node in layers if node.graph is units.graph]
    found |= {node for node in outer if node.inputs[0] is not None and node.inputs[0].is_graph_input()
              and sizes[node] <= policy.FIRST_LAYER_SHARE.value * total}
    found |= spectral_layers(units.graph)
    tail = units.tail()
    found |= {node for node in outer if feeds_only(units.output(node), tail)
              and sizes[node] <= policy.LAST_LAYER_SHARE.value * total}
    room = policy.SMALLEST_LAYERS_SHARE.value * total
    for node in sorted((node for node in layers if node not in found), key=sizes.__getitem__):
        room -= sizes[node]
        if room < 0:
            break
        found.add(node)
    return found


def _granularity(node: ir.Node, wanted: Granularity) -> Granularity:
    sizes, axis = shape(weights_of(node)[0]), channel_axis(node)
    if node.op_type == "ConvTranspose" and int(attribute(node, "group", 1)) > 1:
        return PerTensor()  # the output channel is spread over two axes
    match wanted:
        case PerBlock(size, _) if node.op_type in MATRIX_PRODUCTS and sizes[1 - axis] % size == 0:
            return PerBlock(size, 1 - axis)
        case PerTensor():
            return PerTensor()
        case _:
            return PerChannel(axis) if len(sizes) > 1 else PerTensor()
