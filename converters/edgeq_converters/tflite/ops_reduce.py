"""Reductions: over any axes, in the layout at hand."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder, NeedsFloat
from edgeq_converters.tflite.float_expr import Real
from edgeq_converters.tflite.layout import Layout, last, permute, without
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op

KERNEL = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceProd": "REDUCE_PROD", "ReduceMax": "REDUCE_MAX",
          "ReduceMin": "REDUCE_MIN"}
# ONNX op -> (what is done before a sum, what after it).
AROUND_SUM: dict[str, tuple[Callable[[Real], Real], Callable[[Real], Real]]] = {
    "ReduceL1": (lambda x: x.run("ABS"), lambda x: x),
    "ReduceL2": (lambda x: x * x, lambda x: x.run("SQRT")),
    "ReduceSumSquare": (lambda x: x * x, lambda x: x),
    "ReduceLogSum": (lambda x: x, lambda x: x.run("LOG")),
}


def _axes(b: Builder, x: Value, axes: Value | None, noop: int) -> list[int]:
    given = [] if axes is None else b.numbers(axes, "axes")
    if not given:
        return [] if noop else list(range(x.rank))
    return sorted({axis % x.rank for axis in given})


def _finish(b: Builder, tensor: Tensor, layout: Layout, axes: Sequence[int], keepdims: int) -> Value:
    """tensor: with the reduced axes still there."""
    if keepdims:
        return b.result(tensor, layout)
    kept = without(layout, axes)
    return b.result(b.reshape(tensor, permute(b.shape, kept)), kept)


@op("ReduceMean", "ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")
def reduce(b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1,
           noop_with_empty_axes: int = 0) -> Value:
    which = _axes(b, x, axes, noop_with_empty_axes)
    kernel = KERNEL[b.node.op_type]
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    if not which:
        return b.result(tensor, layout)
    if tensor.dtype == np.bool_:
        kernel = {"REDUCE_MAX": "REDUCE_ANY", "REDUCE_MIN": "REDUCE_ALL"}.get(kernel, kernel)
    kept = layout if keepdims else without(layout, which)
    made = b.through(kernel, [tensor, b.ints(sorted(layout.index(axis) for axis in which))], permute(b.shape, kept),
                     keepDims=bool(keepdims))
    return b.result(made, kept)


@op("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
def reduce_around_sum(b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1,
                      noop_with_empty_axes: int = 0) -> Value:
    which = _axes(b, x, axes, noop_with_empty_axes)
    before, after = AROUND_SUM[b.node.op_type]
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    real = before(Real(b, tensor if tensor.dtype == np.float32 else b.cast(tensor, np.float32)))
    if which:
        real = real.reduce("SUM", sorted(layout.index(axis) for axis in which))
    return _finish(b, b.cast(after(real).tensor, x.dtype), layout, which, keepdims)


@op("ReduceLogSumExp")
def reduce_log_sum_exp(b: Builder, x: Value, axes: Value | None = None, *, keepdims: int = 1,
                       noop_with_empty_axes: int = 0) -> Value:
    """Less the maximum first, so that nothing overflows."""
    which = _axes(b, x, axes, noop_with_empty_axes)
    layout = b.common_layout(x)
    real = Real(b, b.cast(b.read(x, layout), np.float32))
    if not which:
        return b.result(b.cast(real.tensor, x.dtype), layout)
    places = sorted(layout.index(axis) for axis in which)
    highest = real.reduce("REDUCE_MAX", places)
    made = (real - highest).run("EXP").reduce("SUM", places).run("LOG") + highest
    return _finish(b, b.cast(made.tensor, x.dtype), layout, which, keepdims)


@op("ArgMax", "ArgMin")
def arg(b: Builder, x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    axis %= x.rank
    kernel = "ARG_MAX" if b.node.op_type == "ArgMax" else "ARG_MIN"
    layout = b.common_layout(x)
    tensor, place, size = b.read(x, layout), layout.index(axis), x.shape[axis]
    if select_last_index:
        from edgeq_converters.tflite.ops_shape import gathered

        tensor = gathered(b, tensor, np.arange(size)[::-1], place)
    out = (*tensor.shape[:place], *tensor.shape[place + 1:])
    made = b.through(kernel, [tensor, b.ints(np.array(place))], out, dtype=np.int64, to=None, outputType=4)
    if select_last_index:
        made = b.call("SUB", [b.constant(np.array(size - 1, np.int64)), made], out)
    kept = without(layout, [axis])
    if keepdims:
        return b.result(b.reshape(made, permute(b.shape, layout)), layout)
    return b.result(made, kept)


@op("CumSum")
def cumulative_sum(b: Builder, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    layout = b.common_layout(x)
    place = layout.index(b.numbers(axis, "axis")[0] % x.rank)
    tensor = b.read(x, layout)
    made = b.through("CUMSUM", [tensor, b.ints(np.array(place))], tensor.shape, exclusive=bool(exclusive),
                     reverse=bool(reverse))
    return b.result(made, layout)


@op("TopK")
def top_k(b: Builder, x: Value, k: Value, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Value, Value]:
    """TOPK_V2 finds the largest of the last axis; the smallest are the largest of -x."""
    if b.integer or (not largest and x.dtype.kind != "f" and x.dtype != np.int64):
        raise NeedsFloat("TopK") if b.integer else CannotLower("the smallest of integers")
    axis %= x.rank
    layout = last(x.rank, axis)
    tensor, count = b.read(x, layout), b.numbers(k, "k")[0]
    source = tensor if largest else b.call("NEG", [tensor], tensor.shape)
    out = (*tensor.shape[:-1], count)
    values, index = b.call_many("TOPK_V2", [source, b.ints(np.array(count))], [out, out])
    index.dtype, index.grid = np.dtype(np.int32), None
    if not largest:
        values = b.call("NEG", [values], out)
    return b.result(values, layout), b.result(index, layout, 1)
