"""What nobody reads is removed."""
from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


def remove_unused(model: ir.Model) -> int:
    """Nodes and initializers that reach no output -> how many are gone."""
    before = _size(model)
    RemoveUnusedNodesPass()(model)
    return before - _size(model)


def _size(model: ir.Model) -> int:
    return sum(len(graph) + len(graph.initializers) for graph in model.graphs())
