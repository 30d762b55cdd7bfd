"""Roots of sums of squares in half precision, where 256 squared is beyond the largest number and 2e-4 squared is 0.

    sqrt(mean x^2 + epsilon)     =>     m sqrt(mean (x / m)^2 + epsilon / m^2), m the largest |x|

So a norm stays in half precision, and on the Neural Engine, whatever the size of what it norms.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import all_nodes, attribute, constant, largest, only_reader, quant, rank, static
from edgeq.passes.rewrite import is_number, producer, replace, with_scalar
from edgeq_converters.mil.builder import FLOAT16_MAX, Builder, Operand, Var
from edgeq_converters.mil.table import op
from edgeq_converters.prepare import DOMAIN

TINY: Final = float(np.finfo(np.float16).tiny)
FEW: Final = 2**15  # of so many numbers up to 1 the squares may be summed


# ---------------------------------------------------------------------- in the graph
def recognize_roots(graph: ir.Graph, max_rank: int) -> None:
    """x -> Mul(x, x) -> ReduceMean -> Add(epsilon) -> Sqrt     =>     edgeq::RootOfSquares(x), in place.

    Also with Pow(x, 2), ReduceSum or GlobalAveragePool, and without epsilon; where nobody else reads what lies between.
    max_rank: of x.
    """
    for node in list(all_nodes(graph)):
        if node.op_type == "Sqrt":
            _recognize(node, max_rank)


def _recognize(root: ir.Node, max_rank: int) -> None:
    total, epsilon = with_scalar(root.inputs[0], "Add") or (root.inputs[0], 0.0)
    reduction = producer(total, "ReduceMean", "ReduceSum", "GlobalAveragePool")
    square = None if reduction is None else producer(reduction.inputs[0], "Mul", "Pow")
    if reduction is None or square is None or epsilon < 0 or quant(root.outputs[0]) is not None:
        return
    x, shape, axes = square.inputs[0], static(square.inputs[0]), _axes(reduction)
    squared = is_number(square.inputs[1], 2) if square.op_type == "Pow" else square.inputs[1] is x
    before = root.inputs[0].producer() if root.inputs[0] is not None else None
    chain = [square, reduction, *([before] if before is not None and before is not reduction else []), root]
    if not squared or x is None or shape is None or len(shape) > max_rank or not axes or any(
            only_reader(node.outputs[0]) is not reader or quant(node.outputs[0]) is not None
            for node, reader in pairwise(chain)):
        return
    replace(root, "RootOfSquares", [x], axes=[axis % len(shape) for axis in axes], epsilon=float(epsilon),
            mean=int(reduction.op_type != "ReduceSum"), keepdims=attribute(reduction, "keepdims", 1)).domain = DOMAIN
    assert square.graph is not None
    square.graph.remove(chain[:-1], safe=True)


def _axes(reduction: ir.Node) -> list[int]:
    """Those that are reduced; [] where they are not constant, or all."""
    if reduction.op_type == "GlobalAveragePool":
        return list(range(2, rank(reduction.outputs[0])))
    data = constant(reduction.inputs[1]) if len(reduction.inputs) > 1 else None
    return [] if data is None else [int(axis) for axis in data.reshape(-1)]


@op("RootOfSquares")
def root_of_squares_(b: Builder, x: Operand, *, axes: Sequence[int], epsilon: float, mean: int, keepdims: int,
                     ) -> Operand:
    """edgeq::RootOfSquares: sqrt(sum x^2 + epsilon) along the axes, or of the mean."""
    root = root_of_squares(b, x, axes, mean=bool(mean), epsilon=epsilon)
    return root if keepdims else b.reshape(root, [dim for axis, dim in enumerate(b.shape(x)) if axis not in axes])


# ---------------------------------------------------------------------- in the program
def overflow(b: Builder, x: Operand, count: int = 1) -> bool:
    """Whether a sum of so many squares of the first input of the node being lowered may pass what is computed in."""
    source = b.node.inputs[0] if b.node is not None else None
    known = None if source is None else largest(source)
    return b.dtype is np.float16 and b.kind(x) == "float" and (known is None or count * known**2 > FLOAT16_MAX)


def root_of_squares(b: Builder, x: Operand, axes: Sequence[int], *, mean: bool = False, epsilon: float = 0.0) -> Var:
    """sqrt(sum x^2 + epsilon), or of the mean, along the axes, which stay with size 1."""
    count = prod(b.shape(x)[axis] for axis in axes)
    if not overflow(b, x, 1 if mean else count):
        return b.op("sqrt", x=_plus(b, _powers(b, x, axes, mean), epsilon))
    if not mean and count > FEW:
        return b.op("mul", x=root_of_squares(b, x, axes, mean=True, epsilon=epsilon / count), y=sqrt(count))
    size, part = _scaled(b, x, axes, epsilon)
    return b.op("mul", x=size, y=b.op("sqrt", x=_plus(b, _powers(b, part, axes, mean), epsilon, size)))


def over_root_of_squares(b: Builder, x: Operand, axes: Sequence[int]) -> Var:
    """x / sqrt(sum x^2); zeros stay zeros."""
    if overflow(b, x, prod(b.shape(x)[axis] for axis in axes)):
        x = _scaled(b, x, axes, 0.0)[1]
        norm = b.op("sqrt", x=_powers(b, x, axes, mean=False))
    else:
        norm = root_of_squares(b, x, axes)
    return b.op("real_div", x=x, y=b.op("maximum", x=norm, y=float(np.finfo(b.dtype).tiny)))


def _scaled(b: Builder, x: Operand, axes: Sequence[int], epsilon: float) -> tuple[Var, Var]:
    """-> (m, x / m), m the largest |x| along the axes; not so small that epsilon / m^2 passes 256, as below that m
    epsilon decides alone."""
    size = b.op("reduce_max", x=b.op("abs", x=x), axes=list(axes), keep_dims=True)
    size = b.op("maximum", x=size, y=max(sqrt(epsilon) / 16, TINY))
    return size, b.op("real_div", x=x, y=size)


def _powers(b: Builder, x: Operand, axes: Sequence[int], mean: bool) -> Var:
    return b.op("reduce_mean" if mean else "reduce_sum", x=b.op("square", x=x), axes=list(axes), keep_dims=True)


def _plus(b: Builder, power: Var, epsilon: float, size: Var | None = None) -> Var:
    """power + epsilon / size^2"""
    if not epsilon:
        return power
    part = epsilon if size is None else b.op("square", x=b.op("real_div", x=sqrt(epsilon), y=size))
    return b.op("add", x=power, y=part)
