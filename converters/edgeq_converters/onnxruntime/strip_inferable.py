"""What ONNX Runtime does not need in the file: a fifth of the bytes of a small quantized network.

Shapes that it infers when it loads, zero points that the standard assumes, names of nodes that repeat the names of
their outputs, and constants that are stored more than once.
"""
from __future__ import annotations

from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass

from edgeq.graph import all_nodes
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq.quiet import quiet

_DEDUPLICATION: Final = "onnx_ir.passes.common.initializer_deduplication"  # warns of inputs with a default


def leave_out_the_spare(model: ir.Model) -> None:
    """In place, and last of all: it takes the shapes and types that other rewrites look at."""
    for node in all_nodes(model.graph):
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            node.name = None
        if node.op_type == DEQUANTIZE and node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.INT32:
            _leave_out_zero_point(node)
    with quiet(_DEDUPLICATION):  # of up to 1024 elements: weights were compared before they were quantized
        DeduplicateInitializersPass()(model)
    for graph in model.graphs():
        _leave_out_shapes(graph)


def _leave_out_zero_point(bias: ir.Node) -> None:
    """Of int32 it can only be 0. Of int8 it stays, for the selector of QGemm (see `explicit_zero_points`).

    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/quantization/quantize_linear.cc
    """
    bias.resize_inputs(2)


def _leave_out_shapes(graph: ir.Graph) -> None:
    """Of everything but inputs and outputs, where they are the signature."""
    made = [value for node in graph for value in node.outputs]
    for value in (*made, *graph.initializers.values()):
        if not value.is_graph_input() and not value.is_graph_output():
            value.shape = value.type = None
