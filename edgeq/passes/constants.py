"""Operators whose second input is a constant, as the plainer operators that they then are."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant
from edgeq.passes.rewrite import constant_like, nodes_of, replace, static


def cast_like_to_cast(model: ir.Model) -> int:
    """CastLike a value of known type becomes Cast -> how many.

        x -> CastLike(like float16) -> y     =>     x -> Cast(float16) -> y
    """
    count = 0
    for node in nodes_of(model, "CastLike"):
        like = node.inputs[1]
        if like is None or like.dtype is None:
            continue
        attributes = {} if attribute(node, "saturate", 1) else {"saturate": 0}
        replace(node, "Cast", [node.inputs[0]], to=int(like.dtype), **attributes)
        count += 1
    return count


def compress_to_gather(model: ir.Model) -> int:
    """Compress with a constant condition becomes Gather of the indices where it is true -> how many.

        x -> Compress([1,0,1], axis 0) -> y     =>     x -> Gather([0,2], axis 0) -> y

    Without an axis, the elements of the flattened tensor are selected.
    """
    count = 0
    for node in nodes_of(model, "Compress"):
        condition, data, shape = constant(node.inputs[1]), node.inputs[0], static(node.inputs[0])
        if condition is None or data is None or shape is None or node.graph is None:
            continue
        axis = attribute(node, "axis")
        if axis is None:
            flat = ir.node("Reshape", [data, constant_like(node, "flat_shape", np.asarray([-1], np.int64))])
            flat.outputs[0].name = f"{node.outputs[0].name}_flat"
            flat.outputs[0].shape, flat.outputs[0].type = ir.Shape((int(np.prod(shape)),)), data.type
            node.graph.insert_before(node, flat)
            data, axis = flat.outputs[0], 0
        indices = constant_like(node, "indices", np.flatnonzero(condition).astype(np.int64))
        replace(node, "Gather", [data, indices], axis=axis)
        count += 1
    return count
