"""Pooling and resizing: windows over the spatial axes, channels last."""
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder, NeedsFloat
from edgeq_converters.tflite.float_expr import Real
from edgeq_converters.tflite.layout import channels_last, permute
from edgeq_converters.tflite.ops_shape import padded
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op
from edgeq_converters.tflite.windows import VALID, Window, dilated_taps, two_dimensional, window


@op("MaxPool")
def max_pool(b: Builder, x: Value, *, kernel_shape: Sequence[int], strides: Sequence[int] | None = None,
             pads: Sequence[int] | None = None,
             dilations: Sequence[int] | None = None, auto_pad: str = "NOTSET", ceil_mode: int = 0,
             storage_order: int = 0) -> Value | tuple[Value, Value]:
    """Padding never wins a maximum: with the lowest number of the type where SAME does not fit."""
    _drop_windows(b, x, strides, pads, ceil_mode)
    if len(b.node.outputs) > 1 and b.node.outputs[1].name:
        b.node.outputs[1].shape = b.node.outputs[0].shape
        return _max_pool_with_places(b, x, window(x.shape[2:], b.shape[2:], kernel_shape, strides, pads, dilations,
                                                  auto_pad), storage_order)
    w = window(x.shape[2:], b.shape[2:], kernel_shape, strides, pads, dilations, auto_pad, resizable=b.resizable)
    tensor = b.read(x, channels_last(x.rank))
    if len(kernel_shape) > 3:
        raise CannotLower("pooling over more than three axes")
    if tensor.dtype != np.float32 and tensor.grid is None:
        tensor = b.cast(tensor, np.float32)
    return b.result(two_dimensional(b, tensor, w, _max_pool, x.shape[1]), channels_last(x.rank))


def _max_pool_with_places(b: Builder, x: Value, w: Window, storage_order: int) -> tuple[Value, Value]:
    """The elements of each window as one more axis, whose maximum is taken and found."""
    n, channels = x.shape[:2]
    if x.rank != 4:
        raise CannotLower(f"the places of the maxima over {x.rank - 2} axes")
    tensor = b.cast(b.read(x, channels_last(4), integer=False), np.float32)
    taps = dilated_taps(b, _filled(b, tensor, w.pads, float(np.finfo(np.float32).min)), w)
    wide = (n, *w.out, channels, len(taps))
    stacked = b.call("CONCATENATION", [b.reshape(tap, (*tap.shape, 1)) for tap in taps], wide, axis=4)
    best = b.call("ARG_MAX", [stacked, b.ints(np.array(4))], wide[:-1], dtype=np.int32, to=None, outputType=2)
    highest = b.call("REDUCE_MAX", [stacked, b.ints([4])], wide[:-1], keepDims=False)
    strides = (1, x.shape[2]) if storage_order else (x.shape[3], 1)
    offsets = [sum(t * d * s for t, d, s in zip(tap, w.dilations, strides, strict=True))
               for tap in np.ndindex(*w.kernel)]
    starts = [np.arange(out) * step - before for out, step, (before, _) in zip(w.out, w.strides, w.pads, strict=True)]
    first = starts[0][:, None] * strides[0] + starts[1][None] * strides[1]
    plane = np.arange(n * channels).reshape(n, 1, 1, channels) * (x.shape[2] * x.shape[3])
    inside = b.call("GATHER", [b.ints(offsets), best], best.shape, axis=0)
    places = b.call("ADD", [inside, b.ints(first[None, :, :, None] + plane)], best.shape)
    return b.result(highest, channels_last(4)), b.result(b.cast(places, np.int64), channels_last(4), 1)


