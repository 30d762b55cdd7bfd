"""Between the standard QDQ graph and the folded graph that the backends lower."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import QUANT, attribute, constant, initializer, is_constant, label, quant
from edgeq.scheme import Granularity, PerBlock, PerChannel, PerTensor, QuantParams, QuantType

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def fold_qdq(model: ir.Model) -> None:
    """Move QuantizeLinear and DequantizeLinear onto the values they describe, in place.

        x -> Q -> DQ -> Conv -> Q -> DQ -> y         x -> Identity -> x' -> Conv -> c -> Identity -> y
                        ^ DQ(int8 weight)       =>       meta(x') = grid, meta(c) = grid, meta(int8 weight) = params

    Afterwards no Q or DQ node is left. `edgeq.graph.quant(value)` tells the grid of a value: a computed value with a
    grid is rounded to it; an initializer with a grid holds its integers. Graph inputs and outputs never carry a grid,
    and an Identity whose two sides have different grids is the conversion between them (quantize, dequantize or
    requantize).

    Raises:
        UnsupportedModel: a scale or zero point is computed, or integers leave the graph; lists every such node.
    """
    graph = model.graph
    problems: list[Problem] = []
    for node in list(graph):
        if node.op_type not in (QUANTIZE, DEQUANTIZE) or node.graph is None:  # gone with its QuantizeLinear
            continue
        params = grid_of(node)
        if params is None:
            problems.append(Problem(label(node), node.op_type, "its scale or zero point is not a constant"))
        elif node.op_type == QUANTIZE:
            problems += _fold_quantize(graph, node, params)
        elif is_constant(node.inputs[0]):
            _fold_constant(graph, node, params)
        else:
            problems.append(Problem(label(node), node.op_type, "its integers do not come from a QuantizeLinear"))
    if problems:
        raise UnsupportedModel("any backend", problems)


def without_rounding(model: ir.Model, *, where: Callable[[QuantParams], bool] = lambda grid: True) -> ir.Model:
    """A copy of a QDQ model that clips activations to their grids but does not round them: its float counterpart.

    where: which grids are meant; the model itself where there are none.

        x -> Q -> DQ -> y      =>      x -> Clip(lowest, highest of the grid) -> y

    The clip stays because many quantizers leave it to the grid to be the Relu.
    """
    if not any(_rounds(node, where) for node in model.graph):
        return model
    model = model.clone()
    graph = model.graph
    for node in [node for node in graph if _rounds(node, where)]:
        rounding, params = node.inputs[0].producer(), grid_of(node)  # type: ignore[union-attr]
        assert rounding is not None
        assert params is not None
        bounds = [initializer(graph, f"{label(node)}_{end}", np.array(bound, np.float32))
                  for end, bound in zip(("low", "high"), params.real_range(), strict=True)]
        clip = ir.node("Clip", [rounding.inputs[0], *bounds], name=f"{label(node)}_clip")
        result, old = clip.outputs[0], node.outputs[0]
        result.name, result.shape, result.type = old.name, old.shape, old.type
        graph.insert_before(node, clip)
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    return model


def _rounds(node: ir.Node, where: Callable[[QuantParams], bool]) -> bool:
    """A DequantizeLinear of what a QuantizeLinear wrote, with one scale for all."""
    stored = node.inputs[0] if node.op_type == DEQUANTIZE else None
    rounding = stored.producer() if stored is not None else None
    if rounding is None or rounding.op_type != QUANTIZE:
        return False
    params = grid_of(node)
    return params is not None and not params.scale.ndim and where(params)


def _fold_quantize(graph: ir.Graph, node: ir.Node, params: QuantParams) -> list[Problem]:
    """x -> Q -> DQ*: every DQ reads x, on the grid of Q -> what prevents that."""
    real, stored = node.inputs[0], node.outputs[0]
    assert real is not None
    readers = [use.node for use in stored.uses()]
    if stored.is_graph_output() or any(reader.op_type != DEQUANTIZE for reader in readers):
        return [Problem(label(node), node.op_type, "its integers are used without a DequantizeLinear",
                        "export in QDQ format, with float inputs and outputs")]
    other = [reader for reader in readers if not params.same_grid(grid_of(reader))]
    if other:
        return [Problem(label(reader), DEQUANTIZE, f"reads the integers of '{label(node)}' on another grid")
                for reader in other]
    on_grid = _on_grid(graph, node, real, params)
    for reader in readers:
        _replace(graph, reader, on_grid)
    graph.remove(node, safe=True)
    return []


def _on_grid(graph: ir.Graph, node: ir.Node, real: ir.Value, params: QuantParams) -> ir.Value:
    """A value that equals `real` rounded to the grid: itself where nobody needs it unrounded, else an Identity of
    it.
    """
    if params.same_grid(quant(real)):
        return real
    free = real.producer() is not None and not real.is_graph_output() and quant(real) is None
    if free and all(_rounds_to(use.node, params) for use in real.uses()):
        real.meta[QUANT] = params
        return real
    copy = ir.node("Identity", [real], name=f"{label(node)}_convert")
    copy.outputs[0].name = f"{node.outputs[0].name}_on_grid"
    copy.outputs[0].shape, copy.outputs[0].type = real.shape, real.type
    copy.outputs[0].meta[QUANT] = params
    graph.insert_before(node, copy)
    return copy.outputs[0]


def _rounds_to(node: ir.Node, params: QuantParams) -> bool:
    return node.op_type == QUANTIZE and params.same_grid(grid_of(node))


def _fold_constant(graph: ir.Graph, node: ir.Node, params: QuantParams) -> None:
    stored = node.inputs[0]
    assert stored is not None
    if stored.meta.get(QUANT) is not None and not params.same_grid(quant(stored)):  # one tensor read with two scales
        assert stored.const_value is not None
        stored = ir.Value(name=f"{stored.name}_{label(node)}", const_value=stored.const_value, shape=stored.shape,
                          type=stored.type)
        graph.register_initializer(stored)
    stored.meta[QUANT] = params
    _replace(graph, node, stored)


def _replace(graph: ir.Graph, dequantize: ir.Node, on_grid: ir.Value) -> None:
    """Let the readers of a DQ read the value that carries the grid; a graph output becomes an Identity of it."""
    real = dequantize.outputs[0]
    if real.is_graph_output():
        copy = ir.node("Identity", [on_grid], name=f"{label(dequantize)}_convert")
        output = copy.outputs[0]
        output.name, output.shape, output.type = real.name, real.shape, real.type
        graph.insert_before(dequantize, copy)
        real.replace_all_uses_with(output, replace_graph_outputs=True)
        for use in list(output.uses()):
            use.node.replace_input_with(use.idx, on_grid)
    else:
        real.replace_all_uses_with(on_grid)
    graph.remove(dequantize, safe=True)


def grid_of(node: ir.Node) -> QuantParams | None:
    """The grid of a QuantizeLinear or DequantizeLinear, or None where it is computed at run time."""
    scale = constant(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero_point = constant(given)
    if scale is None or (given is not None and zero_point is None):
        return None
    stored = stored_dtype(node)
    signed = stored.is_signed()
    data = node.inputs[0]
    axis = int(attribute(node, "axis", 1))
    if data is not None and data.shape is not None and axis < 0:
        axis += len(data.shape)
    granularity = _granularity(scale, axis, int(attribute(node, "block_size", 0)))
    if isinstance(granularity, PerTensor):
        scale = scale.reshape(())
    zeros = np.zeros(scale.shape, np.int32) if zero_point is None else zero_point.astype(np.int32).reshape(scale.shape)
    symmetric = signed and not zeros.any()
    kind = QuantType(stored.bitwidth, signed, symmetric, granularity)
    return QuantParams(kind, scale.astype(np.float32), zeros)


def _granularity(scale: np.ndarray[Any, Any], axis: int, block_size: int) -> Granularity:
    if scale.size == 1:
        return PerTensor()
    return PerBlock(block_size, axis) if block_size else PerChannel(axis)


def stored_dtype(node: ir.Node) -> ir.DataType:
    """The integer type that a Q node writes or a DQ node reads."""
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].dtype is not None:
        return node.inputs[2].dtype
    if node.op_type == DEQUANTIZE and node.inputs[0] is not None and node.inputs[0].dtype is not None:
        return node.inputs[0].dtype
    return ir.DataType(int(attribute(node, "output_dtype", 0) or ir.DataType.UINT8))
