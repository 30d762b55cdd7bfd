"""LSTM with integer weights, for the kernel that multiplies them as such."""
from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant, initializer, label
from edgeq.quant.qdq import grid_of
from edgeq.quant.weights import stored_array
from edgeq.scheme import PerChannel, PerTensor, QuantParams
from edgeq_converters.onnxruntime.fusion import dequantized

_CONTRIB: Final = "com.microsoft"
# The number of weights from which the kernel pays. Speed over float LSTM, 1.31, one thread of x86-64 with VNNI: inputs
# and hidden size 128 (2**17 weights) 1.2, 256 and 512 2.5 to 2.9; a BiLSTM of 64 inputs and 32 hidden .95.
_LEAST: Final = 2**18
_INPUTS: Final = 8  # of LSTM, the peepholes as the last


def dynamic_lstm(graph: ir.Graph) -> bool:
    """LSTM that reads integer weights becomes DynamicQuantizeLSTM, in place -> whether any of them had 4 bits.

        LSTM(x, DQ(w [D,4H,I], scale [4H]), DQ(r), ...)
            =>  DynamicQuantizeLSTM(x, w [D,I,4H], r [D,H,4H], ..., scale [D,4H], zero point, ...)

    The kernel rounds x and the state to 8 bits in every step. That leaves 45 dB, about what 8-bit weights leave.
    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM
    """
    narrow = False
    for node in [node for node in graph if node.op_type == "LSTM" and node.domain == ""]:
        parts = [part for index in (1, 2) if (part := _integers(node.inputs[index])) is not None]
        if len(parts) == 2 and sum(data.size for data, _ in parts) >= _LEAST:
            _replace(graph, node, parts)
            narrow |= any(params.type.bits == 4 for _, params in parts)
    return narrow


def _integers(value: ir.Value | None) -> tuple[NDArray[np.int8], QuantParams] | None:
    """Integers [D,4H,K] and their grid, or None where the kernel knows no such grid."""
    source = dequantized(value)
    params = grid_of(source) if source is not None else None
    data = constant(source.inputs[0]) if source is not None else None
    if params is None or data is None or not params.type.symmetric:
        return None
    return (data, params) if params.type.granularity in (PerTensor(), PerChannel(1)) else None


def _replace(graph: ir.Graph, node: ir.Node, parts: list[tuple[NDArray[np.int8], QuantParams]]) -> None:
    inputs = [*node.inputs, *[None] * (_INPUTS - len(node.inputs))]
    for index, (data, params) in enumerate(parts, start=1):
        name = f"{label(node)}_{index}"
        scale = np.ascontiguousarray(np.broadcast_to(params.scale.reshape(-1), data.shape[:2]))
        stored = initializer(graph, name, stored_array(np.ascontiguousarray(data.transpose(0, 2, 1)), params.type))
        inputs[index] = _widened(graph, node, stored) if params.type.bits == 4 else stored
        inputs += [initializer(graph, f"{name}_scale", scale),
                   initializer(graph, f"{name}_zero_point", np.zeros(scale.shape, np.int8))]
    attributes = {key: attribute.value for key, attribute in node.attributes.items()}
    made = ir.node("DynamicQuantizeLSTM", inputs, attributes, domain=_CONTRIB, name=node.name,
                   num_outputs=len(node.outputs))
    graph.opset_imports[_CONTRIB] = 1
    graph.insert_before(node, made)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.name, new.shape, new.type = old.name, old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _widened(graph: ir.Graph, node: ir.Node, stored: ir.Value) -> ir.Value:
    """4 bits on disk; the Cast folds at load."""
    cast = ir.node("Cast", [stored], {"to": ir.DataType.INT8}, name=f"{stored.name}_cast")
    cast.outputs[0].name = f"{stored.name}_int8"
    graph.insert_before(node, cast)
    return cast.outputs[0]
