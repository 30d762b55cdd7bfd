"""Sampling an image at computed places."""
from __future__ import annotations

from itertools import product

import numpy as np

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.float_expr import Real
from edgeq_converters.tflite.layout import channels_last
from edgeq_converters.tflite.ops_shape import gathered
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op

CUBIC = -0.75  # https://github.com/onnx/onnx/blob/main/onnx/reference/ops/op_grid_sample.py
REACH = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}  # the pixels beside a place, from its floor on


@op("GridSample")
def grid_sample(b: Builder, x: Value, grid: Value, *, mode: str = "linear", padding_mode: str = "zeros",
                align_corners: int = 0) -> Value:
    """x [N,C,size..] at grid [N,out..,D] in [-1,1]: one GATHER of pixels for each neighbour of a place, weighted.

    The last axis of the grid names the axes of the image from the last one on.
    """
    depth = x.rank - 2
    pixels, places = b.read(x, channels_last(x.rank)), b.read(grid)
    sizes = pixels.shape[1:-1]
    spots = [_pixel(Real(b, gathered(b, places, np.array([depth - 1 - a]), depth + 1)), size, align_corners)
             for a, size in enumerate(sizes)]
    weights: list[dict[int, Real | None]]
    if mode == "nearest":
        lower, weights = [spot.run("ROUND") for spot in spots], [{0: None} for _ in spots]
    elif mode in REACH:
        lower = [spot.run("FLOOR") for spot in spots]
        weights = [_weights(mode, spot - low) for spot, low in zip(spots, lower, strict=True)]
    else:
        raise CannotLower(f"mode={mode}")
    total: Real | None = None
    for offsets in product(REACH[mode], repeat=depth):
        corner = [low + float(offset) if offset else low for low, offset in zip(lower, offsets, strict=True)]
        term = _sampled(b, pixels, corner, padding_mode, align_corners)
        for weight, offset in zip(weights, offsets, strict=True):
            factor = weight[offset]
            term = term if factor is None else term * factor
        total = term if total is None else total + term
    assert total is not None
    return b.result(total.tensor, channels_last(x.rank))


def _pixel(place: Real, size: int, align_corners: int) -> Real:
    """[-1, 1] -> pixel numbers."""
    if align_corners:
        return (place + 1.0) * ((size - 1) / 2)
    return (place + 1.0) * (size / 2) - 0.5


def _weights(mode: str, share: Real) -> dict[int, Real | None]:
    """Offset -> weight of that neighbour, for a place `share` behind its floor."""
    if mode == "linear":
        return {0: 1.0 - share, 1: share}

    def near(d: Real) -> Real:
        return ((d * (CUBIC + 2)) - (CUBIC + 3)) * d * d + 1.0

    def far(d: Real) -> Real:
        return ((d * CUBIC - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC

    return {-1: far(share + 1.0), 0: near(share), 1: near(1.0 - share), 2: far(2.0 - share)}


def _sampled(b: Builder, pixels: Tensor, spot: list[Real], padding_mode: str, align_corners: int) -> Real:
    """The pixels at whole places [N,out..,1]; outside: zero, the nearest one, or the mirrored one."""
    n, *sizes, channels = pixels.shape
    if padding_mode == "reflection":
        spot = [_mirrored(s, size, align_corners) for s, size in zip(spot, sizes, strict=True)]
    inside = [s.maximum(0.0).minimum(float(size - 1)) for s, size in zip(spot, sizes, strict=True)]
    row = inside[0]
    for place, size in zip(inside[1:], sizes[1:], strict=True):
        row = row * float(size) + place
    rank = row.tensor.rank
    batch = np.arange(n, dtype=np.float32).reshape(n, *[1] * (rank - 1)) * float(np.prod(sizes))
    index = b.cast((row + batch).tensor, np.int32)
    table = b.reshape(pixels, (n * int(np.prod(sizes)), channels))
    shape = index.shape[:-1]
    flat = b.call("GATHER", [table, b.reshape(index, (int(np.prod(shape)),))], (int(np.prod(shape)), channels), axis=0)
    made = Real(b, b.reshape(flat, (*shape, channels)))
    if padding_mode != "zeros":
        return made
    for s, i in zip(spot, inside, strict=True):
        kept = (s - i).run("ABS").compare("LESS", 0.5)
        made = made * Real(b, b.cast(kept.tensor, np.float32))
    return made


def _mirrored(place: Real, size: int, align_corners: int) -> Real:
    """Whole places, mirrored at the outermost pixels' middles (align_corners) or at their outer edges."""
    if size == 1:
        return place * 0.0
    period, turn = (2 * (size - 1), 2 * (size - 1)) if align_corners else (2 * size, 2 * size - 1)
    rest = place.run("FLOOR_MOD", float(period))
    return rest.minimum(float(turn) - rest)
