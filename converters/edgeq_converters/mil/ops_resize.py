"""Resize: an upsampling op where MIL has the very same, else the interpolation written out as constants.

Interpolation is separable and its coefficients are known at conversion, so one axis is a product with a constant matrix
[size in, size out] (linear, cubic), or a gather at constant indices (nearest).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.table import op

Coordinates = Callable[[NDArray[Any], float, int, int], NDArray[Any]]  # (output index, scale, size in, size out)

# https://onnx.ai/onnx/operators/onnx__Resize.html, coordinate_transformation_mode. align_corners goes by whole sizes,
# as in onnxruntime and torch, also where scale * size is no whole number and ONNX's reference evaluator differs:
# https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/providers/cpu/tensor/upsamplebase.h
TRANSFORMS: Final[dict[str, Coordinates]] = {
    "half_pixel": lambda x, scale, n, m: (x + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda x, scale, n, m: (
        n / 2 * (1 - m / (scale * n)) + (x + 0.5) / scale - 0.5),
    "pytorch_half_pixel": lambda x, scale, n, m: (x + 0.5) / scale - 0.5 if m > 1 else np.zeros_like(x),
    "align_corners": lambda x, scale, n, m: x * (n - 1) / (m - 1) if m > 1 else np.zeros_like(x),
    "asymmetric": lambda x, scale, n, m: x / scale,
}
NEAREST: Final[dict[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@op("Resize")
def resize(b: Builder, x: Operand, roi: Operand = None, scales: Operand = None, sizes: Operand = None, *,
           antialias: int = 0, axes: Sequence[int] | None = None,
           coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
           extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
           nearest_mode: str = "round_prefer_floor") -> Operand:
    shape = b.shape(x)
    along = [axis % len(shape) for axis in axes] if axes else list(range(len(shape)))
    factors, lengths = _sizes(b, shape, along, scales, sizes, keep_aspect_ratio_policy)
    if coordinate_transformation_mode == "tf_crop_and_resize":
        return _cropped(b, x, b.need(roi, "roi"), along, lengths, mode, nearest_mode, cubic_coeff_a,
                        bool(exclude_outside), extrapolation_value)
    transform = TRANSFORMS[coordinate_transformation_mode]
    changed = [axis for axis in range(len(shape)) if lengths[axis] != shape[axis] or factors[axis] != 1]
    if mode == "nearest":
        for axis in changed:
            position = transform(np.arange(lengths[axis], dtype=np.float64), factors[axis], shape[axis], lengths[axis])
            index = np.clip(NEAREST[nearest_mode](position), 0, shape[axis] - 1).astype(np.int32)
            x = _repeat(b, x, index, axis)
        return x
    built_in = _bilinear(b, x, shape, lengths, changed, mode, coordinate_transformation_mode, antialias)
    if built_in is not None:
        return built_in
    kernel = {"linear": (_triangle, 1.0), "cubic": (_cubic(cubic_coeff_a), 2.0)}[mode]
    for axis in changed:
        position = transform(np.arange(lengths[axis], dtype=np.float64), factors[axis], shape[axis], lengths[axis])
        stretch = min(factors[axis], 1.0) if antialias else 1.0
        x = _mix(b, x, _matrix(position, shape[axis], *kernel, stretch, bool(exclude_outside)), axis)
    return x


def _cropped(b: Builder, x: Operand, roi: NDArray[Any], along: Sequence[int], lengths: Sequence[int], mode: str,
             nearest_mode: str, cubic_coeff_a: float, exclude_outside: bool, beyond: float) -> Operand:
    """A box of x, in parts of its size, resized; what lies outside of x is `beyond`."""
    shape = b.shape(x)
    kernel = {"linear": (_triangle, 1.0), "cubic": (_cubic(cubic_coeff_a), 2.0)}.get(mode)
    inside = np.ones([1] * len(shape), np.bool_)
    for axis, first, last in zip(along, roi[:len(along)], roi[len(along):], strict=True):
        size, length = shape[axis], lengths[axis]
        if (size, 0.0, 1.0) == (length, first, last):
            continue
        step = (last - first) * (size - 1) / (length - 1) if length > 1 else 0.0
        start = first if length > 1 else (first + last) / 2
        position = start * (size - 1) + np.arange(length) * step
        within = (position >= 0) & (position <= size - 1)
        inside = inside & within.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        if kernel is None:
            x = b.gather(x, np.clip(NEAREST[nearest_mode](position), 0, size - 1), axis)
        else:
            x = _mix(b, x, _matrix(np.clip(position, 0, size - 1), size, *kernel, 1.0, exclude_outside), axis)
    if inside.all():
        return x
    kept = np.ascontiguousarray(np.broadcast_to(inside, lengths))
    return b.op("select", cond=Constant(kept), a=b.as_float(x), b=Constant(np.full(lengths, beyond, np.float32)))


def _sizes(b: Builder, shape: Sequence[int], along: Sequence[int], scales: Operand, sizes: Operand,
           policy: str) -> tuple[list[float], list[int]]:
    """Scale and output length of every axis."""
    factors, lengths = [1.0] * len(shape), list(shape)
    given = None if scales is None else b.need(scales, "scales")
    if given is not None and given.size:
        for axis, factor in zip(along, given, strict=True):
            factors[axis], lengths[axis] = float(factor), int(np.floor(shape[axis] * factor))
        return factors, lengths
    wanted = b.ints(sizes, "sizes")
    ratios = [length / shape[axis] for axis, length in zip(along, wanted, strict=True)]
    for axis, length, ratio in zip(along, wanted, ratios, strict=True):
        if policy == "stretch":
            factors[axis], lengths[axis] = ratio, length
        else:
            factors[axis] = min(ratios) if policy == "not_larger" else max(ratios)
            lengths[axis] = int(np.floor(shape[axis] * factors[axis] + 0.5))
    return factors, lengths


def _repeat(b: Builder, x: Operand, index: NDArray[np.int32], axis: int) -> Operand:
    """The elements at `index` along an axis; whole repeats of all of them are MIL's upsampling."""
    size = b.shape(x)[axis]
    times, rest = divmod(len(index), size)
    rank = b.rank(x)
    if not rest and rank == 4 and axis >= 2 and b.kind(x) == "float" and np.array_equal(
            index, np.repeat(np.arange(size), times)):
        height, width = (times, 1) if axis == 2 else (1, times)
        return b.op("upsample_nearest_neighbor", x=x, scale_factor_height=height, scale_factor_width=width)
    return b.gather(x, index, axis)


