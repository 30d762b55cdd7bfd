"""The .onnx file of the backends that ship the standard graph."""
from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx_ir as ir

from edgeq.graph import IR_VERSION, OPSET

MODEL: Final = "model.onnx"
DATA: Final = "model.onnx.data"
EXTERNAL_BYTES: Final = 1 << 20  # from here on, weights in a file of their own: it is mapped, not read


def save(model: ir.Model, folder: Path) -> None:
    """Write `model.onnx` (opset 21, IR 10), and `model.onnx.data` for weights of a megabyte and more."""
    model.ir_version = IR_VERSION
    model.opset_imports[""] = OPSET
    for value in model.graph.initializers.values():
        value.const_value = _raw(value.const_value) if value.const_value is not None else None
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    elsewhere = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)  # in a file that is no part of this
    if elsewhere or sum(tensor.nbytes for tensor in tensors) >= EXTERNAL_BYTES:
        ir.save(model, folder / MODEL, external_data=DATA, size_threshold_bytes=1024)
    else:
        ir.save(model, folder / MODEL)


def drop_unread(graph: ir.Graph, op_type: str) -> None:
    """The nodes of this type that nobody reads, and the constants."""
    for node in reversed(list(graph)):
        if node.op_type == op_type and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


def _raw(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Four-bit integers kept as the protobuf's varints would take more room than int8."""
    return ir.tensor(tensor.numpy(), name=tensor.name) if isinstance(tensor, ir.TensorProtoTensor) else tensor
