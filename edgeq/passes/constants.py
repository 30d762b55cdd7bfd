"""Operators whose second input is a constant, as the plainer operators that they then are."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant, static
from edgeq.passes.fold import evaluate
from edgeq.passes.rewrite import constant_like, inserted, nodes_of, replace

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
        if condition is None or data is None or shape is None:
            continue
        axis = attribute(node, "axis")
        if axis is None:
            flat = constant_like(node, "flat_shape", np.asarray([-1], np.int64))
            data, axis = inserted(node, "Reshape", [data, flat], "flat", data, shape=(int(np.prod(shape)),)), 0
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
        weight = node.inputs[1]
        shape = static(weight)
        if zero is None or zero.size < 2 or shape is None or weight is None or weight.dtype is None:
            continue
        groups, output = int(attribute(node, "group", 1)), node.outputs[0]
        attributes = {name: given.value for name, given in node.attributes.items()}
        ones = constant_like(node, "ones", np.ones((groups, *shape[1:]), weight.dtype.numpy()))
        data, data_zero = node.inputs[0], node.inputs[2]
        product = inserted(node, "ConvInteger", [data, weight, data_zero], "0", output, **attributes)
        sums = _per_output(node, inserted(node, "ConvInteger", [data, ones, data_zero], "1", output,
                                          shape=_channels(output, groups), **attributes), groups, shape[0])
        per_output = zero.astype(np.int32).reshape(-1, *[1] * (len(shape) - 2))
        shift = inserted(node, "Mul", [sums, constant_like(node, "zero_points", per_output)], "shift", output)
        replace(node, "Sub", [product, shift])
        count += 1
    return count


def _channels(output: ir.Value, count: int) -> tuple[int, ...] | None:
    """The shape of an output [N,M,...] with another number of channels, where it is known."""
    sizes = static(output)
    return None if sizes is None else (sizes[0], count, *sizes[2:])


def _per_output(node: ir.Node, sums: ir.Value, groups: int, outputs: int) -> ir.Value:
    """Sums of inputs [N,groups,...] as every output channel needs them, where a Mul does not broadcast them itself."""
    if groups in (1, outputs):
        return sums
    index = constant_like(node, "group", np.repeat(np.arange(groups), outputs // groups))
    return inserted(node, "Gather", [sums, index], "spread", node.outputs[0], axis=1)
