"""Forms in which onnxruntime, the reference of every check, departs from the standard or has no kernel, in others."""
from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant
from edgeq.passes.rewrite import constant_like, nodes_of, replace, static

_T: Final = ir.DataType
# No kernel: https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md
_WIDER: Final[Mapping[str, Mapping[ir.DataType, ir.DataType]]] = MappingProxyType({
    **dict.fromkeys(("Max", "Min"), MappingProxyType({_T.INT16: _T.INT32, _T.UINT16: _T.INT32})),
    "BitShift": MappingProxyType({_T.UINT16: _T.UINT32}),
})


def unpool_then_pad(model: ir.Model) -> int:
    """MaxUnpool into a larger output becomes MaxUnpool and Pad -> how many.

        x, i -> MaxUnpool(output_shape [1,1,5,5]) -> y     =>     x, i -> MaxUnpool -> [1,1,4,4] -> Pad -> y

    The indices count in the tensor that was pooled; onnxruntime counts in the larger one:
    https://github.com/onnx/onnx/blob/main/onnx/reference/ops/op_max_unpool.py
    """
    count = 0
    for node in nodes_of(model, "MaxUnpool"):
        target = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        shape = static(node.inputs[0])
        if target is None or shape is None or node.graph is None:
            continue
        small = [*shape[:2], *_unpooled(node, shape[2:])]
        rest = [int(size) - inner for size, inner in zip(target, small, strict=True)]
        if min(rest) < 0 or not any(rest):
            continue
        unpool = ir.node("MaxUnpool", node.inputs[:2], name=f"{node.name}_unpool")
        for given in node.attributes.values():
            unpool.attributes[given.name] = given
        value = unpool.outputs[0]
        value.name, value.shape, value.type = unpool.name, ir.Shape(small), node.outputs[0].type
        node.graph.insert_before(node, unpool)
        replace(node, "Pad", [value, constant_like(node, "pads", np.asarray([0] * len(rest) + rest, np.int64))])
        count += 1
    return count


def _unpooled(node: ir.Node, sizes: tuple[int, ...]) -> list[int]:
    kernel, rank = attribute(node, "kernel_shape"), len(sizes)
    strides, pads = attribute(node, "strides") or [1] * rank, attribute(node, "pads") or [0] * 2 * rank
    return [(sizes[k] - 1) * strides[k] + kernel[k] - pads[k] - pads[rank + k] for k in range(rank)]


def align_uneven_corners(model: ir.Model) -> int:
    """Resize with align_corners and scales that give no whole size becomes one of a region of the input -> how many.

        x[4] -> Resize(align_corners, scale 0.6) -> y[2]     =>     x -> Resize(region 0 to 1/1.4, size 2) -> y

    By the standard the corner is that of the size before it is rounded (4 * 0.6 - 1 = 1.4 steps for 3 of the input);
    onnxruntime takes the corner of the rounded one.
    """
    count = 0
    for node in nodes_of(model, "Resize"):
        if attribute(node, "coordinate_transformation_mode", "half_pixel") != "align_corners":
            continue
        scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        before, after = static(node.inputs[0]), static(node.outputs[0])
        if scales is None or scales.size == 0 or before is None or after is None:
            continue
        axes = attribute(node, "axes") or list(range(len(before)))
        exact = [before[axis] * float(scale) for axis, scale in zip(axes, scales, strict=True)]
        pairs = list(zip(axes, exact, strict=True))
        if all(abs(size - round(size)) < 1e-4 for size in exact) or any(
                size <= 1 and before[axis] > 1 for axis, size in pairs):
            continue
        ends = [(after[axis] - 1) / (size - 1) if before[axis] > 1 else 1.0 for axis, size in pairs]
        region = constant_like(node, "region", np.asarray([0.0] * len(ends) + ends, np.float32))
        sizes = constant_like(node, "sizes", np.asarray([after[axis] for axis in axes], np.int64))
        attributes: dict[str, Any] = {name: given.value for name, given in node.attributes.items()}
        attributes["coordinate_transformation_mode"] = "tf_crop_and_resize"
        replace(node, "Resize", [node.inputs[0], region, None, sizes], **attributes)
        count += 1
    return count


def wide_integers(model: ir.Model) -> int:
    """Operators without a kernel for a narrow integer type compute in a wider one -> how many.

        x int16 -> Max -> y     =>     x -> Cast(int32) -> Max -> Cast(int16) -> y

    Pow with an unsigned exponent takes it in the type of its base.
    """
    return sum(_widen(node) for node in nodes_of(model, *_WIDER)) + sum(_power(node) for node in nodes_of(model, "Pow"))


def _widen(node: ir.Node) -> bool:
    kind = node.outputs[0].dtype
    wider = _WIDER[node.op_type].get(kind) if kind is not None else None
    if wider is None or kind is None or node.graph is None:
        return False
    inputs = [_cast(node, index, wider) for index in range(len(node.inputs))]
    inner = ir.node(node.op_type, inputs, name=f"{node.name}_wide")
    for given in node.attributes.values():
        inner.attributes[given.name] = given
    value = inner.outputs[0]
    value.name, value.shape, value.type = inner.name, node.outputs[0].shape, ir.TensorType(wider)
    node.graph.insert_before(node, inner)
    replace(node, "Cast", [value], to=int(kind))
    return True


def whole_indices(model: ir.Model) -> int:
    """The indices of a OneHot that are no integers become some -> how many.

        x float -> OneHot -> y     =>     x -> Cast(int64) -> OneHot -> y

    So the standard has it: https://onnx.ai/onnx/operators/onnx__OneHot.html. onnxruntime compared floats before 1.32.
    """
    count = 0
    for node in nodes_of(model, "OneHot"):
        indices = node.inputs[0]
        if indices is not None and indices.dtype is not None and not indices.dtype.is_integer():
            node.replace_input_with(0, _cast(node, 0, _T.INT64))
            count += 1
    return count


def _power(node: ir.Node) -> bool:
    base, exponent = node.inputs[0], node.inputs[1]
    if base is None or exponent is None or base.dtype not in (_T.FLOAT, _T.DOUBLE):
        return False
    if exponent.dtype not in (_T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64):
        return False
    node.replace_input_with(1, _cast(node, 1, base.dtype))
    return True


def _cast(node: ir.Node, index: int, to: ir.DataType) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    assert node.graph is not None
    made = ir.node("Cast", [value], attributes={"to": int(to)}, name=f"{node.name}_{index}_cast")
    made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = made.name, value.shape, ir.TensorType(to)
    node.graph.insert_before(node, made)
    return made.outputs[0]
