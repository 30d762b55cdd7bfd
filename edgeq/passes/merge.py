"""Chains of data movement and of bounds become one node each."""
from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, dims, only_reader
from edgeq.ops import LIMITING, RESHAPING
from edgeq.passes.reshape_targets import constant_target
from edgeq.passes.rewrite import constant_like, nodes_of, producer, replace, scalar


def merge_reshapes(model: ir.Model) -> int:
    """Two nodes that only regroup elements become one Reshape -> how many pairs.

        x -> Unsqueeze -> Reshape(2,3,4) -> y     =>     x -> Reshape(2,3,4) -> y
    """
    count = 0
    for node in nodes_of(model, *RESHAPING):
        before = producer(node.inputs[0], *RESHAPING)
        if before is None or only_reader(before.outputs[0]) is not node:
            continue
        target = constant_target(before.inputs[0], node.outputs[0])
        if target is None:
            continue
        empty = 0 in (dims(node.outputs[0]) or ())
        replace(node, "Reshape", [before.inputs[0], constant_like(node, "shape", target)],
                **({"allowzero": 1} if empty else {}))
        count += 1
    return count


def merge_transposes(model: ir.Model) -> int:
    """Two Transposes become one -> how many pairs.

        x -> Transpose(0,2,1) -> Transpose(1,0,2) -> y     =>     x -> Transpose(2,0,1) -> y
    """
    count = 0
    for node in nodes_of(model, "Transpose"):
        before = producer(node.inputs[0], "Transpose")
        if before is None or dims(before.inputs[0]) is None or only_reader(before.outputs[0]) is not node:
            continue
        first, second = _order(before), _order(node)
        replace(node, "Transpose", [before.inputs[0]], perm=[first[axis] for axis in second])
        count += 1
    return count


def _order(node: ir.Node) -> list[int]:
    given = attribute(node, "perm")
    return list(given) if given is not None else list(range(len(dims(node.inputs[0]) or ())))[::-1]


def merge_bounds(model: ir.Model) -> int:
    """Min and Max with a number become Clip, and a Clip, Relu, Min or Max after another becomes one Clip -> how many.

        x -> Relu -> Min(6) -> y     =>     x -> Clip(0, 6) -> y

    A lone Relu stays a Relu. Float data only.
    """
    count = 0
    for node in nodes_of(model, "Clip", "Relu", "Min", "Max"):
        outer = _bounds(node)
        if outer is None or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        data, low, high = outer
        before = producer(data, "Clip", "Relu", "Min", "Max")
        inner = _bounds(before) if before is not None and only_reader(data) is node else None
        if inner is not None:
            data, first, last = inner
            low, high = min(max(first, low), high), min(max(last, low), high)
        elif node.op_type in LIMITING or dims(data) != dims(node.outputs[0]):
            continue
        inputs = [constant_like(node, name, np.asarray(bound, np.float32)) if math.isfinite(bound) else None
                  for name, bound in (("min", low), ("max", high))]
        replace(node, "Clip", [data, *inputs])
        count += 1
    return count


def _bounds(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    """What a node bounds, and between which numbers; None where a bound is not a number."""
    data = node.inputs[0]
    assert data is not None
    if node.op_type == "Relu":
        return data, 0.0, math.inf
    if node.op_type == "Clip":
        given = [*node.inputs[1:], None, None][:2]
        low, high = (otherwise if value is None else scalar(value)
                     for value, otherwise in zip(given, (-math.inf, math.inf), strict=True))
        return None if low is None or high is None or low > high else (data, low, high)
    if len(node.inputs) != 2:
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        number = scalar(other)
        if number is not None and value is not None:
            return (value, -math.inf, number) if node.op_type == "Min" else (value, number, math.inf)
    return None
