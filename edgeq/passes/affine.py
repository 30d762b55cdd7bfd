"""Multiplication and addition of constants into the weights before them."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant, dims
from edgeq.passes.batch_norm import scale_outputs
from edgeq.passes.rewrite import bypass, nodes_of, only_reader, producer


def fold_affine(model: ir.Model) -> int:
    """Add, Sub, Mul or Div of a constant per channel (or of one number) into the Conv or Gemm before it -> how many.

        x -> Conv(w, b) -> Mul(m) -> Add(a) -> y     =>     x -> Conv(w * m, b * m + a) -> y

    The operation must alone read the Conv, and keep its shape; weights must be float constants.
    """
    return sum(_fold(node) for node in nodes_of(model, "Add", "Sub", "Mul", "Div"))


def _fold(node: ir.Node) -> bool:
    for index in (0, 1):
        data = node.inputs[index]
        before = producer(data, "Conv", "ConvTranspose", "Gemm")
        other = constant(node.inputs[1 - index]) if before is not None else None
        if before is None or other is None or not only_reader(data, node):
            continue
        if dims(data) is None or dims(data) != dims(node.outputs[0]):
            continue
        per_channel = _per_channel(other, len(dims(data) or ()))
        effect = None if per_channel is None else _effect(node.op_type, index, per_channel.astype(np.float64))
        if effect is None or not scale_outputs(before, *effect):
            continue
        bypass(node, before.outputs[0])
        return True
    return False


def _per_channel(data: NDArray[Any], rank: int) -> NDArray[Any] | None:
    """A constant that broadcasts over everything but axis 1, as [C] or [1]; else None."""
    if data.ndim > rank or data.dtype.kind != "f":
        return None
    shape = (1,) * (rank - data.ndim) + data.shape
    return data.reshape(-1) if all(size == 1 for axis, size in enumerate(shape) if axis != 1) else None


def _effect(op: str, index: int, c: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """y op c (index 0) or c op y (index 1), as factor * y + shift."""
    one, zero = np.ones(1), np.zeros(1)
    match op, index:
        case "Add", _:
            return one, c
        case "Sub", 0:
            return one, -c
        case "Sub", 1:
            return -one, c
        case "Mul", _:
            return c, zero
        case "Div", 0 if c.all():
            return 1 / c, zero
    return None
