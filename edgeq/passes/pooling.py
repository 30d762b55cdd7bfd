"""The mean over a whole image is a pooling; an average without padding has none to count."""
from __future__ import annotations

import onnx_ir as ir

from edgeq.graph import attribute, constant, dims
from edgeq.passes.rewrite import nodes_of, replace


def mean_to_global_pool(model: ir.Model) -> int:
    """ReduceMean over all spatial axes becomes GlobalAveragePool, which the engines run on integers -> how many.

        x[N,C,H,W] -> ReduceMean(2,3, keepdims=0) -> y[N,C]     =>     x -> GlobalAveragePool -> Flatten -> y[N,C]

    Only with two spatial axes or more: a mean over the last of three axes is usually part of a normalization.
    """
    return sum(_replace(node) for node in nodes_of(model, "ReduceMean"))


def count_no_padding(model: ir.Model) -> int:
    """AveragePool without pads loses count_include_pad, which says nothing there -> how many.

    ONNX Runtime's integer kernel takes the part of a window that ceil_mode lets stick out for padding, and divides by
    the whole window; its float kernel, torch and the standard do not.
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cpu/quantization/qlinear_pool.cc
    """
    found = [node for node in nodes_of(model, "AveragePool")
             if attribute(node, "count_include_pad", 0) and not any(attribute(node, "pads", ()))
             and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")]
    for node in found:
        del node.attributes["count_include_pad"]
    return len(found)


def _replace(node: ir.Node) -> bool:
    data = node.inputs[0]
    shape = dims(data)
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if data is None or shape is None or axes is None or len(shape) < 4:
        return False
    if sorted(int(axis) % len(shape) for axis in axes) != list(range(2, len(shape))):
        return False
    if attribute(node, "keepdims", 1):
        replace(node, "GlobalAveragePool", [data])
        return True
    pool = ir.node("GlobalAveragePool", [data], name=f"{node.name}_pool")
    pool.outputs[0].name = f"{node.outputs[0].name}_pooled"
    pool.outputs[0].shape, pool.outputs[0].type = ir.Shape((*shape[:2], *[1] * (len(shape) - 2))), data.type
    assert node.graph is not None
    node.graph.insert_before(node, pool)
    replace(node, "Flatten", [pool.outputs[0]], axis=1)
    return True
