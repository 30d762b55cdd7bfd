"""HardSwish between integers, for which ONNX Runtime has no kernel, as the two that it has."""
from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import initializer, label
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import PerTensor, QuantParams, QuantType
from edgeq_converters.onnxruntime.fusion import dequantized
from edgeq_converters.onnxruntime.matmul import only_quantize

_UINT8: Final = QuantType(8, signed=False, symmetric=False)
_UNIT: Final = QuantParams(_UINT8, np.array(1 / 255, np.float32), np.array(0, np.int32))  # [0, 1]
_HALF: Final = replace(_UNIT, scale=np.array(0.5 / 255, np.float32))  # [0, 0.5], so that 255 is a half


def integer_hard_swish(graph: ir.Graph) -> None:
    """Write x * clip(x / 6 + 1/2, 0, 1) so that QLinearAdd and QLinearMul compute it, in place.

        DQ(x, s) -> HardSwish -> Q      =>      DQ(x, s/6) -> Add(1/2) -> Q(1/255) -> DQ -> Mul(DQ(x, s)) -> Q

    The division is another reading of the same integers, and the clip is where the grid of the sum ends.
    """
    for node in list(graph):
        source = dequantized(node.inputs[0]) if node.op_type == "HardSwish" else None
        result = only_quantize(node.outputs[0]) if source is not None else None
        if source is not None and result is not None and _is_plain(source) and _is_plain(result):
            _rewrite(graph, node, source)


def _is_plain(node: ir.Node) -> bool:
    """On a grid that these kernels take: uint8, one scale."""
    grid = grid_of(node)
    return grid is not None and not grid.type.signed and grid.type.bits == 8 and grid.type.granularity == PerTensor()


def _rewrite(graph: ir.Graph, node: ir.Node, source: ir.Node) -> None:
    grid, stored, name = grid_of(source), source.inputs[0], label(node)
    assert grid is not None

    def add(op: str, *inputs: ir.Value | None) -> ir.Value:
        made = ir.node(op, inputs, name=f"{name}_{len(graph)}")
        graph.insert_before(node, made)
        made.outputs[0].name = f"{made.name}_out"
        made.outputs[0].shape, made.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        return made.outputs[0]

    def parameters(on: QuantParams, suffix: str) -> tuple[ir.Value, ir.Value]:
        return (initializer(graph, f"{name}_{suffix}_scale", on.scale),
                initializer(graph, f"{name}_{suffix}_zero_point", on.zero_point.astype(np.uint8)))

    sixth = add(DEQUANTIZE, stored, *parameters(replace(grid, scale=np.asarray(grid.scale / 6, np.float32)), "sixth"))
    half = add(DEQUANTIZE, initializer(graph, f"{name}_half", np.array(255, np.uint8)), *parameters(_HALF, "half"))
    half.shape = ir.Shape(())
    unit = parameters(_UNIT, "unit")
    rounded = add(QUANTIZE, add("Add", sixth, half), *unit)
    rounded.type = ir.TensorType(ir.DataType.UINT8)
    product = add("Mul", node.inputs[0], add(DEQUANTIZE, rounded, *unit))
    node.outputs[0].replace_all_uses_with(product)
    graph.remove(node, safe=True)
