"""ONNX Resize along one axis as a matrix. Formulas: https://onnx.ai/onnx/operators/onnx__Resize.html, reference in
https://github.com/onnx/onnx/blob/main/onnx/reference/ops/op_resize.py
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.optable import CannotLower


@dataclass(frozen=True, slots=True)
class Grid:
    """How Resize samples; the fields are the op's attributes."""

    mode: str
    coordinates: str
    rounding: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool


def matrix(how: Grid, size: int, out: int, scale: float, crop: Sequence[float] | None = None) -> NDArray[np.float64]:
    """-> [out, size]: row i holds the weights of the input elements that make output element i.

    crop: start and end of tf_crop_and_resize, as shares of the input; a row outside of the input stays empty.
    """
    weights = np.zeros((out, size))
    for i in range(out):
        place = _source(how, i, size, out, scale) if crop is None else _cropped(crop, i, size, out)
        if crop is not None and not 0 <= place <= size - 1:
            continue
        if how.mode == "nearest":
            weights[i, _nearest(how.rounding, place, size)] = 1
            continue
        for index, weight in _taps(how, place, scale):
            if how.exclude_outside and not 0 <= index < size:
                continue
            weights[i, min(max(index, 0), size - 1)] += weight
        if how.exclude_outside:
            weights[i] /= weights[i].sum()
    return weights


def _source(how: Grid, i: int, size: int, out: int, scale: float) -> float:
    match how.coordinates:
        case "half_pixel":
            return (i + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            adjustment = out / (scale * size)
            return size / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (i + 0.5) / scale - 0.5 if out > 1 else -0.5
        case "align_corners":
            return i * (size - 1) / (out - 1) if out > 1 else 0.0
        case "asymmetric":
            return i / scale
    raise CannotLower(f"coordinate_transformation_mode={how.coordinates}")


def _cropped(crop: Sequence[float], i: int, size: int, out: int) -> float:
    start, end = crop
    if out > 1:
        return (start + (end - start) * i / (out - 1)) * (size - 1)
    return (start + end) * (size - 1) / 2


def _nearest(rounding: str, place: float, size: int) -> int:
    rounded = {"floor": np.floor(place), "ceil": np.ceil(place), "round_prefer_floor": np.ceil(place - 0.5),
               "round_prefer_ceil": np.floor(place + 0.5)}[rounding]
    return int(min(max(rounded, 0), size - 1))


def _taps(how: Grid, place: float, scale: float) -> list[tuple[int, float]]:
    """(input index, weight) around a place; antialiasing widens the filter when shrinking."""
    reach = {"linear": 1, "cubic": 2}[how.mode]
    shrink = min(scale, 1.0) if how.antialias else 1.0
    first, last = int(np.floor(place - reach / shrink)), int(np.ceil(place + reach / shrink))
    taps = [(index, _filter(how, (index - place) * shrink)) for index in range(first, last + 1)]
    if how.antialias:
        total = sum(weight for _, weight in taps)
        return [(index, weight / total) for index, weight in taps]
    return taps


def _filter(how: Grid, distance: float) -> float:
    d, a = abs(distance), how.cubic_a
    if how.mode == "linear":
        return max(0.0, 1 - d)
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0
