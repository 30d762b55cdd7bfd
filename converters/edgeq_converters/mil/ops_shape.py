"""Ops that move, repeat or cut elements, and those that ask for a shape."""
from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.table import op


@op("Shape")
def shape_(b: Builder, x: Operand, *, start: int = 0, end: int | None = None) -> Constant:
    return Constant(np.array(b.shape(x)[start:end], np.int64))


@op("Size")
def size(b: Builder, x: Operand) -> Constant:
    return Constant(np.array(np.prod(b.shape(x), dtype=np.int64)))


@op("Reshape")
def reshape(b: Builder, x: Operand, shape: Operand, *, allowzero: int = 0) -> Operand:
    have, wanted = b.shape(x), b.ints(shape, "shape")
    if not allowzero:
        wanted = [have[axis] if dim == 0 else dim for axis, dim in enumerate(wanted)]
    if -1 in wanted:
        known = int(np.prod([dim for dim in wanted if dim != -1], dtype=np.int64))
        wanted[wanted.index(-1)] = int(np.prod(have, dtype=np.int64)) // known if known else 0
    return b.reshape(x, wanted)


@op("Flatten")
def flatten(b: Builder, x: Operand, *, axis: int = 1) -> Operand:
    shape = b.shape(x)
    axis = axis + len(shape) if axis < 0 else axis
    return b.reshape(x, [int(np.prod(shape[:axis], dtype=int)), int(np.prod(shape[axis:], dtype=int))])


@op("Squeeze")
def squeeze(b: Builder, x: Operand, axes: Operand = None) -> Operand:
    shape = b.shape(x)
    gone = [axis for axis, dim in enumerate(shape) if dim == 1] if axes is None else [
        axis % len(shape) for axis in b.ints(axes, "axes")]
    return b.reshape(x, [dim for axis, dim in enumerate(shape) if axis not in gone])


@op("Unsqueeze")
def unsqueeze(b: Builder, x: Operand, axes: Operand) -> Operand:
    wanted = b.ints(axes, "axes")
    rank = b.rank(x) + len(wanted)
    new = {axis % rank for axis in wanted}
    rest = iter(b.shape(x))
    return b.reshape(x, [1 if axis in new else next(rest) for axis in range(rank)])


@op("Transpose")
def transpose(b: Builder, x: Operand, *, perm: Sequence[int] | None = None) -> Operand:
    return b.transpose(x, list(perm) if perm else list(range(b.rank(x)))[::-1])


@op("Concat")
def concat(b: Builder, *values: Operand, axis: int) -> Operand:
    parts = [value for value in values if 0 not in value.shape] or [values[0]]
    return b.op("concat", values=parts, axis=axis) if len(parts) > 1 else parts[0]


