"""Sampling an image at computed places."""
from __future__ import annotations

from typing import Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Operand, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower

# ONNX padding_mode -> MIL's, with and without align_corners
PADDING: Final = {"zeros": "constant", "border": "border"}
MODES: Final = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest"}


@op("GridSample")
def grid_sample(b: Builder, x: Operand, grid: Operand, *, align_corners: int = 0, mode: str = "linear",
                padding_mode: str = "zeros") -> Var:
    """x [N,C,H,W], grid [N,h,w,2] of (x, y) in [-1, 1] -> [N,C,h,w]."""
    if b.rank(x) != 4 or mode not in MODES:
        raise CannotLower(f"mode {mode} over rank {b.rank(x)}")
    if padding_mode == "reflection":
        padding = "symmetric" if not align_corners else "reflection"
    else:
        padding = PADDING[padding_mode]
    return b.op("resample", x=x, coordinates=grid, sampling_mode=MODES[mode], padding_mode=padding, padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one", align_corners=bool(align_corners))


@op("AffineGrid")
def affine_grid(b: Builder, theta: Operand, size: Operand, *, align_corners: int = 0) -> Operand:
    """theta [N,2,3] -> grid [N,H,W,2], or [N,3,4] -> [N,D,H,W,3]: base points (x, y, 1), known here, times theta
    transposed.
    """
    dims = b.ints(size, "size")
    extent = dims[2:]
    axes = [np.linspace(-1, 1, n) if align_corners else (np.arange(n) * 2 + 1) / n - 1 for n in extent]
    places = np.meshgrid(*axes, indexing="ij")[::-1]
    points = np.stack([*places, np.ones_like(places[0])], -1).reshape(1, -1, len(extent) + 1).astype(np.float32)
    moved = b.op("matmul", x=np.repeat(points, dims[0], 0), y=theta, transpose_y=True)
    return b.reshape(moved, (dims[0], *extent, len(extent)))
