"""Which ONNX ops can run on integers here, and why a node does not: the rows behind the float fallbacks of a report."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from edgeq.graph import quant
from edgeq.ops import MOVING, operands, weight_inputs
from edgeq.scheme import PerTensor
from edgeq_converters.prepare import LINEAR
from edgeq_converters.tflite.builder import has_kernels
from edgeq_converters.tflite.program import Value
from edgeq_converters.tflite.target import TFLITE

# The planner's rows, a MatMul with its bias, and scatters: ops with an int8 kernel, or a form made of such; and
# those with one of int16.
INTEGER: Final = frozenset((*TFLITE.rows, LINEAR, "ScatterND", "ScatterElements"))
WIDE: Final = frozenset((*TFLITE.wide, LINEAR))
# Ops whose result is no real number, so that it carries no grid.
# The comparisons are not among them: their int8 kernels rescale, and a rounding flips what was nearly equal.
COUNTING: Final = frozenset(("ArgMax", "ArgMin"))


def float_reason(node: ir.Node, inputs: Sequence[Value | None]) -> str | None:
    """Why a node runs on float, or None when it runs on integers."""
    if node.op_type not in INTEGER | COUNTING:
        return f"{node.op_type} has no int8 kernel"
    positions = operands(node.op_type, len(inputs))
    data = [inputs[position] for position in positions]
    for value in data:
        if value is not None and value.grid is None and (value.data is None or value.dtype.kind != "f"):
            return f"its input '{value.name}' carries no int8 grid"
        if value is not None and value.grid is not None and value.grid.type.bits == 16 and value.grid.zero_point.any():
            return f"its input '{value.name}' lies on 16 bits that are not around 0"
    if not any(value is not None and value.data is None for value in data):
        return "it is constant"
    bits = {max(value.grid.type.bits, 8) for position, value in zip(positions, data, strict=True)
            if value is not None and value.grid is not None and (position not in weight_inputs(node.op_type)
                                                                 or value.data is None)}
    if bits == {16} and node.op_type not in WIDE:
        return f"{node.op_type} has no int16 kernel"
    if node.op_type in COUNTING | MOVING:  # whatever grid the result of a MOVING one has
        return None
    grid = quant(node.outputs[0])
    if grid is None:
        return f"its output '{node.outputs[0].name}' carries no grid"
    if not has_kernels(grid) or not isinstance(grid.type.granularity, PerTensor):
        return f"its output has a grid of {grid.type.bits} bits"
    if len(bits | {grid.type.bits}) > 1 and node.op_type != "Identity":
        return "its inputs and its output lie on grids of different widths"
    return None