def _drop_windows(b: Builder, x: Value, strides: Sequence[int] | None, pads: Sequence[int] | None,
                  ceil_mode: int) -> None:
    """ceil_mode drops windows that would start behind the input; onnx's shape inference counts them.

    https://onnx.ai/onnx/operators/onnx__MaxPool.html: "sliding windows that would start in the right padded region are
    ignored".
    """
    count, sizes = x.rank - 2, list(b.shape)
    for axis in range(count):
        stride, before = (strides or (1,) * count)[axis], pads[axis] if pads else 0
        if ceil_mode and (sizes[axis + 2] - 1) * stride >= x.shape[axis + 2] + before:
            sizes[axis + 2] -= 1
    b.node.outputs[0].shape = ir.Shape(sizes)


def _max_pool(b: Builder, tensor: Tensor, w: Window) -> Tensor:
    low = float(np.finfo(np.float32).min) if tensor.grid is None else tensor.grid.type.range[0]
    if w.padding is None:
        tensor = _filled(b, tensor, w.pads, low)
    if max(w.dilations) > 1:
        return _joined_taps(b, "MAXIMUM", tensor, w)
    return _pool(b, "MAX_POOL_2D", tensor, w)


def _joined_taps(b: Builder, kernel: str, tensor: Tensor, w: Window) -> Tensor:
    """The sum or the largest of what each position of a dilated window sees."""
    return reduce(lambda one, tap: b.call(kernel, [one, tap], tap.shape), dilated_taps(b, tensor, w))


def _filled(b: Builder, tensor: Tensor, pads: Sequence[tuple[int, int]], stored: float) -> Tensor:
    """Pad the two spatial axes with a stored number."""
    amounts = [(0, 0), *pads, (0, 0)]
    out = [size + sum(pair) for size, pair in zip(tensor.shape, amounts, strict=True)]
    if tuple(out) == tensor.shape:
        return tensor
    value = b.constant(np.array(stored, tensor.dtype), tensor.grid)
    return b.call("PADV2", [tensor, b.ints(np.array(amounts)), value], out)


def _pool(b: Builder, kernel: str, tensor: Tensor, w: Window) -> Tensor:
    n, _, _, c = tensor.shape
    return b.call(kernel, [tensor], (n, *w.out, c), padding=VALID if w.padding is None else w.padding,
                  strideH=w.strides[0], strideW=w.strides[1], filterHeight=w.kernel[0], filterWidth=w.kernel[1])


@op("AveragePool")
def average_pool(b: Builder, x: Value, *, kernel_shape: Sequence[int], strides: Sequence[int] | None = None,
                 pads: Sequence[int] | None = None,
                 dilations: Sequence[int] | None = None, auto_pad: str = "NOTSET", ceil_mode: int = 0,
                 count_include_pad: int = 0) -> Value:
    """The kernel divides by the elements inside the input. Other divisors are corrected by a constant factor per
    place."""
    _drop_windows(b, x, strides, pads, ceil_mode)
    w = window(x.shape[2:], b.shape[2:], kernel_shape, strides, pads, dilations, auto_pad, resizable=b.resizable)
    if len(kernel_shape) > 3:
        raise CannotLower("pooling over more than three axes")
    dilated, padding = max(w.dilations) > 1, any(map(sum, w.pads))
    partly = padding and (count_include_pad or w.padding is None) and np.any(
        w.counts(bool(count_include_pad)) != np.prod(w.kernel))
    if b.integer and (dilated or partly):
        raise NeedsFloat("an average over windows that the pads cut off")
    tensor = b.read(x, channels_last(x.rank))

    def pool(b: Builder, tensor: Tensor, w: Window) -> Tensor:
        if dilated:
            return _dilated_average(b, tensor, w, count_include_pad)
        if padding and (count_include_pad or w.padding is None):
            taken = padded(b, tensor, [(0, 0), *w.pads, (0, 0)])
            pooled = _pool(b, "AVERAGE_POOL_2D", taken, w.without_pads())
            factor = w.kernel[0] * w.kernel[1] / w.counts(bool(count_include_pad))
            return pooled if np.all(factor == 1) else b.call("MUL", [pooled, b.constant(factor)], pooled.shape)
        return _pool(b, "AVERAGE_POOL_2D", tensor, w)

    return b.result(two_dimensional(b, tensor, w, pool, x.shape[1]), channels_last(x.rank))


