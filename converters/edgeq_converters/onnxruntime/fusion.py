"""Which quantized nodes ONNX Runtime computes in integers, and why the others stay float.

Its QDQ transformer replaces DQ -> op -> Q by one integer kernel where a selector accepts the whole group; everything
else runs as written: DequantizeLinear, the float op, QuantizeLinear. Measured with 1.31 on x86-64 by counting the nodes
of the optimized graph; the selectors are in
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import NodeNote, attribute, constant, is_constant, only_reader, rank
from edgeq.ops import LIMITING, MULTIPLY_ACCUMULATE, operands
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import PerBlock, PerChannel, QuantParams
from edgeq.targets import Row, Same
from edgeq_converters.onnxruntime.target import ONNXRUNTIME

_SELECTORS: Final = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
# What the planner's table leaves out, because no other engine agrees, but a foreign graph may contain.
ROWS: Final[Mapping[str, Row]] = MappingProxyType({**ONNXRUNTIME.rows, "Resize": Row(Same(), _SELECTORS)})


def float_reason(node: ir.Node) -> str:
    """Why a node with quantized inputs is computed in float; '' where an integer kernel takes it, with its Q and DQ."""
    row = ROWS.get(node.op_type) if node.domain == "" else None
    if row is None:
        return "ONNX Runtime has no integer kernel for it"
    inputs = [_read_params(value) for value in data_inputs(node)]
    if not all(inputs):
        return "an input is not quantized"
    outputs = [written_params(value) for value in node.outputs if value.uses() or value.is_graph_output()]
    if not all(outputs) and not row.float_output:
        return "its output is not quantized, or Relu or Clip behind it cuts the grid"
    known = [params for params in (*inputs, *outputs) if params is not None]
    if any(params.type.bits > 8 for params in known):
        return "integer kernels of the CPU take 8-bit activations"
    if any(isinstance(params.type.granularity, PerBlock) for params in known):
        return "integer kernels know no blocks"
    per_channel = any(isinstance(params.type.granularity, PerChannel) for params in known)
    if per_channel and node.op_type not in MULTIPLY_ACCUMULATE:
        return "its integer kernel takes one scale per tensor"
    if isinstance(row.constraint, Same) and not all(known[0].same_grid(other) for other in known[1:]):
        return "it moves integers, but its inputs and outputs are on different grids"
    condition = _CONDITIONS.get(node.op_type)
    return condition(node) if condition else ""


def float_nodes(graph: ir.Graph) -> list[NodeNote]:
    """Fallbacks: nodes that read integers and hold weights or write integers, and that no integer kernel takes."""
    found = []
    for node in graph:
        if node.op_type in (QUANTIZE, DEQUANTIZE) or not _may_be_integers(node):
            continue
        reason = float_reason(node)
        if reason and not is_absorbed(node):
            found.append(NodeNote.of(node, reason))
    return found


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that carry data or weights: not shapes, indices, biases or limits."""
    return [value for k in operands(node.op_type, len(node.inputs)) if (value := node.inputs[k]) is not None]


def dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that a value comes from, or None."""
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == DEQUANTIZE else None


def is_static(node: ir.Node) -> bool:
    """True where an activation reaches the node through a DequantizeLinear."""
    sources = [source for value in node.inputs if (source := dequantized(value)) is not None]
    return any(not is_constant(source.inputs[0]) for source in sources)


def _may_be_integers(node: ir.Node) -> bool:
    return is_static(node) and (node.op_type in MULTIPLY_ACCUMULATE or any(map(written_params, node.outputs)))


def _read_params(value: ir.Value) -> QuantParams | None:
    source = dequantized(value)
    return grid_of(source) if source is not None else None


def written_params(value: ir.Value) -> QuantParams | None:
    """The grid of the one QuantizeLinear that reads a value, through a Relu or Clip that the grid makes redundant."""
    reader = only_reader(value)
    if reader is None or reader.op_type == QUANTIZE:
        return None if reader is None else grid_of(reader)
    return written_params(reader.outputs[0]) if is_absorbed(reader) else None


def is_absorbed(node: ir.Node) -> bool:
    """True for a Relu or Clip whose limits the grid behind it has anyway.

    relu_quant_fusion and clip_quant_fusion: core/optimizer/qdq_transformer/{relu,clip}_quantizelinear.cc
    """
    if node.op_type not in LIMITING or (params := written_params(node.outputs[0])) is None:
        return False
    low, high = params.real_range()
    slack = float(params.scale) * 1e-3  # a grid end is a rounded multiple of its scale
    lower, upper = limits_of(node)
    return bool(lower - slack <= low and high <= upper + slack)


def limits_of(node: ir.Node) -> tuple[float, float]:
    """The range that a Relu or Clip lets through; NaN for a limit that is computed."""
    return (0.0, np.inf) if node.op_type == "Relu" else (_limit(node, 1, -np.inf), _limit(node, 2, np.inf))


def _limit(node: ir.Node, index: int, default: float) -> float:
    """A limit of Clip; one that is computed absorbs nothing, which NaN says to every comparison."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return default
    data = constant(value)
    return float(data.reshape(())) if data is not None else np.nan


def _gemm(node: ir.Node) -> str:
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    return "" if plain and not attribute(node, "transA", 0) else "QGemm knows no alpha, beta or transA"


def _matmul(node: ir.Node) -> str:
    """MatMulIntegerToFloat knows a scale for each column of a matrix, not of a stack: IsBQuantParamSupported in
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cpu/quantization/dynamic_quantize_matmul.cc
    """
    right = dequantized(node.inputs[1])
    params = None if right is None else grid_of(right)
    stack = right is not None and right.inputs[0] is not None and rank(right.inputs[0]) > 2
    if not stack or params is None or params.scale.ndim == 0 or written_params(node.outputs[0]) is not None:
        return ""
    return "writing float, its integer kernel takes one scale for a stack of matrices"


def _resize(node: ir.Node) -> str:
    return "" if attribute(node, "mode", "nearest") == "nearest" else "only Resize by nearest neighbour takes integers"


_CONDITIONS: Final[Mapping[str, Callable[[ir.Node], str]]] = MappingProxyType({
    "Gemm": _gemm, "MatMul": _matmul, "Resize": _resize,
    "HardSwish": lambda node: "it is written in integer kernels between two uint8 grids alone",
})
