"""A table of integers that is a layer's weight too, as in language models: stored once."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeq.graph import constant, is_constant, shape


def store_tied_once(graph: ir.Graph) -> None:
    """An embedding [V,D] and the same integers as a weight [D,V] become one constant; the Transpose folds at load.

        Gather(t, ids), MatMul(x, DQ(w)), w = t^T      =>      Gather(t, ids), MatMul(x, DQ(Transpose(t)))
    """
    tables = {node.inputs[0] for node in graph if node.op_type == "Gather" and is_constant(node.inputs[0])}
    for table in [value for value in graph.initializers.values() if value in tables]:
        for weight in [value for value in graph.initializers.values() if _is_transposed(value, table)]:
            turned = ir.node("Transpose", [table], {"perm": [1, 0]}, name=f"{weight.name}_from_{table.name}")
            result = turned.outputs[0]
            result.name, result.shape, result.type = f"{weight.name}_turned", weight.shape, weight.type
            graph.insert_before(graph[0], turned)
            weight.replace_all_uses_with(result)


def _is_transposed(value: ir.Value, table: ir.Value) -> bool:
    if not is_constant(value) or value.is_graph_output() or value is table:
        return False
    if value.dtype not in (ir.DataType.INT8, ir.DataType.UINT8) or value.dtype != table.dtype:
        return False
    if len(shape(value)) != 2 or shape(value) != shape(table)[::-1]:
        return False
    data, rows = constant(value), constant(table)
    return data is not None and rows is not None and np.array_equal(data, rows.T)
