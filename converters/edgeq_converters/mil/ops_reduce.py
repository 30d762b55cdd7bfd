"""Reductions, arg-reductions, sorting, running sums."""
from __future__ import annotations

from typing import Any, Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.squares import root_of_squares
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower, Handler

# ONNX op -> MIL op before, reduction, MIL op after.
REDUCTIONS: Final = {
    "ReduceMean": ("", "reduce_mean", ""), "ReduceSum": ("", "reduce_sum", ""), "ReduceMax": ("", "reduce_max", ""),
    "ReduceMin": ("", "reduce_min", ""), "ReduceProd": ("", "reduce_prod", ""), "ReduceL1": ("abs", "reduce_sum", ""),
    "ReduceL2": ("square", "reduce_sum", "sqrt"), "ReduceSumSquare": ("square", "reduce_sum", ""),
    "ReduceLogSum": ("", "reduce_sum", "log"), "ReduceLogSumExp": ("", "reduce_log_sum_exp", ""),
}


def _reduction(before: str, mil: str, after: str) -> Handler:
    def handler(b: Builder, x: Operand, axes: Operand = None, *, keepdims: int = 1,
                noop_with_empty_axes: int = 0) -> Operand:
        wanted = [] if axes is None else b.ints(axes, "axes")
        if not wanted and noop_with_empty_axes:
            return _after(b, b.op(before, x=x) if before else b.var(x), after)
        kind = b.kind(x)
        if kind == "bool":
            x = b.as_int(x)
        shape = b.shape(x)
        along = sorted({axis % len(shape) for axis in wanted}) if wanted else list(range(len(shape)))
        if not shape:
            return x
        if (before, after) == ("square", "sqrt") and b.kind(x) == "float":
            root = root_of_squares(b, x, along)
            return root if keepdims else b.reshape(root, [dim for axis, dim in enumerate(shape) if axis not in along])
        if before:
            x = b.op(before, x=x)
        kept = b.op(mil, x=x, axes=along, keep_dims=True)
        kept = b.cast(_after(b, kept, after), "bool") if kind == "bool" else _after(b, kept, after)
        if keepdims:
            return kept
        return b.reshape(kept, [dim for axis, dim in enumerate(shape) if axis not in along])

    return handler


def _after(b: Builder, x: Var, name: str) -> Var:
    if not name:
        return x
    if b.kind(x) == "int":
        raise CannotLower("logarithm or root of integers")
    return b.op(name, x=x, epsilon=0.0) if name == "log" else b.op(name, x=x)


for _name, _row in REDUCTIONS.items():
    op(_name)(_reduction(*_row))


def _arg(mil: str) -> Handler:
    def handler(b: Builder, x: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Operand:
        shape = b.shape(x)
        axis %= len(shape)
        if select_last_index:
            x = b.op("reverse", x=x, axes=[axis])
        index = b.op(mil, x=x, axis=axis, keep_dims=True)
        if select_last_index:
            index = b.op("sub", x=np.int32(shape[axis] - 1), y=index)
        return index if keepdims else b.reshape(index, [dim for at, dim in enumerate(shape) if at != axis])

    return handler


op("ArgMax")(_arg("reduce_argmax"))
op("ArgMin")(_arg("reduce_argmin"))


@op("TopK")
def top_k(b: Builder, x: Operand, k: Operand, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    """-> (values, indices)"""
    return tuple(b.op("topk", x=x, k=b.ints(k, "K")[0], axis=axis, ascending=not largest))


@op("CumSum")
def cum_sum(b: Builder, x: Operand, axis: Operand, *, exclusive: int = 0, reverse: int = 0) -> Var:
    along = b.ints(axis, "axis")[0] % b.rank(x)
    return b.op("cumsum", x=x, axis=along, exclusive=bool(exclusive), reverse=bool(reverse))


@op("NonZero")
def non_zero(b: Builder, x: Operand) -> Var:
    """-> int [rank, found]; MIL counts along the first axis."""
    return b.op("transpose", x=b.op("non_zero", x=x), perm=[1, 0])


@op("OneHot")
def one_hot(b: Builder, indices: Operand, depth: Operand, values: Operand, *, axis: int = -1) -> Var:
    """off where the index, counted from the end when negative, is not the position; on where it is."""
    count = b.ints(depth, "depth")[0]
    shape = b.shape(indices)
    axis %= len(shape) + 1
    index = b.reshape(indices, (*shape[:axis], 1, *shape[axis:]))
    kind = np.float32 if b.kind(indices) == "float" else np.int32  # an index of 0.5 is no position
    position = np.arange(count).astype(kind).reshape([-1 if a == axis else 1 for a in range(len(shape) + 1)])
    hit = b.op("logical_or", x=b.op("equal", x=index, y=Constant(position)),
               y=b.op("equal", x=index, y=Constant(position - count)))
    off, on = (b.slice(values, [k], [k + 1]) for k in (0, 1))
    found = b.cast(hit, "float" if b.kind(values) == "float" else "int")
    return b.op("add", x=off, y=b.op("mul", x=found, y=b.op("sub", x=on, y=off)))
