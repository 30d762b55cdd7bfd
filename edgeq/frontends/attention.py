"""Attention in bfloat16: ONNX defines it as a function of some ten operators, each of which rounds its result."""
from __future__ import annotations

from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgeq.frontends.downgrades import Writer
from edgeq.frontends.functions import expand
from edgeq.graph import all_nodes, attribute, constant

_BFLOAT16: Final = ir.DataType.BFLOAT16
_ROUND: Final = frozenset({"Add", "Div", "Exp", "MatMul", "Mul", "Sub", "Tanh"})  # the others of the body keep numbers
_ADDENDS: Final = 32  # longer sums are added up in float32 and rounded once, as every engine does


def round_attention(model: ir.Model) -> None:
    """Replace each Attention of bfloat16 by its body, a Cast to bfloat16 behind every step that rounds, in place.

        q, k -> MatMul -> Softmax     =>     q, k -> MatMul -> Cast -> ReduceMax -> Sub -> Cast -> Exp -> Cast ...

    The values are bfloat16 before and after; the Casts are what is left of it where bfloat16 is computed in float32.
    """
    if all(node.op_type != "Attention" for node in all_nodes(model.graph)):
        return
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    own = set(all_nodes(model.graph))
    expand(model, lambda node: _narrow(node) and (
        node.op_type == "Attention" or (node.op_type == "Softmax" and node not in own)))
    for node in [node for node in all_nodes(model.graph) if node not in own and _narrow(node)]:
        if node.op_type == "ReduceSum":
            _add_one_by_one(node)
        elif node.op_type in _ROUND:
            _round(node)


def _narrow(node: ir.Node) -> bool:
    return node.domain == "" and bool(node.inputs) and node.outputs[0].dtype == _BFLOAT16


def _round(node: ir.Node) -> None:
    """-> y     =>     -> Cast(bfloat16) -> y"""
    exact, graph = node.outputs[0], node.graph
    assert graph is not None
    cast = ir.node("Cast", [exact], attributes={"to": int(_BFLOAT16)})
    rounded = cast.outputs[0]
    rounded.name, exact.name = exact.name, f"{exact.name}_exact"
    rounded.shape, rounded.type = exact.shape, exact.type
    exact.replace_all_uses_with(rounded, replace_graph_outputs=True)
    cast.replace_input_with(0, exact)
    graph.insert_after(node, cast)


def _add_one_by_one(node: ir.Node) -> None:
    """x [..,K] -> ReduceSum over K     =>     ((x[..,:1] + x[..,1:2]) + x[..,2:3]) ..., rounded after each sum."""
    x, axes = node.inputs[0], constant(node.inputs[1])
    size = x.shape[-1] if x is not None and x.shape is not None else None
    if axes is None or axes.tolist() != [-1] or not attribute(node, "keepdims", 1) or not (
            isinstance(size, int) and 1 < size <= _ADDENDS):
        _round(node)
        return
    write = Writer(node)
    last = write.constant([-1])
    parts = [write("Slice", x, write.constant([k]), write.constant([k + 1]),
                   last, dtype=_BFLOAT16) for k in range(size)]
    total = parts[0]
    for part in parts[1:]:
        total = write.cast(write("Add", total, part, dtype=_BFLOAT16), _BFLOAT16)
    write.finish("Identity", total)
