"""Integers that are no values on a grid: models with integer inputs and outputs, and ops that multiply integers.

fold_qdq turns QuantizeLinear -> DequantizeLinear into grids. What is left over, at the edges of the graph or around
the ops of the QOperator form, is written out as the arithmetic that ONNX defines it by: the same lowering serves it.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import attribute, constant, initializer, label, shape
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE

EXACT: Final = 2**24  # float32 holds every integer up to here


def write_out_integers(model: ir.Model) -> ir.Model:
    """A copy in which every QuantizeLinear and DequantizeLinear is one of a pair or reads a constant.

        int8 x -> DQ -> y        =>      x -> Cast -> Sub(zero point) -> Mul(scale) -> Q -> DQ -> y
        x -> Q -> int8 y         =>      x -> Q -> DQ -> Div(scale) -> Round -> Add(zero point) -> Clip -> Cast -> y
        QLinearMatMul(a, b)      =>      DQ(a), DQ(b) -> MatMul -> Q
        ConvInteger(x, w)        =>      Conv(x - zero point, w - zero point) in float, as long as that is exact

    Raises:
        UnsupportedModel: sums that float32 does not hold, or scales that are computed.
    """
    if not any(node.op_type in (QUANTIZE, DEQUANTIZE, *REWRITES) for node in model.graph):
        return model
    model = model.clone()
    problems = []
    for rewrite in (REWRITES, {QUANTIZE: _quantize, DEQUANTIZE: _dequantize}):
        for node in list(model.graph):
            if node.op_type not in rewrite or node.graph is None:
                continue
            try:
                rewrite[node.op_type](_Edit(model.graph, node))
            except ValueError as error:
                problems.append(Problem(label(node), node.op_type, str(error)))
    if problems:
        raise UnsupportedModel("tflite", problems)
    return model


class _Edit:
    """Nodes written in front of one node, which then goes."""

    def __init__(self, graph: ir.Graph, node: ir.Node):
        self.graph, self.node, self.count = graph, node, 0

    def add(self, op_type: str, *inputs: ir.Value | None, dtype: ir.DataType, dims: tuple[int, ...],
            **attributes: Any) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes, name=f"{label(self.node)}_{op_type}_{self.count}")
        self.count += 1
        made = node.outputs[0]
        made.name, made.shape, made.type = f"{node.name}_out", ir.Shape(dims), ir.TensorType(dtype)
        self.graph.insert_before(self.node, node)
        return made

    def real(self, op_type: str, *inputs: ir.Value | None, dims: tuple[int, ...], **attributes: Any) -> ir.Value:
        return self.add(op_type, *inputs, dtype=ir.DataType.FLOAT, dims=dims, **attributes)

    def constant(self, data: NDArray[Any]) -> ir.Value:
        return initializer(self.graph, f"{label(self.node)}_constant", data)

    def number(self, index: int, what: str, default: Any = None) -> NDArray[Any]:
        """A constant input of the node.

        Raises:
            ValueError: it is computed.
        """
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        data = constant(value)
        if data is None:
            if value is not None:
                raise ValueError(f"its {what} is not a constant")
            return np.asarray(default)
        return data

    def replace(self, *results: ir.Value) -> None:
        for old, result in zip(self.node.outputs, results, strict=True):
            result.name, result.shape, result.type = old.name, old.shape, old.type
            old.name = f"{old.name}_before"
            old.replace_all_uses_with(result, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)


def _spread(numbers: NDArray[Any], node: ir.Node, dims: tuple[int, ...]) -> NDArray[np.float32]:
    """Scales or zero points, so that they broadcast over `dims`."""
    numbers = numbers.astype(np.float32)
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
    if numbers.size == 1 and numbers.ndim < 2:
        return numbers.reshape(())
    if block:
        return np.asarray(np.repeat(numbers, block, axis=axis).take(range(dims[axis]), axis=axis), np.float32)
    wide = [1] * len(dims)
    wide[axis] = -1
    return numbers.reshape(wide)


def _grid_again(edit: _Edit, real: ir.Value) -> ir.Value:
    """The value behind a pair on the node's grid, where that is one for 8-bit kernels."""
    stored = edit.node.inputs[0] if edit.node.op_type == DEQUANTIZE else edit.node.outputs[0]
    scale = edit.node.inputs[1]
    eight = stored is not None and stored.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    if not eight or scale is None or edit.number(1, "scale").size != 1 or edit.number(1, "scale").dtype != np.float32:
        return real
    dims = shape(real)
    pair = [*edit.node.inputs[1:3]]
    assert stored is not None
    assert stored.dtype is not None
    if edit.number(2, "zero point", 0).ndim == 0 and len(pair) < 2:
        pair.append(edit.constant(np.zeros((), stored.dtype.numpy())))
    integers = edit.add(QUANTIZE, real, *pair, dtype=stored.dtype, dims=dims)
    return edit.real(DEQUANTIZE, integers, *pair, dims=dims)


