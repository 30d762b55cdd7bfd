"""BatchNormalization into the weights before it, or into weights of its own."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import all_nodes, attribute, constant, dims, initializer, only_reader
from edgeq.passes.rewrite import bypass, constant_like, float_weight, nodes_of, replace
from edgeq.scheme import per_axis


def fold_batch_norm(model: ir.Model) -> int:
    """Scale the weights of a Conv, ConvTranspose or Gemm by the BatchNormalization that alone reads it -> how many.

        x -> Conv(w, b) -> BatchNormalization(s, t, mean, var) -> y     =>     x -> Conv(w * k, (b - mean) * k + t) -> y

    with k = s / sqrt(var + epsilon), per output channel (https://onnx.ai/onnx/operators/onnx__BatchNormalization.html).
    Weights that are not float constants stay as they are.
    """
    return sum(_fold(node) for node in list(all_nodes(model.graph)) if node.op_type == "BatchNormalization")


def batch_norm_to_conv(model: ir.Model) -> int:
    """A BatchNormalization with nothing before it to fold into becomes a depthwise 1x1 Conv -> how many.

        x[N,C,H,W] -> BatchNormalization(s, t, mean, var) -> y     =>     x -> Conv(w[C,1,1,1], b[C], group=C) -> y

    No engine has an integer kernel for the one, all have one for the other, and with one weight per channel its grid
    is exact: nets that normalize before they convolve (DenseNet) stay in integers. One and two spatial axes only:
    TFLite has no grouped Conv with three.
    """
    return sum(_to_conv(node) for node in nodes_of(model, "BatchNormalization"))


def _to_conv(norm: ir.Node) -> bool:
    data, effect = norm.inputs[0], _effect(norm)
    shape = dims(data)
    if effect is None or data is None or data.dtype != ir.DataType.FLOAT or shape is None or len(shape) not in (3, 4):
        return False
    factor, shift = (part.astype(np.float32) for part in effect)
    weight = constant_like(norm, "gain", factor.reshape(-1, *[1] * (len(shape) - 1)))
    spatial = len(shape) - 2
    replace(norm, "Conv", [data, weight, constant_like(norm, "offset", shift)], group=shape[1],
            kernel_shape=[1] * spatial)
    return True


def _fold(norm: ir.Node) -> bool:
    data, effect = norm.inputs[0], _effect(norm)
    before = None if data is None else data.producer()
    if before is None or effect is None or only_reader(data) is not norm or not scale_outputs(before, *effect):
        return False
    bypass(norm, before.outputs[0])
    return True


def _effect(norm: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(factor, shift) per channel, where the statistics are constant and the node has no other results."""
    statistics = [constant(value) for value in norm.inputs[1:5]]
    if any(s is None for s in statistics) or attribute(norm, "training_mode", 0):
        return None
    scale, shift, mean, variance = (np.asarray(s, np.float64) for s in statistics)
    factor = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return factor, shift - mean * factor


def scale_outputs(node: ir.Node, factor: NDArray[np.float64], shift: NDArray[np.float64]) -> bool:
    """Make a Conv, ConvTranspose or Gemm compute `factor * y + shift`, per channel of axis 1 -> whether it could.

    factor, shift: [C] or [1].
    """
    weight, bias = float_weight(node), node.inputs[2] if len(node.inputs) > 2 else None
    old_bias = constant(bias)
    if weight is None or (bias is not None and old_bias is None):
        return False
    channels = _channels(node, weight)
    if channels is None or not {factor.size, shift.size} <= {1, channels}:
        return False
    alpha, beta = (float(attribute(node, name, 1.0)) for name in ("alpha", "beta"))
    if node.op_type == "Gemm" and (alpha, beta) != (1.0, 1.0):
        return False
    if old_bias is not None and old_bias.size not in (1, channels):
        return False  # a bias of a Gemm may be a whole matrix
    factor, shift = (np.broadcast_to(part.reshape(-1), (channels,)) for part in (factor, shift))
    old = np.zeros(1) if old_bias is None else old_bias.reshape(-1).astype(np.float64)
    assert node.graph is not None
    assert node.inputs[1] is not None
    scaled = _scaled(node, weight, factor)
    new_weight = initializer(node.graph, f"{node.inputs[1].name}_scaled", scaled.astype(weight.dtype))
    bias_name = bias.name if bias is not None else f"{node.outputs[0].name}_bias"
    new_bias = initializer(node.graph, f"{bias_name}_scaled", (old * factor + shift).astype(weight.dtype))
    node.resize_inputs(3)
    node.replace_input_with(1, new_weight)
    node.replace_input_with(2, new_bias)
    return True


def _channels(node: ir.Node, weight: NDArray[Any]) -> int | None:
    match node.op_type:
        case "Conv":
            return int(weight.shape[0])
        case "ConvTranspose":
            return int(weight.shape[1]) * int(attribute(node, "group", 1))
        case "Gemm":
            return int(weight.shape[0 if attribute(node, "transB", 0) else 1])
    return None


def _scaled(node: ir.Node, weight: NDArray[Any], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """weight * factor along the output channels: [O,I,*k] Conv, [I,O/group,*k] ConvTranspose, [K,N] or [N,K] Gemm."""
    if node.op_type == "ConvTranspose":
        groups = int(attribute(node, "group", 1))
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        per_group = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return np.asarray(split * per_group).reshape(weight.shape)
    axis = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
    return np.asarray(weight * per_axis(factor, axis, weight.ndim))
