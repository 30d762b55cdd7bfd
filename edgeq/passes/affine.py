"""Sums as Adds, and multiplication and addition of constants into the weights before them."""
from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant, dims, label, only_reader
from edgeq.passes.batch_norm import scale_outputs
from edgeq.passes.rewrite import bypass, nodes_of, producer, replace


def sum_to_adds(model: ir.Model) -> int:
    """A Sum becomes Adds, which engines have integer kernels for -> how many. They add in the same order.

        Sum(a, b, c) -> y     =>     Add(Add(a, b), c) -> y
    """
    return sum(_add_up(node) for node in nodes_of(model, "Sum"))


def _add_up(node: ir.Node) -> bool:
    """The first two inputs; the next round takes the rest."""
    first, second, *rest = (*node.inputs, None) if len(node.inputs) < 2 else node.inputs
    if first is None or second is None:
        return False
    if not rest:
        replace(node, "Add", [first, second])
        return True
    both = _broadcast(first, second)
    if both is None or node.graph is None:
        return False
    add = ir.node("Add", [first, second], name=f"{label(node)}_{len(rest)}_left")
    value = add.outputs[0]
    value.name, value.shape, value.type = add.name, both, first.type
    node.graph.insert_before(node, add)
    replace(node, "Sum", [value, *rest])
    return True


def _broadcast(a: ir.Value, b: ir.Value) -> ir.Shape | None:
    """The shape of a + b, where what is known of their dimensions says it."""
    if dims(a) is None or dims(b) is None:
        return None
    backwards = zip_longest(reversed(dims(a) or ()), reversed(dims(b) or ()), fillvalue=1)
    sizes = [{*pair} - {1} or {1} for pair in backwards]
    return None if any(len(size) > 1 for size in sizes) else ir.Shape([size.pop() for size in sizes[::-1]])


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
        if before is None or other is None or only_reader(data) is not node:
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
