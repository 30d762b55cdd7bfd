"""Integer inputs and outputs in the form that the kernels take, with their grids in the file's metadata."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import consumers, initializer, label
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq_converters.onnxruntime.signedness import EIGHT_BITS, set_input, signed_zero_point, unsigned


def unsigned_interface(graph: ir.Graph) -> None:
    """Shift int8 inputs and outputs to uint8 by their highest bit: two operators on integers at each end.

        int8 x -> DQ(s, int8 z)      =>      int8 x -> Cast(uint8) -> BitwiseXor(128) -> DQ(s, uint8 z + 128)
        Q(s, int8 z) -> int8 y       =>      Q(s, uint8 z + 128) -> BitwiseXor(128) -> Cast(int8) -> y
    """
    for value in list(graph.inputs):
        readers = consumers(value)
        signs = [signed_zero_point(node) if node.op_type == DEQUANTIZE else None for node in readers]
        if value.dtype == ir.DataType.INT8 and readers and all(sign is not None for sign in signs):
            stored = _shifted(graph, value, f"{value.name}_unsigned", ir.DataType.UINT8, graph[0])
            for node, sign in zip(readers, signs, strict=True):
                node.replace_input_with(0, stored)
                _shift_zero_point(graph, node, sign)
    for index, value in enumerate(graph.outputs):
        producer = value.producer()
        sign = None if producer is None or producer.op_type != QUANTIZE else signed_zero_point(producer)
        if producer is not None and sign is not None and not value.uses():
            name, value.name = value.name or "", f"{value.name}_q"
            value.type = ir.TensorType(ir.DataType.UINT8)
            _shift_zero_point(graph, producer, sign)
            graph.outputs[index] = _shifted(graph, value, name, ir.DataType.INT8, None)


def note_interface(model: ir.Model) -> None:
    """Write the grids of integer inputs and outputs into the file's metadata, where every language's API reads them:
    `<name>.scale` and `<name>.zero_point`.
    """
    for value in (*model.graph.inputs, *model.graph.outputs):
        node = next(iter(consumers(value)), None) if value.is_graph_input() else value.producer()
        expected = DEQUANTIZE if value.is_graph_input() else QUANTIZE
        grid = grid_of(node) if node is not None and node.op_type == expected else None
        if grid is not None and value.dtype in EIGHT_BITS and not grid.scale.ndim:
            model.metadata_props[f"{value.name}.scale"] = repr(float(grid.scale))
            model.metadata_props[f"{value.name}.zero_point"] = str(int(grid.zero_point))


def _shifted(graph: ir.Graph, value: ir.Value, name: str, kind: ir.DataType, before: ir.Node | None) -> ir.Value:
    """The same bits as the other type of 8 bits, but for the highest. before: where; at the end for None."""
    bit = initializer(graph, f"{name}_sign", np.array(128, np.uint8))
    cast = {"to": int(kind)}
    first, last = ("Cast", "BitwiseXor") if kind == ir.DataType.UINT8 else ("BitwiseXor", "Cast")
    made = value
    for op in (first, last):
        node = ir.node(op, [made] if op == "Cast" else [made, bit], cast if op == "Cast" else {}, name=f"{name}_{op}")
        made = node.outputs[0]
        made.name, made.shape = f"{name}_{op}_made", value.shape
        made.type = ir.TensorType(kind if op == "Cast" else ir.DataType.UINT8)
        if before is None:
            graph.append(node)
        else:
            graph.insert_before(before, node)
    made.name = name
    return made


def _shift_zero_point(graph: ir.Graph, node: ir.Node, sign: NDArray[np.int8] | None) -> None:
    assert sign is not None
    set_input(node, 2, initializer(graph, f"{label(node)}_zero_point", unsigned(sign)))
    node.attributes.pop("output_dtype", None)