@op("Split")
def split(b: Builder, x: Operand, sizes: Operand = None, *, axis: int = 0, num_outputs: int | None = None) -> Any:
    assert b.node is not None
    axis %= b.rank(x)
    if sizes is not None:
        lengths = b.ints(sizes, "split")
    else:
        total, count = b.shape(x)[axis], num_outputs or len(b.node.outputs)
        each = -(-total // count)
        lengths = [min(each, total - start) for start in range(0, total, each)]
    if len(lengths) == 1:
        return b.var(x)
    if b.kind(x) == "int" or len(set(lengths)) > 1:
        return _cut(b, x, axis, lengths)
    return tuple(b.op("split", x=x, num_splits=len(lengths), axis=axis))


def _cut(b: Builder, x: Operand, axis: int, lengths: Sequence[int]) -> tuple[Operand, ...]:
    shape = b.shape(x)
    parts = []
    for end, length in zip(accumulate(lengths), lengths, strict=True):
        first, last = [0] * len(shape), list(shape)
        first[axis], last[axis] = end - length, end
        parts.append(b.slice(x, first, last) if length else nothing(b, x, axis))
    return tuple(parts)


def nothing(b: Builder, x: Operand, axis: int) -> Constant:
    """x cut to nothing along an axis. Core ML has no such tensors, but concatenations that skip them."""
    kind = {"float": np.float32, "int": np.int32, "bool": np.bool_}[b.kind(x)]
    return Constant(np.zeros([0 if a == axis else dim for a, dim in enumerate(b.shape(x))], kind))


@op("Slice")
def slice_(b: Builder, x: Operand, starts: Operand, ends: Operand, axes: Operand = None,
           steps: Operand = None) -> Operand:
    shape = b.shape(x)
    first, last = b.ints(starts, "starts"), b.ints(ends, "ends")
    along = list(range(len(first))) if axes is None else [axis % len(shape) for axis in b.ints(axes, "axes")]
    stride = [1] * len(first) if steps is None else b.ints(steps, "steps")
    begin, end, step, mask = [0] * len(shape), list(shape), [1] * len(shape), [False] * len(shape)
    for axis, low, high, by in zip(along, first, last, stride, strict=True):
        begin[axis], end[axis], step[axis] = slice(low, high, by).indices(shape[axis])
        mask[axis] = end[axis] < 0  # a negative step that includes element 0 has no number for its end
        if len(range(begin[axis], end[axis], by)) == 0:
            return nothing(b, x, axis)
    if step == [1] * len(shape) and begin == [0] * len(shape) and end == list(shape):
        return b.var(x)
    return b.op("slice_by_index", x=x, begin=begin, end=[max(e, 0) for e in end], stride=step, end_mask=mask)


@op("Expand")
def expand(b: Builder, x: Operand, shape: Operand) -> Operand:
    return b.broadcast(x, np.broadcast_shapes(b.shape(x), tuple(b.ints(shape, "shape"))))


@op("Tile")
def tile(b: Builder, x: Operand, repeats: Operand) -> Var:
    reps = b.ints(repeats, "repeats")
    return b.var(x) if set(reps) <= {1} else b.op("tile", x=x, reps=np.array(reps, np.int32))


MODES: Final = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@op("Pad")
def pad(b: Builder, x: Operand, pads: Operand, value: Operand = None, axes: Operand = None, *,
        mode: str = "constant") -> Operand:
    """Negative amounts cut. Modes other than constant copy elements whose indices are known here."""
    shape = b.shape(x)
    amounts = b.ints(pads, "pads")
    along = list(range(len(shape))) if axes is None else [axis % len(shape) for axis in b.ints(axes, "axes")]
    margins = [(0, 0)] * len(shape)
    for axis, before, after in zip(along, amounts[:len(along)], amounts[len(along):], strict=True):
        margins[axis] = (before, after)
    if any(before < 0 or after < 0 for before, after in margins):
        first = [max(-before, 0) for before, _ in margins]
        last = [dim - max(-after, 0) for dim, (_, after) in zip(shape, margins, strict=True)]
        x, margins = b.slice(x, first, last), [(max(u, 0), max(v, 0)) for u, v in margins]
    if mode == "constant":
        filler = 0.0 if value is None else float(b.need(value, "constant_value").ravel()[0])
        return b.pad(x, margins, filler)
    return _copied(b, x, margins, mode)


def _copied(b: Builder, x: Operand, margins: Sequence[tuple[int, int]], mode: str) -> Operand:
    padded = [axis for axis, pair in enumerate(margins) if any(pair)]
    rank = b.rank(x)
    if mode != "wrap" and padded and padded[0] >= rank - 2 and b.kind(x) == "float":  # MIL pads the last two axes so
        flat = np.array(margins[-2:], np.int32).ravel()
        # Not used in these modes, but its default is a float32, which a rewrite of coremltools checks against x.
        return b.op("pad", x=x, pad=flat, mode={"edge": "replicate", "reflect": "reflect"}[mode], constant_val=0.0)
    for axis in padded:
        indices = np.pad(np.arange(b.shape(x)[axis]), margins[axis], mode=mode)  # type: ignore[call-overload]
        x = b.gather(x, indices, axis)
    return x


@op("ConstantOfShape")
def constant_of_shape(b: Builder, shape: Operand, *, value: Any = None) -> Constant:
    filler = np.zeros(1, np.float32) if value is None else value.numpy()
    return Constant(np.full(tuple(b.ints(shape, "its shape")), filler.ravel()[0], filler.dtype))


@op("Range")
def range_(b: Builder, start: Operand, limit: Operand, delta: Operand) -> Constant:
    low, high, step = (b.need(v, "a bound of the range").ravel()[0] for v in (start, limit, delta))
    return Constant(np.arange(low, high, step))


@op("Trilu")
def trilu(b: Builder, x: Operand, k: Operand = None, *, upper: int = 1) -> Var:
    """The triangle is known at conversion: a mask."""
    shape = b.shape(x)
    offset = 0 if k is None else b.ints(k, "k")[0]
    ones = np.ones(shape[-2:], np.bool_)
    kept = np.triu(ones, offset) if upper else np.tril(ones, offset)
    zeros = Constant(np.zeros(shape, {"float": np.float32, "int": np.int32, "bool": np.bool_}[b.kind(x)]))
    return b.op("select", cond=Constant(np.ascontiguousarray(np.broadcast_to(kept, shape))), a=x, b=zeros)


@op("EyeLike")
def eye_like(b: Builder, x: Operand, *, dtype: int | None = None, k: int = 0) -> Constant:
    import onnx_ir as ir

    kind = ir.DataType(dtype) if dtype else b.onnx_type(0) or ir.DataType.FLOAT
    rows, columns = b.shape(x)
    return Constant(np.eye(rows, columns, k).astype(kind.numpy()))


@op("DepthToSpace")
def depth_to_space(b: Builder, x: Operand, *, blocksize: int, mode: str = "DCR") -> Var:
    if mode == "CRD":
        return b.through_float(x, lambda v: b.op("pixel_shuffle", x=v, upscale_factor=blocksize))
    return b.through_float(x, lambda v: b.op("depth_to_space", x=v, block_size=blocksize))


@op("SpaceToDepth")
def space_to_depth(b: Builder, x: Operand, *, blocksize: int) -> Var:
    return b.through_float(x, lambda v: b.op("space_to_depth", x=v, block_size=blocksize))


@op("ReverseSequence")
def reverse_sequence(b: Builder, x: Operand, lengths: Operand, *, batch_axis: int = 1, time_axis: int = 0) -> Var:
    return b.op("reverse_sequence", x=x, lengths=lengths, seq_axis=time_axis, batch_axis=batch_axis)


@op("CenterCropPad")
def center_crop_pad(b: Builder, x: Operand, wanted: Operand, *, axes: Sequence[int] | None = None) -> Operand:
    shape = list(b.shape(x))
    along = [axis % len(shape) for axis in axes] if axes else list(range(len(shape)))
    first, last, margins = [0] * len(shape), list(shape), [(0, 0)] * len(shape)
    for axis, dim in zip(along, b.ints(wanted, "shape"), strict=True):
        excess = shape[axis] - dim
        if excess > 0:
            first[axis], last[axis] = excess // 2, excess // 2 + dim
        else:
            margins[axis] = (-excess // 2, -excess - (-excess // 2))
    cut = x if first == [0] * len(shape) and last == shape else b.slice(x, first, last)
    return b.pad(cut, margins)
