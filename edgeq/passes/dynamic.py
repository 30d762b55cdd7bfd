"""Networks whose activations find their grid at run time, as onnxruntime's quantize_dynamic writes them."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant, initializer, label, only_reader
from edgeq.passes.shapes import fix_shapes

DYNAMIC: Final = "DynamicQuantizeLinear"
# https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM
LSTM: Final = "DynamicQuantizeLSTM"
# Product of integers -> (the one of reals, the axis of the weights that a scale per channel belongs to).
PRODUCTS: Final = {"MatMulInteger": ("MatMul", -1), "ConvInteger": ("Conv", 0)}


@dataclass(frozen=True, slots=True)
class _Product:
    """x -> DynamicQuantizeLinear -> node -> Cast -> last, which multiplies by both scales."""

    node: ir.Node
    last: ir.Node
    x: ir.Value
    scale: NDArray[Any]


def is_dynamic(graph: ir.Graph) -> bool:
    return any(node.op_type in (DYNAMIC, LSTM) for node in graph)


def without_dynamic_rounding(model: ir.Model) -> ir.Model:
    """A copy in which activations stay real and weights keep integers and scales; the model itself where it is not
    dynamic. For engines without such kernels, and as the float counterpart of the network.

        x -> DynamicQuantizeLinear -> q, s, z
        MatMulInteger(q, w, z, wz) -> Cast -> Mul(s * ws) -> y     =>     MatMul(x, DQ(w, ws, wz)) -> y
        DynamicQuantizeLSTM(x, w, r, ..)                           =>     LSTM(x, DQ(w), DQ(r), ..)

    What has another form stays.
    """
    if not is_dynamic(model.graph):
        return model
    model = model.clone()
    for node in list(model.graph):
        found = _product(node)
        if found is not None:
            _write(model.graph, found)
        if node.op_type == LSTM:
            _write_lstm(model.graph, node)
    _remove_unread(model.graph)
    fix_shapes(model, open_sizes=True)  # which nobody infers behind operators of another domain
    return model


def _product(node: ir.Node) -> _Product | None:
    quantize = _maker(node.inputs[0], DYNAMIC) if node.op_type in PRODUCTS else None
    weights = constant(node.inputs[1]) if quantize is not None else None
    if quantize is None or weights is None or len(node.inputs) < 3 or node.inputs[2] is not quantize.outputs[2]:
        return None
    cast = only_reader(node.outputs[0])
    last = only_reader(cast.outputs[0]) if cast is not None and cast.op_type == "Cast" else None
    if cast is None or last is None or last.op_type != "Mul":
        return None
    factor = next(value for value in (*last.inputs, None) if value is not cast.outputs[0])
    both = _maker(factor, "Mul")
    scales = [constant(value) for value in both.inputs if value is not quantize.outputs[1]] if both else []
    if len(scales) != 1 or scales[0] is None or quantize.inputs[0] is None:
        return None
    return _Product(node, last, quantize.inputs[0], scales[0])


def _maker(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op else None


def _write(graph: ir.Graph, found: _Product) -> None:
    node, stored = found.node, found.node.inputs[1]
    assert stored is not None
    op, axis = PRODUCTS[node.op_type]
    zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    real = _dequantized(graph, node, stored, found.scale, zero, axis)
    product = ir.node(op, [found.x, real], dict(node.attributes), name=label(node))
    _put(graph, found.last, product)


def _write_lstm(graph: ir.Graph, node: ir.Node) -> None:
    """W and R come as [directions, inputs, 4 * hidden], with a scale for each direction or each row of the gates."""
    given = dict(zip(range(12), (*node.inputs, *[None] * 12), strict=False))
    reals = []
    for weight, scale, zero in ((1, 8, 9), (2, 10, 11)):
        stored, scales, zeros = (constant(given[k]) for k in (weight, scale, zero))
        if stored is None or scales is None or (scales.ndim > 1 and stored.shape[0] > 1):
            return
        transposed = initializer(graph, f"{label(node)}_{weight}", np.ascontiguousarray(stored.transpose(0, 2, 1)))
        reals.append(_dequantized(graph, node, transposed, scales, zeros, scales.ndim - 1))
    lstm = ir.node("LSTM", [given[0], *reals, *(given[k] for k in range(3, 8))], dict(node.attributes),
                   num_outputs=len(node.outputs), name=label(node))
    _put(graph, node, lstm)


def _dequantized(graph: ir.Graph, node: ir.Node, stored: ir.Value, scale: NDArray[Any], zero: NDArray[Any] | None,
                 axis: int) -> ir.Value:
    """DequantizeLinear of constant integers in front of a node."""
    assert stored.shape is not None
    assert stored.dtype is not None
    name, shape = f"{stored.name}_{label(node)}", (scale.size,) if scale.size > 1 else ()
    zeros = np.zeros(shape, stored.dtype.numpy()) if zero is None else np.broadcast_to(
        zero.reshape(-1) if shape else zero.reshape(()), shape).copy()
    grid = [initializer(graph, f"{name}_scale", scale.reshape(shape).astype(np.float32)),
            initializer(graph, f"{name}_zero_point", zeros)]
    made = ir.node("DequantizeLinear", [stored, *grid], {"axis": axis % len(stored.shape)}, name=f"{name}_dequantize")
    real = made.outputs[0]
    real.name, real.shape, real.type = f"{name}_real", stored.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, made)
    return real


def _put(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """One node in the place of another, whose outputs it makes."""
    for made, value in zip(new.outputs, old.outputs, strict=True):
        made.name, made.shape, made.type = value.name, value.shape, value.type
        value.name = None
        value.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.insert_before(old, new)
    graph.remove(old, safe=True)


def _remove_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
