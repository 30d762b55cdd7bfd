"""Which ONNX ops can run on integers here, and why a node does not: the rows behind the float fallbacks of a report."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from edgeq.graph import quant
from edgeq.ops import MOVING, operands
from edgeq.scheme import PerTensor
from edgeq_converters.prepare import LINEAR
from edgeq_converters.tflite.program import Value
from edgeq_converters.tflite.target import TFLITE

# The planner's rows, a MatMul with its bias, and scatters: ops with an int8 kernel, or a form made of such.
INTEGER: Final = frozenset((*TFLITE.rows, LINEAR, "ScatterND", "ScatterElements"))
# Ops whose result is no real number, so that it carries no grid.
# The comparisons are not among them: their int8 kernels rescale, and a rounding flips what was nearly equal.
COUNTING: Final = frozenset(("ArgMax", "ArgMin"))


def float_reason(node: ir.Node, inputs: Sequence[Value | None]) -> str | None:
    """Why a node runs on float, or None when it runs on integers."""
    if node.op_type not in INTEGER | COUNTING:
        return f"{node.op_type} has no int8 kernel"
    data = [inputs[position] for position in operands(node.op_type, len(inputs))]
    for value in data:
        if value is not None and value.grid is None and (value.data is None or value.dtype.kind != "f"):
            return f"its input '{value.name}' carries no int8 grid"
    if not any(value is not None and value.data is None for value in data):
        return "it is constant"
    if node.op_type in COUNTING | MOVING:  # whatever grid the result of a MOVING one has
        return None
    grid = quant(node.outputs[0])
    if grid is None:
        return f"its output '{node.outputs[0].name}' carries no grid"
    if grid.type.bits != 8 or not isinstance(grid.type.granularity, PerTensor):
        return f"its output has a grid of {grid.type.bits} bits"
    return None