def _dequantize(edit: _Edit) -> None:
    stored = edit.node.inputs[0]
    assert stored is not None
    producer = stored.producer()
    if constant(stored) is not None or (producer is not None and producer.op_type == QUANTIZE):
        return
    dims = shape(stored)
    scale = _spread(edit.number(1, "scale"), edit.node, dims)
    zero_point = _spread(edit.number(2, "zero point", 0), edit.node, dims)
    real = edit.real("Cast", stored, dims=dims, to=ir.DataType.FLOAT)
    if np.any(zero_point):
        real = edit.real("Sub", real, edit.constant(zero_point), dims=dims)
    real = _grid_again(edit, edit.real("Mul", real, edit.constant(scale), dims=dims))
    wanted = edit.node.outputs[0].dtype
    if wanted not in (None, ir.DataType.FLOAT):
        assert wanted is not None
        real = edit.add("Cast", real, dtype=wanted, dims=dims, to=wanted)
    edit.replace(real)


def _quantize(edit: _Edit) -> None:
    real, stored = edit.node.inputs[0], edit.node.outputs[0]
    assert real is not None
    assert stored.dtype is not None
    readers = [use.node for use in stored.uses()]
    if readers and not stored.is_graph_output() and all(reader.op_type == DEQUANTIZE for reader in readers):
        return
    dims = shape(real)
    scale = _spread(edit.number(1, "scale"), edit.node, dims)
    zero_point = _spread(edit.number(2, "zero point", 0), edit.node, dims)
    if real.dtype != ir.DataType.FLOAT:
        real = edit.real("Cast", real, dims=dims, to=ir.DataType.FLOAT)
    real = edit.real("Div", _grid_again(edit, real), edit.constant(scale), dims=dims)
    if stored.dtype.is_integer():
        limits = ml_dtypes.iinfo(stored.dtype.numpy())
        real = edit.real("Round", real, dims=dims)
        if np.any(zero_point):
            real = edit.real("Add", real, edit.constant(zero_point), dims=dims)
        bounds = [edit.constant(np.array(int(bound), np.float32)) for bound in (limits.min, limits.max)]
        real = edit.real("Clip", real, *bounds, dims=dims)
    saturate = attribute(edit.node, "saturate", 1)
    edit.replace(edit.add("Cast", real, dtype=stored.dtype, dims=dims, to=stored.dtype, saturate=saturate))


def _operand(edit: _Edit, first: int, axis: int | None) -> ir.Value:
    """DequantizeLinear of the node's inputs first, first + 1 and first + 2: integers, scale, zero point."""
    stored = edit.node.inputs[first]
    assert stored is not None
    scale = edit.number(first + 1, "scale").astype(np.float32)
    zero_point = edit.number(first + 2, "zero point")
    one = scale.size == 1
    inputs = [edit.constant(part.reshape(()) if one else part.ravel()) for part in (scale, zero_point)]
    attributes = {} if one or axis is None else {"axis": axis}
    return edit.real(DEQUANTIZE, stored, *inputs, dims=shape(stored), **attributes)


def _requantized(edit: _Edit, real: ir.Value, scale: int) -> None:
    numbers = [edit.constant(edit.number(scale, "scale").astype(np.float32).reshape(())),
               edit.constant(edit.number(scale + 1, "zero point").reshape(()))]
    dtype = edit.node.outputs[0].dtype
    assert dtype is not None
    edit.replace(edit.add(QUANTIZE, real, *numbers, dtype=dtype, dims=shape(real)))


def _qlinear_matmul(edit: _Edit) -> None:
    a, right = _operand(edit, 0, 0), _operand(edit, 3, 1)
    _requantized(edit, edit.real("MatMul", a, right, dims=shape(edit.node.outputs[0])), 6)


def _qlinear_conv(edit: _Edit) -> None:
    inputs = [_operand(edit, 0, None), _operand(edit, 3, 0)]
    if len(edit.node.inputs) > 8 and edit.node.inputs[8] is not None:
        product = edit.number(1, "scale").astype(np.float32) * edit.number(4, "scale").astype(np.float32)
        grid = edit.constant(product.reshape(()) if product.size == 1 else product.ravel())
        attributes = {} if product.size == 1 else {"axis": 0}
        bias = edit.node.inputs[8]
        inputs.append(edit.real(DEQUANTIZE, bias, grid, dims=shape(bias), **attributes))
    attributes = {name: attr.value for name, attr in edit.node.attributes.items()}
    _requantized(edit, edit.real("Conv", *inputs, dims=shape(edit.node.outputs[0]), **attributes), 6)


