"""Which ONNX ops can run on integers here, and why a node does not: the rows behind the float islands of a report."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from edgeq.graph import quant
from edgeq.scheme import PerTensor
from edgeq_converters.tflite.program import Value

# Ops whose result is some of its input's numbers (MaxPool and ReduceMax included): right on integers whatever grid the
# result has.
MOVING: Final = frozenset((
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "GatherND", "GatherElements",
    "Split", "Expand",
    "Tile", "DepthToSpace", "SpaceToDepth", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Pad", "Identity",
    "Dropout",
))
# Ops with an int8 kernel or a form made of int8 kernels -> positions of the data inputs (None: all).
INTEGER: Final[dict[str, tuple[int, ...] | None]] = {
    **dict.fromkeys(MOVING, (0,)),
    "Conv": (0, 1), "ConvTranspose": (0, 1), "Gemm": (0, 1), "MatMul": (0, 1), "Linear": (0, 1),
    "AveragePool": (0,), "GlobalAveragePool": (0,), "Resize": (0,), "ReduceMean": (0,),
    "Add": None, "Sub": None, "Mul": None, "Max": None, "Min": None, "Sum": None, "Concat": None, "Where": (1, 2),
    "PRelu": (0, 1), "LeakyRelu": (0,), "Relu": (0,), "Clip": (0,), "Abs": (0,), "Neg": (0,), "Exp": (0,), "Elu": (0,),
    "Gelu": (0,), "HardSwish": (0,), "HardSigmoid": (0,), "Swish": (0,), "Sigmoid": (0,), "Tanh": (0,), "Softmax": (0,),
    "LogSoftmax": (0,),
}
# Ops whose result is no real number, so that it carries no grid.
# The comparisons are not among them: their int8 kernels rescale, and a rounding flips what was nearly equal.
COUNTING: Final = frozenset(("ArgMax", "ArgMin"))


def float_reason(node: ir.Node, inputs: Sequence[Value | None]) -> str | None:
    """Why a node runs on float, or None when it runs on integers."""
    if node.op_type in COUNTING:
        positions: tuple[int, ...] | None = (0,)
    elif node.op_type not in INTEGER:
        return f"{node.op_type} has no int8 kernel"
    else:
        positions = INTEGER[node.op_type]
    chosen = range(len(inputs)) if positions is None else positions
    data = [inputs[position] for position in chosen if position < len(inputs)]
    for value in data:
        if value is not None and value.grid is None and (value.data is None or value.dtype.kind != "f"):
            return f"its input '{value.name}' carries no int8 grid"
    if not any(value is not None and value.data is None for value in data):
        return "it is constant"
    if node.op_type in COUNTING or node.op_type in MOVING:
        return None
    grid = quant(node.outputs[0])
    if grid is None:
        return f"its output '{node.outputs[0].name}' carries no grid"
    if grid.type.bits != 8 or not isinstance(grid.type.granularity, PerTensor):
        return f"its output has a grid of {grid.type.bits} bits"
    return None
