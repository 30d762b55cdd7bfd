"""Operators whose second input is a constant, as the plainer operators that they then are."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant
from edgeq.passes.fold import evaluate
from edgeq.passes.rewrite import constant_like, nodes_of, replace, static

_STORED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)


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


def plain_optionals(model: ir.Model) -> int:
    """What asks for an optional tensor that is known to be there, or not, gets the answer -> how many.

        x -> OptionalGetElement -> y     =>     x -> Identity -> y
        x -> OptionalHasElement -> y     =>     true -> Identity -> y
    """
    count = 0
    for node in nodes_of(model, "OptionalGetElement", "OptionalHasElement"):
        given = node.inputs[0] if node.inputs else None
        if given is not None and not isinstance(given.type, ir.TensorType):
            continue
        if node.op_type == "OptionalHasElement":
            given = constant_like(node, "is_there", np.asarray(given is not None))
        if given is not None:
            replace(node, "Identity", [given])
            count += 1
    return count


def fold_quantized_weights(model: ir.Model) -> int:
    """QuantizeLinear of constants becomes the integers it gives; trained grids are exported like that -> how many.

        w float -> Q(s, z) -> DQ(s, z) -> Conv     =>     w int8 -> DQ(s, z) -> Conv
    """
    count = 0
    for node in nodes_of(model, "QuantizeLinear"):
        stored, feeds = node.outputs[0], {str(v.name): constant(v) for v in node.inputs if v is not None}
        known = {name: data for name, data in feeds.items() if data is not None}
        if len(known) < len(feeds) or stored.is_graph_output() or stored.dtype not in _STORED or node.graph is None:
            continue
        results = evaluate(node, known)
        if results is None:
            continue
        stored.replace_all_uses_with(constant_like(node, "integers", results[0]))
        node.graph.remove(node, safe=True)
        count += 1
    return count


def conv_integer_to_conv(model: ir.Model) -> int:
    """ConvInteger with a zero point per output channel, which onnxruntime refuses, gets one for all -> how many.

        ConvInteger(x, w, xz, wz[M])     =>     ConvInteger(x, w, xz) - ConvInteger(x, ones, xz) * wz
    """
    count = 0
    for node in nodes_of(model, "ConvInteger"):
        zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        weight, output, graph = node.inputs[1], node.outputs[0], node.graph
        shape = static(weight)
        if zero is None or zero.size < 2 or shape is None or weight is None or weight.dtype is None or graph is None:
            continue
        groups = int(attribute(node, "group", 1))
        per_output = zero.astype(np.int32).reshape(-1, *[1] * (len(shape) - 2))
        inputs = [node.inputs[0], weight, node.inputs[2]]
        ones = constant_like(node, "ones", np.ones((groups, *shape[1:]), weight.dtype.numpy()))
        made = []
        for number, second in enumerate((weight, ones)):
            inner = ir.node("ConvInteger", [inputs[0], second, inputs[2]], name=f"{node.name}_{number}")
            for attr in node.attributes.values():
                inner.attributes[attr.name] = attr
            value = inner.outputs[0]
            value.name, value.type, value.shape = f"{output.name}_{number}", output.type, output.shape
            graph.insert_before(node, inner)
            made.append(value)
        if static(output) is not None and groups != shape[0]:
            out = list(static(output) or ())
            made[1].shape = ir.Shape([out[0], groups, *out[2:]])
        if groups not in (1, shape[0]):
            index = constant_like(node, "group", np.repeat(np.arange(groups), shape[0] // groups))
            spread = ir.node("Gather", [made[1], index], attributes={"axis": 1}, name=f"{node.name}_spread")
            spread.outputs[0].name, spread.outputs[0].type = f"{output.name}_spread", output.type
            spread.outputs[0].shape = output.shape
            graph.insert_before(node, spread)
            made[1] = spread.outputs[0]
        shift = ir.node("Mul", [made[1], constant_like(node, "zero_points", per_output)], name=f"{node.name}_shift")
        shift.outputs[0].name, shift.outputs[0].type = f"{output.name}_shift", output.type
        shift.outputs[0].shape = output.shape
        graph.insert_before(node, shift)
        replace(node, "Sub", [made[0], shift.outputs[0]])
        count += 1
    return count