def _dilated_average(b: Builder, tensor: Tensor, w: Window, include: int) -> Tensor:
    tensor = padded(b, tensor, [(0, 0), *w.pads, (0, 0)])
    total = _joined_taps(b, "ADD", tensor, w)
    return b.call("MUL", [total, b.constant((1 / w.counts(bool(include))).astype(np.float32))], total.shape)


@op("LpPool")
def lp_pool(b: Builder, x: Value, *, kernel_shape: Sequence[int], strides: Sequence[int] | None = None,
            pads: Sequence[int] | None = None, dilations: Sequence[int] | None = None, auto_pad: str = "NOTSET",
            ceil_mode: int = 0, p: int = 2) -> Value:
    """(sum of |x| ** p) ** (1 / p), the sum as an average times its count."""
    _drop_windows(b, x, strides, pads, ceil_mode)
    w = window(x.shape[2:], b.shape[2:], kernel_shape, strides, pads, dilations, auto_pad, resizable=b.resizable)
    if len(kernel_shape) > 3:
        raise CannotLower("pooling over more than three axes")
    layout = channels_last(x.rank)
    powers = Real(b, b.read(x, layout)).run("ABS").run("POW", float(p)).tensor

    def pool(b: Builder, tensor: Tensor, w: Window) -> Tensor:
        tensor, w = padded(b, tensor, [(0, 0), *w.pads, (0, 0)]), w.without_pads()
        if max(w.dilations) > 1:
            return _joined_taps(b, "ADD", tensor, w)
        return (Real(b, _pool(b, "AVERAGE_POOL_2D", tensor, w)) * float(w.kernel[0] * w.kernel[1])).tensor

    total = two_dimensional(b, powers, w, pool, x.shape[1])
    return b.result(Real(b, total).run("POW", 1 / p).tensor, layout)


@op("GlobalLpPool")
def global_lp_pool(b: Builder, x: Value, *, p: int = 2) -> Value:
    layout = b.common_layout(x)
    axes = sorted(layout.index(axis) for axis in range(2, x.rank))
    total = Real(b, b.read(x, layout)).run("ABS").run("POW", float(p)).reduce("SUM", axes)
    return b.result(total.run("POW", 1 / p).tensor, layout)


@op("GlobalAveragePool")
def global_average_pool(b: Builder, x: Value) -> Value:
    return _global_pool(b, x, "MEAN")


@op("GlobalMaxPool")
def global_max_pool(b: Builder, x: Value) -> Value:
    return _global_pool(b, x, "REDUCE_MAX")


def _global_pool(b: Builder, x: Value, kernel: str) -> Value:
    """x [N,C,...] -> [N,C,1,...], in whichever layout x already has."""
    layout = b.common_layout(x)
    axes = [layout.index(axis) for axis in range(2, x.rank)]
    tensor = b.call(kernel, [b.read(x, layout), b.ints(axes)], permute(b.shape, layout), keepDims=True)
    return b.result(tensor, layout)


