"""Constants in the making, questions about shapes, If."""
from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from .case import Case, case, const, given, then, x


def _branch(op: str) -> ir.Graph:
    """y = op(t), where t [2,3,5], the input of the row's tail, belongs to the graph around it."""
    source = ir.Value(name="t0_0", shape=ir.Shape((2, 3, 5)), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node(op, [source], name=f"branch_{op}", outputs=[ir.Value(
        name=f"{op}_y", shape=ir.Shape((2, 3, 5)), type=ir.TensorType(ir.DataType.FLOAT))])
    return ir.Graph([], node.outputs, nodes=[node], name=op)


CASES: Final[tuple[Case, ...]] = (
    case("shape", "Shape", x(2, 3, 5)),
    case("shape-part", "Shape", x(2, 3, 5, 4), start=1, end=-1),
    case("size", "Size", x(2, 3, 5)),
    case("constant", "Constant", tail=[then("Add", x(2, 3))], value=ir.tensor(np.array([1.5, -2, 0.5], np.float32))),
    case("constant-of-shape", "ConstantOfShape", given([3, 1]), tail=[then("Mul", x(2, 3, 4))],
         value=ir.tensor(np.array([2.5], np.float32))),
    case("constant-of-shape-default", "ConstantOfShape", given([3, 1]), tail=[then("Add", x(2, 3, 4))]),
    case("range", "Range", given(1.0, "float32"), given(4.0, "float32"), given(0.5, "float32"),
         tail=[then("Add", x(2, 6))]),
    case("eye-like", "EyeLike", x(3, 5), k=1),
    case("non-zero", "NonZero", x(3, 5, lattice=1.0)),
    case("if", "If", x(1, dtype="bool"), tail=[then("Add", x(2, 3, 5))], then_branch=_branch("Exp"),
         else_branch=_branch("Sin")),
    case("cast-like", "CastLike", x(2, 7, dtype="int32", low=-9, high=9), const(1)),
    case("cast-like-to-int", "CastLike", x(2, 7, low=-4, high=4, lattice=0.125), const(1, dtype="int32")),
)