def _bilinear(b: Builder, x: Operand, shape: Sequence[int], lengths: Sequence[int], changed: Sequence[int], mode: str,
              coordinates: str, antialias: int) -> Var | None:
    """upsample_bilinear where it computes the same: whole factors over the last two axes of rank 4."""
    settings = {"align_corners": (True, False), "half_pixel": (False, True), "pytorch_half_pixel": (False, True),
                "asymmetric": (False, False)}.get(coordinates)
    if mode != "linear" or antialias or settings is None or len(shape) != 4 or b.kind(x) != "float":
        return None
    if min(changed, default=2) < 2 or any(lengths[axis] % shape[axis] or shape[axis] == 1 for axis in (2, 3)):
        return None
    height, width = lengths[2] // shape[2], lengths[3] // shape[3]
    align_corners, half_pixel = settings
    return b.op("upsample_bilinear", x=x, scale_factor_height=height, scale_factor_width=width,
                align_corners=align_corners, half_pixel_centers=half_pixel)


def _triangle(distance: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.maximum(0.0, 1 - np.abs(distance)))


def _cubic(a: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Keys' kernel, https://en.wikipedia.org/wiki/Bicubic_interpolation"""

    def kernel(distance: NDArray[Any]) -> NDArray[Any]:
        x = np.abs(distance)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return np.asarray(np.where(x <= 1, near, np.where(x < 2, far, 0.0)))

    return kernel


def _matrix(position: NDArray[Any], size: int, kernel: Callable[[NDArray[Any]], NDArray[Any]], reach: float,
            stretch: float, exclude_outside: bool) -> NDArray[np.float32]:
    """Coefficients [size, len(position)]; those that fall outside belong to the edge, or are left out."""
    matrix = np.zeros((size, len(position)))
    margin = int(np.ceil(reach / stretch)) + 1
    for column, center in enumerate(position):
        taps = np.arange(int(np.floor(center)) - margin, int(np.floor(center)) + margin + 1)
        weights = kernel((taps - center) * stretch)
        if exclude_outside or stretch < 1:
            weights = np.where((taps < 0) | (taps >= size), 0.0, weights) if exclude_outside else weights
            weights = weights / weights.sum()
        np.add.at(matrix[:, column], np.clip(taps, 0, size - 1), weights)
    return matrix.astype(np.float32)


def _mix(b: Builder, x: Operand, matrix: NDArray[np.float32], axis: int) -> Operand:
    """Multiply one axis of x by matrix [in, out]."""
    last = b.rank(x) - 1
    swap = list(range(last + 1))
    swap[axis], swap[last] = last, axis
    mixed = b.op("matmul", x=b.transpose(b.as_float(x), swap), y=Constant(matrix))
    return b.transpose(mixed, swap)
