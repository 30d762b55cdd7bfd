"""LayerNormalization that an exporter wrote out in elementary operations."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, constant, consumers, dims, only_reader
from edgeq.passes.rewrite import (
    constant_like,
    is_number,
    nodes_of,
    producer,
    replace,
    same_shape,
    with_scalar,
)


def recognize_layer_norm(model: ir.Model) -> int:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias over the last axes -> LayerNormalization.

        x -> ReduceMean -> Sub(x, .) = d -> Pow(2) -> ReduceMean -> Add(eps) -> Sqrt -> Div(d, .) -> Mul(s) -> Add(b)
        =>  x -> LayerNormalization(s, b) -> y

    scale and bias are optional, and taken when they are constants that span exactly the normalized axes.
    -> how many.
    """
    return sum(_recognize(node) for node in nodes_of(model, "Sqrt"))


def _recognize(root: ir.Node) -> bool:
    total = with_scalar(root.inputs[0], "Add")
    centred = None if total is None else _squared(_mean_input(total[0]))
    if total is None or centred is None:
        return False
    variance, epsilon = total
    x, axes = _centred(centred), _axes(producer(variance, "ReduceMean"))
    if x is None or axes is None or axes != _axes(_mean_of(centred)):
        return False
    shape = dims(x)
    if shape is None or axes != tuple(range(axes[0], len(shape))):
        return False
    last = _division(root.outputs[0], centred, x)
    if last is None or not same_shape(last.outputs[0], x):
        return False
    normalized = tuple(size for size in shape[axes[0]:] if isinstance(size, int))
    if len(normalized) != len(axes):
        return False  # its scale would be as large as a run makes it
    last, scale = _then(last, "Mul", normalized)
    last, bias = _then(last, "Add", normalized)
    dtype = np.float32 if x.dtype is None else x.dtype.numpy()
    gain = np.ones(normalized, dtype) if scale is None else scale
    inputs = [x, constant_like(last, "scale", gain)]
    if bias is not None:
        inputs.append(constant_like(last, "bias", bias))
    replace(last, "LayerNormalization", inputs, axis=axes[0], epsilon=epsilon)
    return True


def _mean_input(value: ir.Value) -> ir.Value | None:
    mean = producer(value, "ReduceMean")
    return None if mean is None else mean.inputs[0]


def _squared(value: ir.Value | None) -> ir.Value | None:
    """d of d^2."""
    node = producer(value, "Pow", "Mul")
    if node is None:
        return None
    square = is_number(node.inputs[1], 2) if node.op_type == "Pow" else node.inputs[0] is node.inputs[1]
    return node.inputs[0] if square else None


def _centred(value: ir.Value | None) -> ir.Value | None:
    """x of x - mean(x)."""
    minus = producer(value, "Sub")
    if minus is None or _mean_of(value) is None:
        return None
    return minus.inputs[0]


def _mean_of(value: ir.Value | None) -> ir.Node | None:
    """The ReduceMean of x in x - mean(x)."""
    minus = producer(value, "Sub")
    mean = None if minus is None else producer(minus.inputs[1], "ReduceMean")
    return mean if minus is not None and mean is not None and mean.inputs[0] is minus.inputs[0] else None


def _axes(mean: ir.Node | None) -> tuple[int, ...] | None:
    """The reduced axes, counted from the front; None where they are not constant or not kept."""
    shape = None if mean is None else dims(mean.inputs[0])
    axes = constant(mean.inputs[1]) if mean is not None and len(mean.inputs) > 1 else None
    if mean is None or shape is None or axes is None or not axes.size or not attribute(mean, "keepdims", 1):
        return None
    return tuple(sorted(int(axis) % len(shape) for axis in axes.reshape(-1)))


def _division(deviation: ir.Value, centred: ir.Value, x: ir.Value) -> ir.Node | None:
    """d / sqrt(..), also where d was computed twice, and d * (1 / sqrt(..))."""
    def is_centred(value: ir.Value | None) -> bool:
        return value is centred or (_centred(value) is x and _axes(_mean_of(value)) == _axes(_mean_of(centred)))

    for node in consumers(deviation):
        if node.op_type == "Div" and node.inputs[1] is deviation:
            if is_centred(node.inputs[0]):
                return node
            if not is_number(node.inputs[0], 1):
                continue
        elif node.op_type != "Reciprocal":
            continue
        for product in consumers(node.outputs[0]):
            if product.op_type == "Mul" and any(is_centred(value) for value in product.inputs):
                return product
    return None


def _then(node: ir.Node, op: str, shape: tuple[int, ...]) -> tuple[ir.Node, NDArray[Any] | None]:
    """Go one node on, where it alone reads this one and combines it with a constant of ``shape``."""
    after = only_reader(node.outputs[0])
    if after is None or after.op_type != op:
        return node, None
    for value in after.inputs:
        data = constant(value)
        spans = data is not None and data.size == math.prod(shape) and data.shape[-len(shape):] == shape
        if data is not None and spans and same_shape(after.outputs[0], node.outputs[0]):
            return after, data.reshape(shape)
    return node, None
