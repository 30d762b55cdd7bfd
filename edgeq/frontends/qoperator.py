"""Networks in onnxruntime's QOperator form (QLinearConv, QLinearAdd ...) -> the QDQ form, on the same grids."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant, label
from edgeq.ops import LIMITING, MOVING

_MS: Final = "com.microsoft"
_Grid = tuple[int, int, int]  # positions of a tensor, its scale and its zero point


@dataclass(frozen=True, slots=True)
class Form:
    """An operator on integers. op: the one on real numbers. data: what it reads, in the order of ``op``'s inputs.

    output: positions of scale and zero point of the result. bias: of an int32 bias on the product of the scales of the
    first two inputs, or -1. first: inputs that stay in front. drop: attributes that only say how to compute.
    """

    op: str
    data: tuple[_Grid, ...]
    output: tuple[int, int]
    bias: int = -1
    first: tuple[int, ...] = ()
    drop: tuple[str, ...] = ()


_ONE: Final = ((0, 1, 2),)
_TWO: Final = ((0, 1, 2), (3, 4, 5))
# https://onnx.ai/onnx/operators/onnx__QLinearConv.html and, for com.microsoft,
# https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
FORMS: Final[Mapping[tuple[str, str], Form]] = MappingProxyType({
    ("", "QLinearConv"): Form("Conv", _TWO, (6, 7), bias=8),
    ("", "QLinearMatMul"): Form("MatMul", _TWO, (6, 7)),
    (_MS, "QLinearAdd"): Form("Add", _TWO, (6, 7)),
    (_MS, "QLinearMul"): Form("Mul", _TWO, (6, 7)),
    (_MS, "QGemm"): Form("Gemm", _TWO, (7, 8), bias=6),
    (_MS, "QLinearLeakyRelu"): Form("LeakyRelu", _ONE, (3, 4)),
    (_MS, "QLinearSigmoid"): Form("Sigmoid", _ONE, (3, 4)),
    (_MS, "QLinearSoftmax"): Form("Softmax", _ONE, (3, 4), drop=("opset",)),
    (_MS, "QLinearAveragePool"): Form("AveragePool", _ONE, (3, 4), drop=("channels_last",)),
    (_MS, "QLinearGlobalAveragePool"): Form("GlobalAveragePool", _ONE, (3, 4), drop=("channels_last",)),
    (_MS, "QLinearWhere"): Form("Where", ((1, 2, 3), (4, 5, 6)), (7, 8), first=(0,)),
})
# Before opset 21 the standard's had 8 bits only, so onnxruntime.quantization writes its own for 4 and 16.
_OLDER: Final = frozenset({(_MS, "QuantizeLinear"), (_MS, "DequantizeLinear")})
_CONCAT: Final = (_MS, "QLinearConcat")
# Between these operators, QOperator graphs move integers as they are.
_MOVES: Final = MOVING | LIMITING | {"Resize"}


def qoperator_to_qdq(model: ir.Model) -> int:
    """Write every operator on integers as its float operator between DequantizeLinear and QuantizeLinear -> how many.

        x -> QLinearConv(xs, xz, w, ws, wz, ys, yz) -> y     =>     x -> DQ(xs, xz) -> Conv(DQ(w)) -> Q(ys, yz) -> y

    Scales and zero points are kept to the bit. Operators that move integers are put between a DequantizeLinear and a
    QuantizeLinear of the grid that their input is on. An operator in a form that QDQ cannot say (a scale of two axes,
    channels last) stays.
    """
    graph = model.graph
    for node in graph:
        if (node.domain, node.op_type) in _OLDER:
            node.domain = ""
    found = [node for node in graph if _form(node) is not None]
    if not found:
        return 0
    count = sum(_rewrite(graph, node, form) for node in found if (form := _form(node)) is not None)
    graph.sort()
    for node in list(graph):
        if node.domain == "" and node.op_type in _MOVES:
            _wrap(graph, node)
    return count


def _form(node: ir.Node) -> Form | None:
    key = (node.domain, node.op_type)
    if key != _CONCAT:
        return FORMS.get(key)
    return Form("Concat", tuple((k, k + 1, k + 2) for k in range(2, len(node.inputs), 3)), (0, 1))


def _rewrite(graph: ir.Graph, node: ir.Node, form: Form) -> bool:
    if attribute(node, "channels_last", 0) or not _is_plain_softmax(node) or not all(
            _is_sayable(node, grid, number) for number, grid in enumerate(form.data)):
        return False
    write = _Writer(graph, node)
    inputs = [node.inputs[index] for index in form.first]
    inputs += [write.dequantize(*(_input(node, k) for k in grid), axis=_axis(node, grid, number))
               for number, grid in enumerate(form.data)]
    bias = _input(node, form.bias) if form.bias >= 0 else None
    if bias is not None:
        inputs.append(write.dequantize(bias, write.bias_scale(form), None, axis=0))
    attributes = {name: given for name, given in node.attributes.items() if name not in form.drop}
    if form.op == "Gemm" and (alpha := attribute(node, "alpha", 1.0)) != 1.0:
        attributes["alpha"] = ir.AttrFloat32("alpha", alpha)
    real = write.node(form.op, inputs, list(attributes.values()))
    scale, zero_point = (_input(node, k) for k in form.output)
    old = node.outputs[0]
    last = real if scale is None else write.node("QuantizeLinear", [real, _scalar(graph, scale), _scalar(
        graph, zero_point)], [])
    last.name, last.shape = old.name, old.shape
    old.name = None
    old.replace_all_uses_with(last, replace_graph_outputs=True)
    if scale is None:
        last.type = ir.TensorType(ir.DataType.FLOAT)
    elif zero_point is not None and zero_point.dtype is not None:
        last.type = ir.TensorType(zero_point.dtype)
    graph.remove(node, safe=True)
    return True


def _is_plain_softmax(node: ir.Node) -> bool:
    """Before opset 13 a Softmax flattened its input; only over the last axis is that the same."""
    return node.op_type != "QLinearSoftmax" or attribute(node, "axis", -1) == -1 or attribute(node, "opset", 1) >= 13


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _is_sayable(node: ir.Node, grid: _Grid, number: int) -> bool:
    """One scale per tensor; or one per slice of an axis that is known."""
    scale = constant(_input(node, grid[1]))
    if scale is None or scale.size == 1:
        return scale is not None
    return scale.ndim == 1 and _axis(node, grid, number) is not None


def _axis(node: ir.Node, grid: _Grid, number: int) -> int | None:
    """The axis that scales of several values belong to: output channels; of a left factor its rows."""
    data = _input(node, grid[0])
    if node.op_type == "QLinearConv":
        return 0
    if node.op_type == "QGemm":
        return 1 - int(attribute(node, "transB", 0)) if number == 1 else None
    if node.op_type == "QLinearMatMul" and data is not None and data.shape is not None:
        return len(data.shape) - (1 if number == 1 else 2)
    return None


def _wrap(graph: ir.Graph, node: ir.Node) -> None:
    """Q -> MaxPool -> y     =>     Q -> DQ -> MaxPool -> Q -> y, all on one grid."""
    stored = node.inputs[0]
    quantize = stored.producer() if stored is not None else None
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return
    write = _Writer(graph, node)
    scale, zero_point = quantize.inputs[1], _input(quantize, 2)
    node.replace_input_with(0, write.dequantize(stored, scale, zero_point, axis=None))
    for output in node.outputs:
        readers = list(output.uses())
        again = ir.node("QuantizeLinear", [output, scale, zero_point], name=f"{label(node)}_quantize")
        graph.insert_after(node, again)
        new = again.outputs[0]
        new.name, new.shape = output.name, output.shape
        new.type = ir.TensorType(zero_point.dtype if zero_point is not None and zero_point.dtype is not None
                                 else ir.DataType.UINT8)
        output.name, output.type = f"{output.name}_real", ir.TensorType(ir.DataType.FLOAT)
        for use in readers:
            use.node.replace_input_with(use.idx, new)
        for number, value in enumerate(graph.outputs):
            if value is output:
                graph.outputs[number] = new


def _scalar(graph: ir.Graph, value: ir.Value | None) -> ir.Value | None:
    """A constant of one element without axes, as QuantizeLinear wants it; the bits are the same."""
    data = constant(value)
    if value is None or data is None or data.size != 1 or data.shape == ():
        return value
    name = f"{value.name}_scalar"
    if name not in graph.initializers:
        tensor = ir.tensor(data.reshape(()), name=name)
        graph.register_initializer(ir.Value(name=name, const_value=tensor, shape=ir.Shape(()),
                                            type=ir.TensorType(tensor.dtype)))
    return graph.initializers[name]


class _Writer:
    """Nodes in front of the one that they replace."""

    def __init__(self, graph: ir.Graph, node: ir.Node):
        self.graph, self.old, self.count = graph, node, 0

    def node(self, op: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr]) -> ir.Value:
        made = ir.Node("", op, inputs, attributes, name=f"{label(self.old)}_{self.count}")
        made.outputs[0].name = made.name
        self.count += 1
        self.graph.insert_before(self.old, made)
        return made.outputs[0]

    def dequantize(self, stored: ir.Value | None, scale: ir.Value | None, zero_point: ir.Value | None, *,
                   axis: int | None) -> ir.Value:
        data = constant(scale)
        attributes = [ir.AttrInt64("axis", axis)] if data is not None and data.size > 1 and axis is not None else []
        given = [stored, _scalar(self.graph, scale)]
        if zero_point is not None:
            given.append(_scalar(self.graph, self._as_long_as(zero_point, data)))
        real = self.node("DequantizeLinear", given, attributes)
        real.type = ir.TensorType(ir.DataType.FLOAT)
        return real

    def _as_long_as(self, zero_point: ir.Value, scale: Any) -> ir.Value:
        """A zero point for all channels, repeated for each."""
        data = constant(zero_point)
        if data is None or scale is None or data.size != 1 or scale.size == 1:
            return zero_point
        return self._constant(f"{label(self.old)}_zero_points", np.repeat(data.reshape(1), scale.size))

    def bias_scale(self, form: Form) -> ir.Value:
        """The scale of an int32 bias: the product of both scales in float32, as the kernel multiplies its sums."""
        first, second = (constant(_input(self.old, grid[1])) for grid in form.data)
        assert first is not None
        assert second is not None
        product = np.float32(attribute(self.old, "alpha", 1.0)) * first.reshape(-1) * second.reshape(-1)
        return self._constant(f"{label(self.old)}_bias_scale", product.astype(np.float32))

    def _constant(self, name: str, data: Any) -> ir.Value:
        tensor = ir.tensor(data, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype))
        self.graph.register_initializer(value)
        return value