@op("Resize")
def resize(b: Builder, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None, *,
           mode: str = "nearest", coordinate_transformation_mode: str = "half_pixel",
           nearest_mode: str = "round_prefer_floor",
           cubic_coeff_a: float = -0.75, exclude_outside: int = 0, antialias: int = 0, extrapolation_value: float = 0.0,
           axes: Sequence[int] | None = None, keep_aspect_ratio_policy: str = "stretch") -> Value:
    """The kernels where they compute the same; every other form is a product with a constant matrix per axis."""
    from edgeq_converters.tflite.resize import Grid, matrix

    given = b.array(scales, "scales").ravel().tolist() if scales is not None and scales.size else None
    places = [axis % x.rank for axis in axes or ()] or list(range(x.rank))
    by_corners = coordinate_transformation_mode == "align_corners"  # sizes alone decide, as in onnxruntime and torch
    factors = dict(zip(places, given, strict=True)) if given and not by_corners else {}
    changed = [a for a in range(x.rank) if x.shape[a] != b.shape[a] or factors.get(a, 1.0) != 1.0]
    cropping = coordinate_transformation_mode == "tf_crop_and_resize"
    crop = dict(zip(places, b.array(roi, "roi").reshape(2, -1).T.tolist(), strict=True)) if cropping else {}
    changed = sorted({*changed, *crop})
    whole = all(b.shape[a] % x.shape[a] == 0 for a in changed) and all(
        factors.get(a, b.shape[a] / x.shape[a]) == b.shape[a] / x.shape[a] for a in changed)
    layout = channels_last(x.rank)
    spatial = x.rank == 4 and set(changed) <= {2, 3} and not cropping
    if spatial and mode == "nearest" and whole and _repeats(coordinate_transformation_mode, nearest_mode):
        return b.result(_resized(b, "RESIZE_NEAREST_NEIGHBOR", b.read(x, layout)), layout)
    exact = all(factors.get(a, b.shape[a] / x.shape[a]) == b.shape[a] / x.shape[a] for a in changed) and not (
        coordinate_transformation_mode == "pytorch_half_pixel" and 1 in b.shape[2:])
    if (spatial and mode == "linear" and exact and not antialias and coordinate_transformation_mode in LINEAR_OPTIONS):
        options = LINEAR_OPTIONS[coordinate_transformation_mode]
        return b.result(_resized(b, "RESIZE_BILINEAR", b.read(x, layout), **options), layout)
    if b.integer and mode != "nearest":
        raise NeedsFloat(f"resizing with mode={mode}, {coordinate_transformation_mode} has no int8 kernel")
    how = Grid(mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, bool(exclude_outside),
               bool(antialias))
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    for axis in changed:
        weights = matrix(how, x.shape[axis], b.shape[axis], factors.get(axis, b.shape[axis] / x.shape[axis]),
                         crop.get(axis))
        tensor = _apply(b, tensor, layout.index(axis), weights, mode)
        outside = np.asarray(~weights.any(1))
        if outside.any():  # places that a crop puts outside of the input
            shape = [1] * tensor.rank
            shape[layout.index(axis)] = -1
            number = b.constant(np.array(extrapolation_value, np.float32))
            tensor = b.call("SELECT_V2", [b.constant(outside.reshape(shape)), number, tensor], tensor.shape)
    return b.result(tensor, layout)


LINEAR_OPTIONS: dict[str, dict[str, Any]] = {"half_pixel": {"halfPixelCenters": True},
                                             "align_corners": {"alignCorners": True}, "asymmetric": {},
                                             "pytorch_half_pixel": {"halfPixelCenters": True}}


def _repeats(coordinates: str, rounding: str) -> bool:
    """True when, for whole factors, nearest means "repeat each element"."""
    return (coordinates in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
            and rounding.startswith("round")) or (
        coordinates == "asymmetric" and rounding == "floor")


def _resized(b: Builder, kernel: str, tensor: Tensor, **options: Any) -> Tensor:
    n, c, h, w = b.shape
    return b.call(kernel, [tensor, b.ints((h, w))], (n, h, w, c), **options)


def _apply(b: Builder, tensor: Tensor, axis: int, weights: NDArray[np.float64], mode: str) -> Tensor:
    """weights [out, in] along one tensor axis: GATHER for a selection, else FULLY_CONNECTED."""
    from edgeq_converters.tflite.ops_shape import gathered

    if mode == "nearest":
        return gathered(b, tensor, weights.argmax(1), axis)
    order = (*(a for a in range(tensor.rank) if a != axis), axis)
    moved = b.transpose(tensor, order)
    out = (*moved.shape[:-1], weights.shape[0])
    made = b.call("FULLY_CONNECTED", [moved, b.constant(weights.astype(np.float32)), None], out, keepNumDims=True)
    return b.transpose(made, tuple(order.index(a) for a in range(tensor.rank)))
