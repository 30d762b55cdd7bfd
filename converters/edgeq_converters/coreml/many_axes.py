"""Operators on more axes than Core ML has, through views with fewer.

A value of rank 6 and more is never written: it is a `Merged`, and every operator looks at it as its own work allows.
Softmax sees [before, the axis, behind], Add one axis for each run that is broadcast alike; a Reshape is but another
view. What has no rule here is refused as soon as it wants such a value in full.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeq_converters.coreml.axes import isolated, merged
from edgeq_converters.coreml.builder import MAX_RANK, Builder, Merged
from edgeq_converters.coreml.table import TABLE
from edgeq_converters.mil.builder import Constant, Operand
from edgeq_converters.mil.ops_activation import ONE_TO_ONE
from edgeq_converters.mil.ops_elementwise import BINARY, UNARY, VARIADIC
from edgeq_converters.mil.ops_reduce import REDUCTIONS
from edgeq_converters.optable import CannotLower, Handler, explicit_attributes

Inputs: TypeAlias = Sequence[Operand]
Attributes: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[Builder, Handler, Inputs, Attributes], Any]


def lower(node: ir.Node, b: Builder, inputs: Inputs) -> Any:
    """As `TABLE.lower`, whatever the rank.

    Raises:
        CannotLower: see `TABLE.lower`; or the form needs more than five axes.
    """
    given = [b.rank(operand) for operand in inputs if operand is not None]
    computed = [len(value.shape) for value in node.outputs if value.shape is not None]
    rule = RULES.get(node.op_type)
    if rule is None or max((*given, *computed), default=0) <= MAX_RANK:
        return TABLE.lower(node, b, inputs)
    return rule(b, TABLE.handler(node), inputs, explicit_attributes(node))


# ---------------------------------------------------------------------- views
def _isolated(b: Builder, x: Operand, axis: int) -> tuple[Operand, int]:
    """A view of x in which one of its axes is an axis too, and which."""
    if b.rank(x) <= MAX_RANK:
        return x, axis
    before, size, behind = isolated(b.shape(x), axis)
    if isinstance(x, Merged):
        have = b.shape(x.var)
        for at, dim in enumerate(have):
            if dim == size and prod(have[:at]) == before:
                return x.var, at
    return b.reshape(x, (before, size, behind)), 1


def _whole(b: Builder, x: Operand) -> Operand:
    """A view of all elements."""
    if isinstance(x, Merged):
        return x.var
    return x if b.rank(x) <= MAX_RANK else b.reshape(x, (prod(b.shape(x)),))


def _along(shape: Sequence[int], axis: int, size: int) -> list[int]:
    return [size if number == axis else dim for number, dim in enumerate(shape)]


# ---------------------------------------------------------------------- every element on its own
def _unary(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """Of the first input; others are numbers."""
    return b.reshape(handler(b, _whole(b, inputs[0]), *inputs[1:], **attributes), b.shape(inputs[0]))


def _elementwise(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    shapes = [b.shape(operand) for operand in inputs]
    out = np.broadcast_shapes(*shapes)
    padded = [(1,) * (len(out) - len(shape)) + shape for shape in shapes]
    runs = merged(out, list(zip(*([dim == 1 for dim in shape] for shape in padded), strict=True)))
    if len(runs) > MAX_RANK:  # once the smallest is written in full, runs are fewer
        small = min((number for number, shape in enumerate(padded) if prod(shape) != 1 and shape != out),
                    key=lambda number: prod(padded[number]))
        return _elementwise(b, handler, [b.broadcast(operand, out) if number == small else operand
                                         for number, operand in enumerate(inputs)], attributes)
    whole = next((b.shape(v.var) for v in inputs if isinstance(v, Merged) and v.shape == out), (prod(out),))

    def view(operand: Operand, shape: Sequence[int]) -> Operand:
        if prod(shape) == 1:
            return b.reshape(operand, ())
        return b.reshape(operand, [prod(shape[axis] for axis in axes) for _, axes in runs] if len(runs) > 1 else whole)

    return b.reshape(handler(b, *map(view, inputs, padded), **attributes), out)


# ---------------------------------------------------------------------- along one axis
def _axis(default: int) -> Rule:
    """An operator that keeps the shape."""
    def rule(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
        shape = b.shape(inputs[0])
        view, at = _isolated(b, inputs[0], attributes.get("axis", default) % len(shape))
        return b.reshape(handler(b, view, **{**attributes, "axis": at}), shape)

    return rule


def _cum_sum(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    shape = b.shape(inputs[0])
    view, at = _isolated(b, inputs[0], b.ints(inputs[1], "axis")[0] % len(shape))
    return b.reshape(handler(b, view, Constant(np.array(at)), **attributes), shape)


def _arg(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    shape = b.shape(inputs[0])
    axis = attributes.get("axis", 0) % len(shape)
    view, at = _isolated(b, inputs[0], axis)
    found = handler(b, view, **{**attributes, "axis": at, "keepdims": 1})
    return b.reshape(found, [*shape[:axis], *[1] * attributes.get("keepdims", 1), *shape[axis + 1:]])


def _top_k(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> tuple[Operand, ...]:
    shape = b.shape(inputs[0])
    axis = attributes.get("axis", -1) % len(shape)
    view, at = _isolated(b, inputs[0], axis)
    return tuple(b.reshape(found, _along(shape, axis, found.shape[at]))
                 for found in handler(b, view, *inputs[1:], **{**attributes, "axis": at}))


def _split(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> tuple[Operand, ...]:
    shape = b.shape(inputs[0])
    axis = attributes.get("axis", 0) % len(shape)
    view, at = _isolated(b, inputs[0], axis)
    parts = handler(b, view, *inputs[1:], **{**attributes, "axis": at})
    parts = parts if isinstance(parts, tuple) else (parts,)
    return tuple(b.reshape(part, _along(shape, axis, part.shape[at])) for part in parts)


def _concat(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    shapes = [b.shape(operand) for operand in inputs]
    axis = attributes["axis"] % len(shapes[0])
    views = [b.reshape(operand, isolated(shape, axis)) for operand, shape in zip(inputs, shapes, strict=True)]
    return b.reshape(handler(b, *views, axis=1), _along(shapes[0], axis, sum(shape[axis] for shape in shapes)))


def _slice(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """One axis after the other."""
    x, first, last = inputs[0], b.ints(inputs[1], "starts"), b.ints(inputs[2], "ends")
    axes = b.ints(inputs[3], "axes") if len(inputs) > 3 and inputs[3] is not None else range(len(first))
    steps = b.ints(inputs[4], "steps") if len(inputs) > 4 and inputs[4] is not None else [1] * len(first)
    for numbers in zip(first, last, axes, steps, strict=True):
        shape = b.shape(x)
        axis = numbers[2] % len(shape)
        view, at = _isolated(b, x, axis)
        start, end, along, step = (Constant(np.array([n])) for n in (*numbers[:2], at, numbers[3]))
        part = handler(b, view, start, end, along, step)
        x = b.reshape(part, _along(shape, axis, part.shape[at]))
    return x


def _pad(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """One axis after the other."""
    x, amounts, value, given = (*inputs, None, None)[:4]
    rank, pads = b.rank(x), b.ints(amounts, "pads")
    axes = list(range(rank)) if given is None else b.ints(given, "axes")
    for axis, *pair in zip(axes, pads[:len(axes)], pads[len(axes):], strict=True):
        if any(pair):
            shape = b.shape(x)
            view, at = _isolated(b, x, axis % rank)
            part = handler(b, view, Constant(np.array(pair)), value, Constant(np.array([at])), **attributes)
            x = b.reshape(part, _along(shape, axis % rank, part.shape[at]))
    return x


def _tile(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """One axis after the other."""
    x = inputs[0]
    for axis, count in enumerate(b.ints(inputs[1], "repeats")):
        if count != 1:
            shape = b.shape(x)
            view, at = _isolated(b, x, axis)
            repeats = _along([1] * b.rank(view), at, count)
            x = b.reshape(handler(b, view, Constant(np.array(repeats))), _along(shape, axis, shape[axis] * count))
    return x


# ---------------------------------------------------------------------- at indices
def _gather(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """Along one axis of x, with all indices in one row."""
    x, indices = inputs
    shape = b.shape(x)
    axis = attributes.get("axis", 0) % len(shape)
    view = b.reshape(x, isolated(shape, axis))
    found = handler(b, view, b.reshape(indices, (prod(b.shape(indices)),)), axis=1)
    return b.reshape(found, (*shape[:axis], *b.shape(indices), *shape[axis + 1:]))


def _elements(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """GatherElements, and ScatterElements with its updates."""
    shape, wanted = b.shape(inputs[0]), b.shape(inputs[1])
    axis = attributes.get("axis", 0) % len(shape)
    if _along(shape, axis, wanted[axis]) != list(wanted):
        raise CannotLower(f"rank {len(shape)} with indices for a part of the data; Core ML ends at {MAX_RANK}")
    views = [b.reshape(operand, isolated(b.shape(operand), axis)) for operand in inputs]
    return b.reshape(handler(b, *views, **{**attributes, "axis": 1}), wanted if len(inputs) == 2 else shape)


def _gather_nd(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """x as [batch, the axes that are indexed, the rest], indices as [batch, places, axes]."""
    shape, wanted, batch = b.shape(inputs[0]), b.shape(inputs[1]), attributes.get("batch_dims", 0)
    count, head = wanted[-1], [prod(shape[:batch])] * bool(batch)
    x = b.reshape(inputs[0], (*head, *shape[batch:batch + count], prod(shape[batch + count:])))
    indices = b.reshape(inputs[1], (*head, prod(wanted[batch:-1]), count))
    return b.reshape(handler(b, x, indices, batch_dims=len(head)), (*wanted[:-1], *shape[batch + count:]))


def _scatter_nd(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    shape, wanted = b.shape(inputs[0]), b.shape(inputs[1])
    count, places = wanted[-1], prod(wanted[:-1])
    rest = prod(shape[count:])
    x = b.reshape(inputs[0], (*shape[:count], rest))
    indices, updates = b.reshape(inputs[1], (places, count)), b.reshape(inputs[2], (places, rest))
    return b.reshape(handler(b, x, indices, updates, **attributes), shape)


# ---------------------------------------------------------------------- over several axes
def _reduction(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    x, shape = inputs[0], b.shape(inputs[0])
    wanted = b.ints(inputs[1], "axes") if len(inputs) > 1 and inputs[1] is not None else []
    if not wanted and attributes.get("noop_with_empty_axes", 0):
        return _unary(b, handler, inputs, attributes)
    axes = sorted({axis % len(shape) for axis in wanted} or range(len(shape)))
    out = [1 if axis in axes else dim for axis, dim in enumerate(shape)]
    runs = merged(shape, [axis in axes for axis in range(len(shape))])
    if len(runs) > MAX_RANK:
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        x = b.transpose(x, [*kept, *axes])
        runs = [(False, kept), (True, axes)]
    view = b.reshape(x, [prod(shape[axis] for axis in run) for _, run in runs] or [1])
    along = [number for number, (reduced, _) in enumerate(runs) if reduced]
    reduced = handler(b, view, Constant(np.array(along)), keepdims=1) if along else _of_one(b, handler, view)
    return b.reshape(reduced, out if attributes.get("keepdims", 1) else [
        dim for axis, dim in enumerate(shape) if axis not in axes])


def _of_one(b: Builder, handler: Handler, view: Operand) -> Operand:
    """All axes that are reduced have one element."""
    behind = b.reshape(view, (*b.shape(view), 1)) if b.rank(view) < MAX_RANK else b.reshape(
        view, (prod(b.shape(view)), 1))
    return handler(b, behind, Constant(np.array([-1])), keepdims=1)


def _normalization(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Any:
    """Over the last axes: x as [rows, elements of one], scale and bias as [elements of one]."""
    shape = b.shape(inputs[0])
    axis = attributes.get("axis", -1) % len(shape)
    size = prod(shape[axis:])
    if any(prod(b.shape(factor)) != size for factor in inputs[1:] if factor is not None):
        raise CannotLower(f"rank {len(shape)} with a scale that is broadcast; Core ML ends at {MAX_RANK}")
    factors = [None if factor is None else b.reshape(factor, (size,)) for factor in inputs[1:]]
    results = handler(b, b.reshape(inputs[0], (prod(shape[:axis]), size)), *factors, **{**attributes, "axis": 1})
    if not isinstance(results, tuple):
        return b.reshape(results, shape)
    one = (*shape[:axis], *[1] * (len(shape) - axis))
    return tuple(b.reshape(result, shape if number == 0 else one) for number, result in enumerate(results))


def _triangle(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    shape = b.shape(inputs[0])
    view = b.reshape(inputs[0], (prod(shape[:-2]), *shape[-2:]))
    return b.reshape(handler(b, view, *inputs[1:], **attributes), shape)


# ---------------------------------------------------------------------- matrices
def _rows(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """[.., K] times a matrix [K, N], which may be packed."""
    shape = b.shape(inputs[0])
    product = handler(b, b.reshape(inputs[0], (prod(shape[:-1]), shape[-1])), *inputs[1:], **attributes)
    return b.reshape(product, (*shape[:-1], b.shape(inputs[1])[1]))


def _matmul(b: Builder, handler: Handler, inputs: Inputs, attributes: Attributes) -> Operand:
    """Batch axes as of `_elementwise`, rows and columns in between."""
    left, right = (b.shape(operand) for operand in inputs)
    if len(right) == 2:
        return _rows(b, handler, inputs, attributes)
    if min(len(left), len(right)) == 1:  # a row, or a column
        x = inputs[0] if len(left) > 1 else b.reshape(inputs[0], (1, *left))
        y = inputs[1] if len(right) > 1 else b.reshape(inputs[1], (*right, 1))
        return b.reshape(_matmul(b, handler, (x, y), attributes), (*left[:-1], *right[:-2], *right[-1:] * (
            len(right) > 1)))
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    padded = [(1,) * (len(batch) + 2 - len(shape)) + shape for shape in (left, right)]
    runs = merged(batch, [(x == 1, y == 1) for x, y in zip(*padded, strict=True)][:-2])
    operands = list(inputs)
    if len(runs) > MAX_RANK - 2:
        operands = [b.broadcast(operand, (*batch, *shape[-2:])) for operand, shape in zip(inputs, padded, strict=True)]
        runs, padded = [(None, list(range(len(batch))))], [(*batch, *shape[-2:]) for shape in padded]
    views = [b.reshape(operand, (*(prod(shape[axis] for axis in axes) for _, axes in runs), *shape[-2:]))
             for operand, shape in zip(operands, padded, strict=True)]
    return b.reshape(handler(b, *views), (*batch, left[-2], right[-1]))


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys((*UNARY, *ONE_TO_ONE, "Relu", "ThresholdedRelu", "Gelu", "HardSwish", "Swish", "Mish", "Selu",
                     "Celu", "Shrink", "Cast", "Narrow", "CastLike", "Neg", "Reciprocal", "Log", "Asinh", "Acosh",
                     "Clip", "IsNaN", "IsInf", "BitwiseNot"), _unary),
    **dict.fromkeys((*BINARY, *VARIADIC, "Equal", "Mean", "Div", "Mod", "Pow", "Where", "PRelu", "BitShift",
                     "BitwiseAnd", "BitwiseOr", "BitwiseXor"), _elementwise),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), _axis(-1)),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("GatherElements", "ScatterElements"), _elements),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _normalization),
    "CumSum": _cum_sum, "TopK": _top_k, "Split": _split, "Concat": _concat, "Slice": _slice, "Pad": _pad,
    "Tile": _tile, "Gather": _gather, "GatherND": _gather_nd, "ScatterND": _scatter_nd, "Trilu": _triangle,
    "Linear": _rows, "MatMul": _matmul,
}
