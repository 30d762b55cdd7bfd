"""A table of integers that is a layer's weight too, as in language models: stored once."""
from __future__ import annotations

import onnx_ir as ir

from edgeq.graph import is_constant, is_transpose


def store_tied_once(graph: ir.Graph) -> None:
    """An embedding [V,D] and the same integers as a weight [D,V] become one constant; the Transpose folds at load.

        Gather(t, ids), MatMul(x, DQ(w)), w = t^T      =>      Gather(t, ids), MatMul(x, DQ(Transpose(t)))
    """
    tables = {node.inputs[0] for node in graph if node.op_type == "Gather" and is_constant(node.inputs[0])}
    for table in [value for value in graph.initializers.values() if value in tables]:
        for weight in [value for value in graph.initializers.values() if _is_transposed(value, table)]:
            transposed = ir.node("Transpose", [table], {"perm": [1, 0]}, name=f"{weight.name}_from_{table.name}")
            result = transposed.outputs[0]
            result.name, result.shape, result.type = f"{weight.name}_turned", weight.shape, weight.type
            graph.insert_before(graph[0], transposed)
            weight.replace_all_uses_with(result)


def _is_transposed(value: ir.Value, table: ir.Value) -> bool:
    integers = value.dtype in (ir.DataType.INT8, ir.DataType.UINT8) and value.dtype == table.dtype
    return integers and is_constant(value) and not value.is_graph_output() and is_transpose(value, table)
