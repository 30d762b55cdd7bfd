"""Shapes that a graph computes for its Reshapes and Expands, written as constants that hold for every size."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, constant, dims
from edgeq.passes.rewrite import constant_like, nodes_of

COPY, INFER, KEEP = 0, -1, 1  # an axis of the input, what is left over (Reshape); the input's size (Expand)


def constant_targets(model: ir.Model) -> int:
    """A computed target of Reshape or Expand that is known but for sizes of its input becomes a constant -> how many.

        x[N,T,8] -> Shape -> Gather.. -> Concat(.., 2, 4) -> Reshape(x, .)     =>     x -> Reshape([0, -1, 2, 4])

    https://onnx.ai/onnx/operators/onnx__Reshape.html, https://onnx.ai/onnx/operators/onnx__Expand.html
    """
    return sum(_replace(node) for node in nodes_of(model, "Reshape", "Expand"))


def _replace(node: ir.Node) -> bool:
    if constant(node.inputs[1]) is not None or attribute(node, "allowzero", 0):
        return False
    find = constant_target if node.op_type == "Reshape" else _expansion
    target = find(node.inputs[0], node.outputs[0])
    if target is None:
        return False
    node.replace_input_with(1, constant_like(node, "shape", target))
    return True


def constant_target(before: ir.Value | None, after: ir.Value) -> NDArray[np.int64] | None:
    """What a Reshape must be told to turn ``before`` into the shape of ``after``, or None where no constant says it."""
    given, wanted = dims(before), dims(after)
    if given is None or wanted is None:
        return None
    target = [size if isinstance(size, int) else COPY if given[axis:axis + 1] == (size,) else INFER
              for axis, size in enumerate(wanted)]
    free = any(isinstance(size, str) for size in wanted)
    if target.count(INFER) > 1 or (free and 0 in wanted):
        return None
    if target.count(INFER) == 0 and target.count(COPY) == 1 and free:
        target[target.index(COPY)] = INFER  # engines that know no 0 know this
    return np.asarray(target, np.int64)


def _expansion(before: ir.Value | None, after: ir.Value) -> NDArray[np.int64] | None:
    given, wanted = dims(before), dims(after)
    if given is None or wanted is None:
        return None
    given = (1,) * (len(wanted) - len(given)) + given
    target = [size if isinstance(size, int) else KEEP if size == own else None
              for own, size in zip(given, wanted, strict=True)]
    return None if None in target else np.asarray(target, np.int64)
