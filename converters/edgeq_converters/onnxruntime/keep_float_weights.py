"""Float weights that stay float although integers surround them."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant, initializer, label, shape
from edgeq.ops import LIMITING, MOVING
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq_converters.onnxruntime.fusion import dequantized, is_static


def is_between_integers(node: ir.Node) -> bool:
    """True where ONNX Runtime would quantize float weights by itself, one scale for the tensor.

    WeightBiasQuantization takes every DQ -> Conv, ConvTranspose or Gemm [-> Relu or Clip] -> Q, and a Q behind what
    moves numbers, as MaxPool, is brought before it first:
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/qdq_propagation.cc
    """
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or dequantized(node.inputs[0]) is None:
        return False
    current = node
    while True:
        readers = [use.node for use in current.outputs[0].uses()]
        if len(readers) != 1:
            return False
        if readers[0].op_type == QUANTIZE:
            return is_static(node)
        if readers[0].op_type not in LIMITING | MOVING:
            return False
        current = readers[0]


def anchor_float_weights(graph: ir.Graph) -> None:
    """Write such a node so that the rewrite steps back: a Conv as FusedConv, of others the bias as a DequantizeLinear,
    which keeps it bit for bit.

        Conv(DQ(x), w, b) -> Q      =>      FusedConv(DQ(x), w, b) -> Q
        Gemm(DQ(x), w, b) -> Q      =>      Gemm(DQ(x), w, DQ(int32 sign(b), scale |b|)) -> Q

    A convolution with a computed bias has no blocked kernel: a depthwise one took six times as long.
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/nchwc_transformer.cc
    """
    for node in list(graph):
        if not is_between_integers(node) or dequantized(node.inputs[1]) is not None:
            continue
        given = node.inputs[2] if len(node.inputs) > 2 else None
        bias = constant(given)
        if given is not None and (bias is None or bias.ndim != 1):
            continue  # the rewrite leaves such a bias alone
        if node.op_type == "Conv":
            node.op_type, node.domain = "FusedConv", "com.microsoft"
            continue
        _anchor(graph, node, np.zeros(_width(node), np.float32) if bias is None else bias)


def _anchor(graph: ir.Graph, node: ir.Node, bias: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    name = f"{label(node)}_bias"
    size = np.where(bias == 0, 1, np.abs(bias)).astype(np.float32)
    inputs = [initializer(graph, f"{name}_sign", np.sign(bias).astype(np.int32)),
              initializer(graph, f"{name}_size", size)]
    dequantize = ir.node(DEQUANTIZE, inputs, {"axis": 0}, name=f"{name}_anchor")
    real = dequantize.outputs[0]
    real.name, real.shape, real.type = f"{name}_anchored", ir.Shape(bias.shape), ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, dequantize)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, real)


def _width(node: ir.Node) -> int:
    """The number of output channels."""
    weight = node.inputs[1]
    assert weight is not None
    sizes = shape(weight)
    if node.op_type == "ConvTranspose":
        return sizes[1] * int(attribute(node, "group", 1))
    return sizes[0] if node.op_type == "Conv" or attribute(node, "transB", 0) else sizes[1]
