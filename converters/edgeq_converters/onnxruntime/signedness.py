"""Signs of stored integers: ONNX Runtime's fast kernels take uint8 activations and int8 weights."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant, initializer, is_constant
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, stored_dtype
from edgeq_converters.onnxruntime.fusion import dequantized, is_static

EIGHT_BITS = {ir.DataType.INT8: np.int8, ir.DataType.UINT8: np.uint8}
Shift: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]


def explicit_zero_points(graph: ir.Graph) -> None:
    """Write the zero point that ONNX assumes: the selector of QGemm takes no DequantizeLinear without one.

        DQ(int8 w, s) -> Gemm      =>      DQ(int8 w, s, int8 0) -> Gemm
    """
    for node in list(graph):
        if node.op_type not in (QUANTIZE, DEQUANTIZE) or (len(node.inputs) > 2 and node.inputs[2] is not None):
            continue
        scale, kind = constant(node.inputs[1]), EIGHT_BITS.get(stored_dtype(node))
        if scale is not None and kind is not None:
            set_input(node, 2, initializer(graph, f"{node.outputs[0].name}_zero_point", np.zeros(scale.shape, kind)))
            node.attributes.pop("output_dtype", None)


def unsigned_activations(graph: ir.Graph) -> None:
    """Shift int8 activations to uint8, which x86-64 multiplies by int8 weights three times as fast.

        x -> Q(s, int8 z) -> DQ(s, int8 z)      =>      x -> Q(s, uint8 z + 128) -> DQ(s, uint8 z + 128)

    Kernels for two signed operands want AVX-VNNI-INT8, and graphs with them can even fail to load at opset 21:
    https://github.com/microsoft/onnxruntime/issues/25526
    Integers that something else than DequantizeLinear reads stay as they are.
    """
    for node in graph:
        if node.op_type != QUANTIZE or (signed := signed_zero_point(node)) is None:
            continue
        readers = [use.node for use in node.outputs[0].uses()]
        if node.outputs[0].is_graph_output() or any(
                reader.op_type != DEQUANTIZE or signed_zero_point(reader) is None for reader in readers):
            continue
        zero_point = initializer(graph, f"{node.outputs[0].name}_zero_point", unsigned(signed))
        for each in (node, *readers):
            set_input(each, 2, zero_point)
            each.attributes.pop("output_dtype", None)
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)


def unsigned_operands(graph: ir.Graph) -> None:
    """Shift an int8 constant beside a uint8 activation: the kernels of Add, Mul, Concat and Where want one type.

        DQ(int8 c, s, z) -> Add      =>      DQ(uint8 c + 128, s, z + 128) -> Add
    """
    for node in list(graph):
        if node.op_type not in ("Add", "Mul", "Concat", "Where") or not is_static(node):
            continue
        for index, value in enumerate(node.inputs):
            source = dequantized(value)
            if source is not None and _stores(source, ir.DataType.INT8):
                _replace_constant(graph, node, index, source, unsigned)


def signed_weights(graph: ir.Graph) -> None:
    """Shift uint8 weights to int8: x86-64 has no fast kernel for two unsigned operands.

        Conv(DQ(uint8 x), DQ(uint8 w, s, z))      =>      Conv(DQ(uint8 x), DQ(int8 w - 128, s, z - 128))
    """
    for node in list(graph):
        source = dequantized(node.inputs[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if source is not None and _stores(source, ir.DataType.UINT8):
            _replace_constant(graph, node, 1, source, signed)


def unsigned(stored: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(stored.astype(np.int16) + 128).astype(np.uint8)


def signed(stored: NDArray[Any]) -> NDArray[np.int8]:
    return np.asarray(stored.astype(np.int16) - 128).astype(np.int8)


def set_input(node: ir.Node, index: int, value: ir.Value) -> None:
    """Replace an input, or append the optional one that is absent."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _stores(dequantize: ir.Node, dtype: ir.DataType) -> bool:
    stored = dequantize.inputs[0]
    return stored is not None and stored.dtype == dtype and all(map(is_constant, dequantize.inputs))


def signed_zero_point(node: ir.Node) -> NDArray[np.int8] | None:
    """The int8 zero point of a Q or DQ with constant parameters; None for other types."""
    given = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return given if given is not None and given.dtype == np.int8 and is_constant(node.inputs[1]) else None


def _replace_constant(graph: ir.Graph, reader: ir.Node, index: int, source: ir.Node, shift: Shift) -> None:
    """Give one reader a DQ of its own whose integers and zero point are shifted."""
    stored, zero_point = constant(source.inputs[0]), constant(source.inputs[2])
    assert stored is not None
    assert zero_point is not None
    assert source.inputs[0] is not None
    name = source.inputs[0].name
    inputs = [initializer(graph, f"{name}_shifted", shift(stored)), source.inputs[1],
              initializer(graph, f"{name}_shifted_zero_point", shift(zero_point))]
    shifted = ir.node(DEQUANTIZE, inputs, {key: attr.value for key, attr in source.attributes.items()})
    real, before = shifted.outputs[0], source.outputs[0]
    real.name, real.shape, real.type = f"{before.name}_{reader.outputs[0].name}", before.shape, before.type
    graph.insert_before(reader, shifted)
    reader.replace_input_with(index, real)
