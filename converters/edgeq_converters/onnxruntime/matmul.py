"""A quantized MatMul with a bias, written so that one integer kernel computes it."""
from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeq.graph import attribute, constant, initializer, is_constant, label, only_reader, static
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq_converters.onnxruntime.fusion import dequantized


def gemm_of_biased_matmul(graph: ir.Graph) -> None:
    """MatMul with a bias behind it, as the Gemm that one kernel computes.

        x [B,S,K] -> DQ -> MatMul(DQ(w [K,N])) -> Add(b [N]) -> y      =>
        x [B,S,K] -> Reshape [B*S,K] -> DQ -> Gemm(DQ(w), b) -> [Q ->] Reshape [B,S,N] [-> DQ] -> y

    Left alone, ONNX Runtime's MatMulAddFusion makes the same Gemm but puts its Reshape between DQ and Gemm, so that no
    integer kernel fits and a transformer runs at half the speed of float:
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/matmul_add_fusion.cc
    """
    flat: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type == "MatMul" and (add := _bias_add(node)) is not None:
            _write_gemm(graph, node, add, flat)


def _bias_add(node: ir.Node) -> ir.Node | None:
    """The Add of a constant [N] that alone reads a MatMul of a quantized activation [..,K] and weight [K,N]."""
    activation, weight = dequantized(node.inputs[0]), dequantized(node.inputs[1])
    uses = list(node.outputs[0].uses())
    if activation is None or weight is None or len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    add, position = uses[0].node, uses[0].idx
    if add.op_type != "Add" or is_constant(activation.inputs[0]) or not is_constant(weight.inputs[0]):
        return None
    sizes, result = static(weight.inputs[0]), static(add.outputs[0])
    if sizes is None or len(sizes) != 2 or result is None or attribute(weight, "block_size", 0):
        return None
    bias = add.inputs[1 - position]
    source = dequantized(bias)
    stored = source.inputs[0] if source is not None else bias
    return add if is_constant(stored) and static(stored) == sizes[1:] and len(result) >= 2 else None


def _write_gemm(graph: ir.Graph, matmul: ir.Node, add: ir.Node, flat: dict[ir.Value, ir.Value]) -> None:
    bias = add.inputs[1] if add.inputs[0] is matmul.outputs[0] else add.inputs[0]
    result = add.outputs[0]
    shape = static(result)
    activation = dequantized(matmul.inputs[0])
    assert shape is not None
    assert activation is not None
    gemm = ir.node("Gemm", [_matrix(graph, activation, matmul, flat), matmul.inputs[1], bias], name=label(matmul))
    product = gemm.outputs[0]
    product.name, product.type = f"{result.name}_gemm", result.type
    product.shape = ir.Shape([math.prod(shape[:-1]), shape[-1]])
    graph.insert_before(add, gemm)
    quantize = only_quantize(result)
    if len(shape) == 2:
        _take_over(result, product)
    elif quantize is None:
        _take_over(result, _reshape(graph, gemm, product, shape))
    else:
        quantize.replace_input_with(0, product)
        stored = quantize.outputs[0]
        readers = list(stored.uses())
        whole = _reshape(graph, quantize, stored, shape)
        for use in readers:
            use.node.replace_input_with(use.idx, whole)
        stored.shape = product.shape
    graph.remove([add, matmul], safe=True)


def _matrix(graph: ir.Graph, activation: ir.Node, matmul: ir.Node, flat: dict[ir.Value, ir.Value]) -> ir.Value:
    """The activation as [B*S,K]: its integers are reshaped, so that DQ stays next to the Gemm."""
    stored = activation.inputs[0]
    assert stored is not None
    assert matmul.inputs[0] is not None
    shape = static(matmul.inputs[0])
    assert shape is not None
    if len(shape) == 2:
        return matmul.inputs[0]
    if stored not in flat:
        integers = _reshape(graph, activation, stored, (math.prod(shape[:-1]), shape[-1]))
        dequantize = ir.node(DEQUANTIZE, [integers, *activation.inputs[1:]], name=f"{label(activation)}_matrix")
        real = dequantize.outputs[0]
        real.name, real.shape, real.type = f"{activation.outputs[0].name}_matrix", integers.shape, matmul.inputs[0].type
        producer = integers.producer()
        assert producer is not None
        graph.insert_after(producer, dequantize)
        flat[stored] = real
    return flat[stored]


def _reshape(graph: ir.Graph, after: ir.Node, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    target = initializer(graph, f"{value.name}_shape", np.array(shape, np.int64))
    node = ir.node("Reshape", [value, target], name=f"{value.name}_reshape")
    node.outputs[0].name, node.outputs[0].type = f"{value.name}_{len(shape)}d", value.type
    node.outputs[0].shape = ir.Shape(shape)
    graph.insert_after(after, node)
    return node.outputs[0]


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` be read everywhere in place of `old`, under its name."""
    name, old.name = old.name, f"{old.name}_old"
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name


def only_quantize(value: ir.Value) -> ir.Node | None:
    """The QuantizeLinear with a constant scale that alone reads a value."""
    reader = only_reader(value)
    alone = reader is not None and reader.op_type == QUANTIZE and constant(reader.inputs[1]) is not None
    return reader if alone else None
