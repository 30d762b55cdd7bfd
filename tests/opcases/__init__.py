"""The table of operator cases: one row, every backend, float and integer.

Sizes are uneven everywhere (H != W, C != O, four different pads, two different strides), because a mixed-up axis is
invisible in even ones.
"""
from __future__ import annotations

from typing import Final

from . import (
    activation,
    control,
    convolution,
    elementwise,
    indexing,
    matrix,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    shaping,
    transform,
)
from .case import Case, Step, Tensor, case, const, given, then, x
from .model import Arrays, build, run_onnxruntime, sample
from .quantized import has_weights, quantize, quantize4, quantize_weights

__all__ = [
    "BY_ID", "CASES", "Arrays", "Case", "Step", "Tensor", "build", "case", "const", "given", "has_weights", "quantize",
    "quantize4", "quantize_weights", "run_onnxruntime", "sample", "then", "x",
]

CASES: Final[tuple[Case, ...]] = tuple(row for family in (
    convolution, matrix, pooling, normalization, activation, elementwise, reduction, shaping, indexing, resize,
    recurrent, control, transform,
) for row in family.CASES)

BY_ID: Final = {row.id: row for row in CASES}