def _integer_product(edit: _Edit) -> None:
    """MatMulInteger, ConvInteger: int32 sums of products, in float where every sum is exact."""
    is_conv = edit.node.op_type == "ConvInteger"
    x, w = edit.node.inputs[:2]
    assert x is not None
    assert w is not None
    assert x.dtype is not None
    zeros = [_zero_point(edit, index, is_conv) for index in (2, 3)]
    reach = [_reach(value, zero) for value, zero in zip((x, w), zeros, strict=True)]
    terms = int(np.prod(shape(w)[1:])) if is_conv else shape(x)[-1]
    if terms * reach[0] * reach[1] > EXACT:
        raise ValueError(f"sums of {terms} products of integers may leave the {EXACT} that float32 counts to")
    factors = []
    for value, zero in zip((x, w), zeros, strict=True):
        data = constant(value)
        if data is not None and isinstance(zero, np.ndarray):
            factors.append(edit.constant(data.astype(np.float32) - zero))
            continue
        real = edit.real("Cast", value, dims=shape(value), to=ir.DataType.FLOAT)
        offset = edit.constant(zero) if isinstance(zero, np.ndarray) else zero
        factors.append(edit.real("Sub", real, offset, dims=shape(value)))
    attributes = {name: attr.value for name, attr in edit.node.attributes.items()}
    dims = shape(edit.node.outputs[0])
    made = edit.real("Conv" if is_conv else "MatMul", *factors, dims=dims, **attributes)
    edit.replace(edit.add("Cast", made, dtype=ir.DataType.INT32, dims=dims, to=ir.DataType.INT32))


def _zero_point(edit: _Edit, index: int, is_conv: bool) -> NDArray[np.float32] | ir.Value:
    """Ready to be subtracted: one number, one per row of a left matrix, per column of a right one, or per filter."""
    value = edit.node.inputs[index] if index < len(edit.node.inputs) else None
    if value is not None and constant(value) is None:
        if np.prod(shape(value)) != 1:
            raise ValueError("it has several computed zero points")
        return edit.real("Cast", value, dims=shape(value), to=ir.DataType.FLOAT)
    numbers = edit.number(index, "zero point", 0).astype(np.float32)
    if numbers.size == 1:
        return numbers.reshape(())
    if is_conv:
        return numbers.reshape(-1, *[1] * (len(shape(edit.node.inputs[1])) - 1))  # type: ignore[arg-type]
    return numbers[:, None] if index == 2 and numbers.ndim == 1 else numbers


def _reach(value: ir.Value, zero: NDArray[np.float32] | ir.Value) -> float:
    """The largest magnitude of value - zero."""
    data = constant(value)
    if data is not None and isinstance(zero, np.ndarray):
        return float(np.abs(data.astype(np.float32) - zero).max(initial=0))
    assert value.dtype is not None
    limits = np.iinfo(value.dtype.numpy())
    if not isinstance(zero, np.ndarray):
        return float(limits.max) - float(limits.min)
    return float(max(limits.max - zero.min(), zero.max() - limits.min))


def _dynamic(edit: _Edit) -> None:
    """uint8 on the grid from min(x, 0) to max(x, 0)."""
    x, one = edit.node.inputs[0], (1,)
    assert x is not None
    zero, top = (edit.constant(np.array([bound], np.float32)) for bound in (0, 255))
    flat = edit.real("Reshape", x, edit.constant(np.array([-1])), dims=(int(np.prod(shape(x))),))
    low = edit.real("Min", edit.real("ReduceMin", flat, dims=one), zero, dims=one)
    high = edit.real("Max", edit.real("ReduceMax", flat, dims=one), zero, dims=one)
    scale = edit.real("Div", edit.real("Sub", high, low, dims=one), top, dims=one)
    offset = edit.real("Div", edit.real("Neg", low, dims=one), scale, dims=one)
    bounds = [edit.constant(np.array(bound, np.float32)) for bound in (0, 255)]
    offset = edit.real("Round", edit.real("Clip", offset, *bounds, dims=one), dims=one)
    steps = edit.real("Round", edit.real("Div", x, scale, dims=shape(x)), dims=shape(x))
    inside = edit.real("Clip", edit.real("Add", steps, offset, dims=shape(x)), *bounds, dims=shape(x))
    kind, scalar = ir.DataType.UINT8, edit.constant(np.zeros(0, np.int64))
    edit.replace(edit.add("Cast", inside, dtype=kind, dims=shape(x), to=kind),
                 edit.real("Reshape", scale, scalar, dims=()),
                 edit.add("Cast", edit.real("Reshape", offset, scalar, dims=()), dtype=kind, dims=(), to=kind))


REWRITES: Final[dict[str, Callable[[_Edit], None]]] = {
    "QLinearMatMul": _qlinear_matmul, "QLinearConv": _qlinear_conv, "MatMulInteger": _integer_product,
    "ConvInteger": _integer_product, "DynamicQuantizeLinear": _dynamic,
}
