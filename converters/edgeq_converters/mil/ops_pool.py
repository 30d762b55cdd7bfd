"""Pooling in one to three spatial dimensions, NCHW."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.ops_conv import Pads, spatial, window_pads
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower


def _window(b: Builder, x: Operand, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
            amounts: Pads, ceil_mode: int) -> Pads:
    """The padding that makes whole windows of a partly filled last one. Windows must begin inside x or its padding."""
    if not ceil_mode:
        return amounts
    whole = []
    for n, k, s, d, (before, after) in zip(b.shape(x)[2:], kernel, strides, dilations, amounts, strict=True):
        reach = (k - 1) * d + 1
        count = -(-(n + before + after - reach) // s) + 1
        if (count - 1) * s >= n + before:
            count -= 1
        whole.append((before, max((count - 1) * s + reach - n - before, after)))
    return whole


def _pieces(b: Builder, x: Var, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[Var]:
    """The elements that a window sees, one tensor for each of its positions; x is padded already."""
    return [b.slice(x, [cut.start for cut in at], [cut.stop for cut in at], [cut.step for cut in at])
            for at in _windows(b.shape(x), kernel, strides, dilations)]


def _windows(shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
             ) -> list[tuple[slice, ...]]:
    """What every position of a window sees, over the whole of a padded tensor."""
    counts = [(n - (k - 1) * d - 1) // s + 1
              for n, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True)]
    return [(slice(0, shape[0], 1), slice(0, shape[1], 1),
             *(slice(p * d, p * d + (n - 1) * s + 1, s)
               for p, d, n, s in zip(position, dilations, counts, strides, strict=True)))
            for position in product(*(range(k) for k in kernel))]


@op("MaxPool")
def max_pool(b: Builder, x: Operand, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
             dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None, storage_order: int = 0,
             strides: Sequence[int] | None = None) -> Any:
    """-> y, and where asked for the place of every maximum in x as a flat index, by columns in storage_order 1."""
    count = len(kernel_shape)
    strides, dilations = spatial(strides, count), spatial(dilations, count)
    amounts = window_pads(auto_pad, pads, b.shape(x)[2:], kernel_shape, strides, dilations)
    amounts = _window(b, x, kernel_shape, strides, dilations, amounts, ceil_mode)
    assert b.node is not None
    if len(b.node.outputs) > 1:
        return _with_places(b, x, kernel_shape, strides, dilations, amounts, storage_order)
    if set(dilations) == {1}:
        return b.through_float(x, lambda v: _pool(b, "max_pool", v, kernel_shape, strides, amounts))
    padded = b.pad(x, [(0, 0), (0, 0), *amounts], float(np.finfo(b.dtype).min))
    return reduce(lambda p, q: b.op("maximum", x=p, y=q), _pieces(b, padded, kernel_shape, strides, dilations))


def _with_places(b: Builder, x: Operand, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
                 amounts: Pads, storage_order: int) -> tuple[Var, Var]:
    """The first of the largest elements of each window wins; padding never does."""
    shape = b.shape(x)
    space = shape[2:][::-1] if storage_order else shape[2:]
    order = [0, 1, *range(len(shape) - 1, 1, -1)] if storage_order else range(len(shape))
    places = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(*shape[:2], *space).transpose(list(order))
    margins = [(0, 0), (0, 0), *amounts]
    padded = b.var(b.pad(b.as_float(x), margins, float(np.finfo(b.dtype).min)))
    sources = np.pad(places, margins)
    best: Any = None
    for at, piece in zip(_windows(sources.shape, kernel, strides, dilations),
                         _pieces(b, padded, kernel, strides, dilations), strict=True):
        source = Constant(np.ascontiguousarray(sources[at]))
        if best is None:
            best, where = piece, b.var(source)
            continue
        where = b.op("select", cond=b.op("greater", x=piece, y=best), a=source, b=where)
        best = b.op("maximum", x=best, y=piece)
    return best if b.kind(x) == "float" else b.cast(best, b.kind(x)), where


def _pool(b: Builder, name: str, x: Var, kernel: Sequence[int], strides: Sequence[int], amounts: Pads,
          exclude: bool | None = None) -> Var:
    return b.op(name, x=x, kernel_sizes=list(kernel), strides=list(strides), pad_type="custom",
                pad=[amount for pair in amounts for amount in pair], exclude_padding_from_average=exclude)


@op("AveragePool")
def average_pool(b: Builder, x: Operand, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
                 count_include_pad: int = 0, dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None,
                 strides: Sequence[int] | None = None) -> Var:
    """The padding that ceil_mode adds never counts; the other does with count_include_pad."""
    count = len(kernel_shape)
    strides, dilations = spatial(strides, count), spatial(dilations, count)
    amounts = window_pads(auto_pad, pads, b.shape(x)[2:], kernel_shape, strides, dilations)
    whole = _window(b, x, kernel_shape, strides, dilations, amounts, ceil_mode)
    if count_include_pad:
        x = b.pad(x, [(0, 0), (0, 0), *amounts])
        whole = [(0, filled - after) for (_, filled), (_, after) in zip(whole, amounts, strict=True)]
    if set(dilations) == {1}:
        return _pool(b, "avg_pool", b.var(x), kernel_shape, strides, whole, exclude=True)
    return _mean_of_pieces(b, x, kernel_shape, strides, dilations, whole)


def _mean_of_pieces(b: Builder, x: Operand, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
                    amounts: Pads) -> Var:
    """Dilated mean over the elements that are not padding; how many those are is known at conversion."""
    shape = b.shape(x)
    margins = [(0, 0), (0, 0), *amounts]
    padded = b.var(b.pad(x, margins))
    ones = np.pad(np.ones((1, 1, *shape[2:])), margins)
    total = reduce(lambda p, q: b.op("add", x=p, y=q), _pieces(b, padded, kernel, strides, dilations))
    counts = sum(ones[at] for at in _windows(ones.shape, kernel, strides, dilations))
    return b.op("mul", x=total, y=1 / counts)


@op("LpPool")
def lp_pool(b: Builder, x: Operand, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
            dilations: Sequence[int] | None = None, p: int = 2, pads: Sequence[int] | None = None,
            strides: Sequence[int] | None = None) -> Var:
    """(sum of |x|^p)^(1/p)"""
    count = len(kernel_shape)
    strides, dilations = spatial(strides, count), spatial(dilations, count)
    amounts = window_pads(auto_pad, pads, b.shape(x)[2:], kernel_shape, strides, dilations)
    amounts = _window(b, x, kernel_shape, strides, dilations, amounts, ceil_mode)
    powers = b.pad(_power(b, b.op("abs", x=x), p), [(0, 0), (0, 0), *amounts])
    total = reduce(lambda u, v: b.op("add", x=u, y=v), _pieces(b, powers, kernel_shape, strides, dilations))
    return _power(b, total, 1 / p)


def _power(b: Builder, x: Operand, exponent: float) -> Var:
    if exponent == 1:
        return b.var(x)
    if exponent in (2, 0.5):
        return b.op("square" if exponent == 2 else "sqrt", x=x)
    return b.op("pow", x=x, y=float(exponent))


def _global(reduction: Callable[[Builder, Operand, list[int]], Var]) -> Callable[[Builder, Operand], Var]:
    def handler(b: Builder, x: Operand) -> Var:
        if b.rank(x) < 3:
            raise CannotLower(f"rank {b.rank(x)} has no spatial axes")
        return reduction(b, x, list(range(2, b.rank(x))))

    return handler


op("GlobalAveragePool")(_global(lambda b, x, axes: b.op("reduce_mean", x=x, axes=axes, keep_dims=True)))
op("GlobalMaxPool")(_global(lambda b, x, axes: b.op("reduce_max", x=x, axes=axes, keep_dims=True)))


@op("GlobalLpPool")
def global_lp_pool(b: Builder, x: Operand, *, p: int = 2) -> Var:
    powers = _power(b, b.op("abs", x=x), p)
    return _power(b, b.op("reduce_sum", x=powers, axes=list(range(2, b.rank(x))), keep_dims=True), 1 / p)


@op("MaxUnpool")
def max_unpool(b: Builder, x: Operand, places: Operand, output_shape: Operand = None, *,
               kernel_shape: Sequence[int], pads: Sequence[int] | None = None,
               strides: Sequence[int] | None = None) -> Operand:
    """Every element of x at its place, a flat index into the result; zeros elsewhere.

    The places count in output_shape where it is given, as in onnxruntime and torch; ONNX's reference evaluator counts
    in the shape that undoes the pooling: https://github.com/onnx/onnx/blob/main/onnx/reference/ops/op_max_unpool.py
    """
    shape, count = b.shape(x), len(kernel_shape)
    amounts = window_pads("NOTSET", pads, shape[2:], kernel_shape, spatial(strides, count), [1] * count)
    undone = [*shape[:2], *((n - 1) * s + k - before - after for n, s, k, (before, after) in zip(
        shape[2:], spatial(strides, count), kernel_shape, amounts, strict=True))]
    wanted = undone if output_shape is None else b.ints(output_shape, "output_shape")
    size, elements = int(np.prod(wanted)), int(np.prod(shape))
    flat = b.op("scatter", data=np.zeros(size, np.float32), indices=b.reshape(b.as_int(places), (elements,)),
                updates=b.reshape(b.as_float(x), (elements,)), axis=0, mode="update")
    return b.reshape(flat, wanted)
