"""Float16 between the integers, written into the graph: a strongly typed network computes in the types that it names,
and from TensorRT 10 on there are no precision flags beside it.

https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html#strongly-typed-networks
"""
from __future__ import annotations

from collections.abc import Set
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import constant, initializer
from edgeq.ops import MATRIX_PRODUCTS
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq_converters.onnxfile import drop_unread
from edgeq_converters.tensorrt.operands import dequantizers

# Ops that compute in float16 as in float: no sums over many values, no exponentials without a limit. Normalizations,
# reductions and powers stay in float32, between casts.
HALF: Final = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Abs", "Relu",
    "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Softmax", "Gelu", "Erf",
    "AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "Identity", "Concat", "Reshape", "Flatten",
    "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split", "Tile", "Expand", "Pad", "Where", "DepthToSpace",
    "SpaceToDepth", QUANTIZE, DEQUANTIZE,
})
_LARGEST: Final = float(np.finfo(np.float16).max)
_SMALLEST_SCALE: Final = float(np.finfo(np.float16).smallest_normal)  # below, a scale would lose digits


def compute_in_half(graph: ir.Graph) -> None:
    """In place; inputs and outputs of the graph stay float32.

        float x -> Conv -> float y      =>      float x -> Cast -> half Conv -> Cast -> float y

    A graph with bodies of control flow stays as it is: their values cross its border.
    """
    if any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
           for node in graph for attr in node.attributes.values()):
        return
    inside = {node for node in graph if node.domain == "" and node.op_type in HALF and _fits(node)}
    inside -= _beside_others(graph, inside)
    halves = {value for node in graph if node in inside for value in node.outputs if value.dtype == ir.DataType.FLOAT}
    casts = _Casts(graph)
    for node in list(graph):
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            if node in inside and value not in halves:
                node.replace_input_with(index, casts.half(value))
            elif node not in inside and value in halves:
                node.replace_input_with(index, casts.single(value))
    for position, value in enumerate(graph.outputs):
        if value in halves:
            graph.outputs[position] = casts.output(value)
    for value in halves:
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    drop_unread(graph, "Cast")


class _Casts:
    """Each value is cast once."""

    def __init__(self, graph: ir.Graph):
        self.graph = graph
        self._half: dict[ir.Value, ir.Value] = {}
        self._single: dict[ir.Value, ir.Value] = {}

    def half(self, value: ir.Value) -> ir.Value:
        if value not in self._half:
            data, producer = constant(value), value.producer()
            if data is not None:
                made = initializer(self.graph, f"{value.name}_half", data.astype(np.float16))
            elif producer is not None and producer.op_type == "Cast" and _is_half(producer.inputs[0]):
                assert producer.inputs[0] is not None
                made = producer.inputs[0]
            else:
                made = self._cast(value, ir.DataType.FLOAT16, f"{value.name}_half")
            self._half[value] = made
        return self._half[value]

    def single(self, value: ir.Value) -> ir.Value:
        if value not in self._single:
            self._single[value] = self._cast(value, ir.DataType.FLOAT, f"{value.name}_single")
        return self._single[value]

    def output(self, value: ir.Value) -> ir.Value:
        """The user's name goes to the cast."""
        made, name = self.single(value), value.name
        value.name = f"{name}_half"
        made.name = name
        return made

    def _cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=name)
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return node.outputs[0]


def _fits(node: ir.Node) -> bool:
    """Every constant of the node is a float16, and a grid's step keeps its digits."""
    for index, value in enumerate(node.inputs):
        data = constant(value)
        if data is None or data.dtype != np.float32 or not data.size:
            continue
        if np.abs(data).max() > _LARGEST:
            return False
        if index == 1 and node.op_type in (QUANTIZE, DEQUANTIZE) and data.min() < _SMALLEST_SCALE:
            return False
    return True


def _beside_others(graph: ir.Graph, inside: Set[ir.Node]) -> set[ir.Node]:
    """Those of `inside` that dequantize a factor of a product whose other factor's scale stays a float: the builder
    wants one type of both, see lint.py.
    """
    products = [dequantizers(node) for node in graph if node.op_type in MATRIX_PRODUCTS]
    found: set[ir.Node] = set()
    while more := {each for scales in products if not scales <= inside - found for each in scales & inside - found}:
        found |= more  # a value that several products read takes the float scale to all of them
    return found


def _is_half(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT16


