"""Ops that move, repeat or cut elements."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from edgeq_converters.coreai.builder import Builder
from edgeq_converters.coreai.words import word
from edgeq_converters.mil.builder import Var
from edgeq_converters.optable import CannotLower

# MIL's padding mode -> the dialect's
MODES: Final = {"constant": "constant", "reflect": "reflect", "replicate": "replicate"}


@word("reshape")
def reshape(b: Builder, *, x: Any, shape: Any) -> Var:
    x = b.tensor(x)
    wanted = [int(dim) for dim in np.asarray(shape).ravel()]
    if any(dim is None for dim in x.shape):
        raise CannotLower("an input's shape is known only at run time")
    have = prod(int(dim) for dim in x.shape)
    if -1 not in wanted and prod(wanted) != have:
        raise CannotLower(f"{list(x.shape)} is not {wanted}")
    return b.call("reshape", x, np.array(wanted, np.int32))


@word("transpose")
def transpose(b: Builder, *, x: Any, perm: Sequence[int]) -> Var:
    return b.call("transpose", b.tensor(x), np.array(perm, np.uint32))


@word("tile")
def tile(b: Builder, *, x: Any, reps: Any) -> Var:
    return b.call("tile", b.tensor(x), np.asarray(reps, np.uint32))


@word("concat")
def concat(b: Builder, *, values: Sequence[Any], axis: int) -> Var:
    return b.call("concat", np.int32(axis), b.matched(*values))


@word("stack")
def stack(b: Builder, *, values: Sequence[Any], axis: int) -> Var:
    parts = b.matched(*values)
    shape = list(b.shape(parts[0]))
    shape.insert(axis, 1)
    return b.op("concat", values=[b.reshape(part, shape) for part in parts], axis=axis)


@word("split")
def split(b: Builder, *, x: Any, num_splits: int, axis: int) -> tuple[Var, ...]:
    x = b.tensor(x)
    each = b.shape(x)[axis] // num_splits
    return tuple(b.call("split", x, np.array([each] * num_splits, np.uint32), np.int32(axis)))


@word("slice_by_index")
def slice_by_index(b: Builder, *, x: Any, begin: Any, end: Any, stride: Any = None, end_mask: Any = None) -> Var:
    """end_mask: axes that are cut to their last element; with a negative stride, to their first.

    Axes with a negative stride are reversed before: the dialect's own has no end below the first element.
    """
    x = b.tensor(x)
    first, last = (np.asarray(values, np.int64).ravel().tolist() for values in (begin, end))
    step = [1] * len(first) if stride is None else np.asarray(stride).ravel().tolist()
    size = b.shape(x)
    for axis, masked in enumerate(end_mask or ()):
        if masked:
            last[axis] = -1 if step[axis] < 0 else size[axis]
    backwards = [axis for axis, by in enumerate(step) if by < 0]
    for axis in backwards:
        first[axis], last[axis], step[axis] = size[axis] - 1 - first[axis], size[axis] - 1 - last[axis], -step[axis]
    if backwards:
        x = b.op("reverse", x=x, axes=backwards)
    return b.call("slice_", x, *(np.array(values, np.int32) for values in (first, last, step)))


@word("pad")
def pad(b: Builder, *, x: Any, pad: Any, mode: str = "constant", constant_val: Any = 0.0) -> Var:
    """Of the last axes, two numbers each."""
    x = b.tensor(x)
    given = np.asarray(pad, np.uint32).ravel()
    amounts = np.concatenate([np.zeros(2 * len(x.shape) - given.size, np.uint32), given])
    return b.call("pad", x, amounts, x.dtype.type(constant_val), MODES[mode])


@word("reverse")
def reverse(b: Builder, *, x: Any, axes: Sequence[int]) -> Var:
    return b.call("reverse", b.tensor(x), np.array(axes, np.int32))


@word("fill_like")
def fill_like(b: Builder, *, ref_tensor: Any, value: Any) -> Var:
    number = b.tensor(value)
    return b.call("broadcast_to", number, np.array(b.shape(b.tensor(ref_tensor)), np.uint32))


# ---------------------------------------------------------------------- blocks of pixels
def _rearranged(b: Builder, x: Any, shape: Sequence[int], perm: Sequence[int], wanted: Sequence[int]) -> Var:
    return b.reshape(b.transpose(b.reshape(b.tensor(x), shape), perm), wanted)


@word("depth_to_space")
def depth_to_space(b: Builder, *, x: Any, block_size: int) -> Var:
    n, c, h, w = b.shape(b.tensor(x))
    s = block_size
    return _rearranged(b, x, [n, s, s, c // s**2, h, w], [0, 3, 4, 1, 5, 2], [n, c // s**2, h * s, w * s])


@word("pixel_shuffle")
def pixel_shuffle(b: Builder, *, x: Any, upscale_factor: int) -> Var:
    n, c, h, w = b.shape(b.tensor(x))
    s = upscale_factor
    return _rearranged(b, x, [n, c // s**2, s, s, h, w], [0, 1, 4, 2, 5, 3], [n, c // s**2, h * s, w * s])


@word("space_to_depth")
def space_to_depth(b: Builder, *, x: Any, block_size: int) -> Var:
    n, c, h, w = b.shape(b.tensor(x))
    s = block_size
    return _rearranged(b, x, [n, c, h // s, s, w // s, s], [0, 3, 5, 1, 2, 4], [n, c * s**2, h // s, w // s])


@word("upsample_nearest_neighbor")
def upsample_nearest_neighbor(b: Builder, *, x: Any, scale_factor_height: int, scale_factor_width: int) -> Var:
    x = b.tensor(x)
    n, c, h, w = b.shape(x)
    spread = b.broadcast(b.reshape(x, [n, c, h, 1, w, 1]), [n, c, h, scale_factor_height, w, scale_factor_width])
    return b.reshape(spread, [n, c, h * scale_factor_height, w * scale_factor_width])


@word("upsample_bilinear")
def upsample_bilinear(b: Builder, *, x: Any, scale_factor_height: int, scale_factor_width: int, align_corners: bool,
                      half_pixel_centers: bool) -> Var:
    """Two products with matrices of coefficients, which are known here."""
    x = b.tensor(x)
    _, _, h, w = b.shape(x)
    rows = _coefficients(h, h * scale_factor_height, align_corners, half_pixel_centers)
    columns = _coefficients(w, w * scale_factor_width, align_corners, half_pixel_centers)
    return b.op("matmul", x=b.op("matmul", x=rows.T, y=x), y=columns)


def _coefficients(size: int, wanted: int, align_corners: bool, half_pixel: bool) -> np.ndarray[Any, Any]:
    """[size, wanted]"""
    place: Callable[[Any], Any]
    if align_corners:
        place = lambda at: at * (size - 1) / max(wanted - 1, 1)  # noqa: E731
    elif half_pixel:
        place = lambda at: (at + 0.5) * size / wanted - 0.5  # noqa: E731
    else:
        place = lambda at: at * size / wanted  # noqa: E731
    at = np.clip(place(np.arange(wanted)), 0, size - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(at[None] - np.arange(size)[:, None])), np.float32)
