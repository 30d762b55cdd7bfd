"""From the standard QDQ graph to the form that backends with their own ops lower: grids on values, fused tails.

ONNX Runtime does these fusions itself and takes the QDQ graph as it stands.
"""
from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from edgeq.dimensions import Sizes
from edgeq.frontends.functions import expand
from edgeq.graph import QUANT, constant, initializer, only_reader, quant, shape
from edgeq.ops import LIMITING, MULTIPLY_ACCUMULATE
from edgeq.passes import canonicalize
from edgeq.passes.fold import evaluate
from edgeq.passes.loops import unroll_loops
from edgeq.passes.rewrite import replace
from edgeq.passes.sample_shapes import specialized
from edgeq.passes.shapes import fix_shapes
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, fold_qdq
from edgeq_converters.integer_ops import plain_numbers
from edgeq_converters.recurrent import write_out_recurrent

DOMAIN: Final = "edgeq"  # ops that exist only here, never in a saved file
_WITH_LIMITS: Final = (*MULTIPLY_ACCUMULATE, "Add", "Sub", "Mul")  # what Relu and Clip usually follow
LINEAR: Final = "Linear"  # Linear(x [..,K], w [K,N], bias [N]) -> [..,N]


def lower_form(model: ir.Model, handled: Collection[str] | None = None, *, limits_in_integers: bool = False,
               ) -> ir.Model:
    """A copy of the QDQ graph, folded: see `edgeq.quant.qdq.fold_qdq`, then each function below.

    handled: the ops that the backend lowers. Where given, loops with a constant count that it does not lower are
    unrolled, and other ops that it does not lower become the function bodies that ONNX defines them by.
    limits_in_integers: the backend computes a Relu or Clip that stays on integers, behind an integer op.
    """
    model = model.clone()
    if handled is not None:
        expand_unhandled(model, handled)
    fold_qdq(model)
    absorb_activations(model.graph, limits_in_integers=limits_in_integers)
    fuse_bias(model.graph)
    return model


def specialized_form(model: ir.Model, sizes: Sizes) -> ir.Model:
    """A copy of the QDQ graph for one size of each free dimension, in the form that static graphs have."""
    copy = specialized(model, sizes)
    fix_shapes(copy, open_sizes=True)
    for node in list(copy.graph):
        if node.op_type in ("Slice", "Gather"):
            _cut_stored(node)
    canonicalize(copy, exact=True)
    return copy


def _cut_stored(node: ir.Node) -> None:
    """DequantizeLinear(table) -> Slice -> y     =>     DequantizeLinear(part of the table) -> y

    Before the pass that removes a Slice which keeps everything: of a table as long as the largest size allows, say,
    positions, every size takes a part.
    """
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if before is None or before.op_type != DEQUANTIZE or node.graph is None:
        return
    table, scale = constant(before.inputs[0]), constant(before.inputs[1])
    indices = {value.name or "": constant(value) for value in node.inputs[1:] if value is not None}
    known = {name: data for name, data in indices.items() if data is not None}
    if table is None or scale is None or scale.size > 1 or len(known) < len(indices):
        return
    part = evaluate(node, {**known, before.outputs[0].name or "": table})
    if part is not None:
        stored = initializer(node.graph, f"{node.outputs[0].name}_stored", part[0])
        replace(node, DEQUANTIZE, [stored, *before.inputs[1:]])


def expand_unhandled(model: ir.Model, handled: Collection[str]) -> None:
    """Ops that a backend has no handler for become the ops that define them, in place; others stay, to be refused.

        x -> Mish -> y     =>     x -> Softplus -> Tanh -> Mul(x, .) -> y
    """
    loops = {"Loop", "Scan"}.difference(handled)
    unrolled = unroll_loops(model) if any(node.op_type in loops for node in model.graph) else 0
    kept = {*handled, QUANTIZE, DEQUANTIZE}
    unrolled += write_out_recurrent(model)
    expanded = expand(model, lambda node: node.domain == "" and node.op_type not in kept)
    if unrolled or expanded:
        fix_shapes(model, open_sizes=True)
    written = plain_numbers(model, handled)
    if unrolled or expanded or written:
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)  # folding reads initializers
        fix_shapes(model, open_sizes=True)
        canonicalize(model, exact=True)


def absorb_activations(graph: ir.Graph, *, limits_in_integers: bool = False) -> None:
    """Drop a Relu or Clip that rounding to the output grid performs anyway.

        Conv -> Relu -> y, grid of y starts at 0     =>     Conv -> y

    limits_in_integers: others get their grid on the input too. Rounding never changes an order, so that limiting may
    come before it or behind it, and Conv writes integers. Such a grid is shared, through a Concat for example.

        Conv -> Relu -> y, grid of y starts below 0     =>     Conv -> (same grid) -> Relu -> y
    """
    for node in list(graph):
        if node.op_type not in LIMITING:
            continue
        source, result = node.inputs[0], node.outputs[0]
        grid = quant(result)
        if grid is None or source is None or source.producer() is None or quant(source) is not None:
            continue
        if len(list(source.uses())) != 1 or source.is_graph_output():
            continue
        low, high = _bounds(node)
        first, last = grid.real_range()
        half = float(grid.scale) / 2  # a bound between two grid points rounds to the nearer one
        if first >= low - half and last <= high + half:
            source.meta[QUANT] = grid
            result.replace_all_uses_with(source)
            graph.remove(node, safe=True)
        elif limits_in_integers and low <= high and _computes_in_integers(source.producer()):
            source.meta[QUANT] = grid


def _computes_in_integers(node: ir.Node | None) -> bool:
    return node is not None and node.op_type in _WITH_LIMITS and node.inputs[0] is not None and (
        quant(node.inputs[0]) is not None)


def _bounds(node: ir.Node) -> tuple[float, float]:
    """The range that a Relu or Clip lets through; computed bounds let nothing be assumed."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = []
    for index, absent in ((1, -np.inf), (2, np.inf)):
        given = node.inputs[index] if len(node.inputs) > index else None
        value = constant(given)
        if given is not None and value is None:
            return np.inf, -np.inf
        bounds.append(absent if value is None else float(value))
    return bounds[0], bounds[1]


def fuse_bias(graph: ir.Graph) -> None:
    """MatMul(x, constant w [K,N]) -> Add(constant [N])     =>     edgeq::Linear(x, w, bias)."""
    for node in list(graph):
        if node.op_type != "MatMul":
            continue
        weight, product = node.inputs[1], node.outputs[0]
        if weight is None or weight.const_value is None or weight.shape is None or len(weight.shape) != 2:
            continue
        add = only_reader(product)
        if add is None or add.op_type != "Add" or quant(product):
            continue
        bias = next((value for value in add.inputs if value is not product), None)
        if bias is None or bias.const_value is None or tuple(bias.const_value.shape) != shape(weight)[1:]:
            continue
        fused = ir.node(LINEAR, [node.inputs[0], weight, bias], domain=DOMAIN, name=node.name)
        _take_over(fused.outputs[0], add.outputs[0])
        graph.insert_before(add, fused)
        add.outputs[0].replace_all_uses_with(fused.outputs[0], replace_graph_outputs=True)
        graph.remove([add, node], safe=True)


def _take_over(new: ir.Value, old: ir.Value) -> None:
    new.name, new.shape, new.type = old.name, old.shape, old.type
    if old.meta.get(QUANT) is not None:
        new.meta[QUANT] = old.meta[QUANT]
