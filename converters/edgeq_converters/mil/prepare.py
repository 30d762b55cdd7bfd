"""From the standard QDQ graph to the folded one that handlers in MIL lower."""
from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from edgeq.backend import EmitOptions
from edgeq.graph import LARGEST, all_nodes
from edgeq.scheme import FloatType
from edgeq_converters.mil.foreign_quantization import plain_quantization
from edgeq_converters.mil.squares import recognize_roots
from edgeq_converters.prepare import expand_unhandled, lower_form


def folded(model: ir.Model, handled: Collection[str], options: EmitOptions, precision: FloatType, max_rank: int,
           ) -> ir.Graph:
    """model: is used up. handled: the ops that have a handler. max_rank: of what the engine computes with."""
    plain_quantization(model.graph)  # before the general forms, which need float32 and would be computed in float16
    expand_unhandled(model, handled)
    graph = lower_form(model).graph
    if precision == "float16":
        recognize_roots(graph, max_rank)
        _note_largest(graph, options.largest())
    return graph


def _note_largest(graph: ir.Graph, sizes: Mapping[str, float]) -> None:
    """By name, once nothing more is rewritten; a rewrite keeps the names of what it replaces."""
    values = {value for node in all_nodes(graph) for value in (*node.inputs, *node.outputs) if value is not None}
    for value in values:
        if value.name and value.name in sizes:
            value.meta[LARGEST] = sizes[value.name]
