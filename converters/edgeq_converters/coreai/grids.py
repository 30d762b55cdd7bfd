"""Activations on grids: quantize and dequantize, with scales in float32 whatever the program computes in."""
from __future__ import annotations

from typing import Final

import numpy as np

from edgeq.scheme import QuantParams
from edgeq_converters.coreai.builder import Builder
from edgeq_converters.coreai.dialect import Var

BYTE: Final = 8  # bits: coreai.quantize writes 4 and 8


def on_grid(b: Builder, x: Var, grid: QuantParams) -> Var:
    """x rounded to a grid. Of 16 bits: by arithmetic in float32, which holds all of its integers."""
    single = b.singles.get(x.name, x)  # an input is float32 still: rounding it to float16 first would round twice
    if grid.type.bits != BYTE:
        return _by_arithmetic(b, single, grid)
    signed = grid.as_signed()
    axes = np.arange(len(x.shape), dtype=np.int32)
    scale, zero_point = np.float32(signed.scale), np.int8(signed.zero_point)
    stored = b.call("quantize", single, scale, zero_point, single.dtype.type(0), axes)
    found: Var = b.call("dequantize", stored, scale, zero_point, b.dtype(0), axes)
    return found


def _by_arithmetic(b: Builder, x: Var, grid: QuantParams) -> Var:
    low = -(2 ** (grid.type.bits - 1)) if grid.type.signed else 0
    high = low + 2**grid.type.bits - 1
    scale, zero_point = np.float32(grid.scale), np.float32(grid.zero_point)
    steps = b.call("broadcasting_add", b.call("round_", b.call("broadcasting_divide", b.to(x, np.float32), scale)),
                   zero_point)
    steps = b.call("broadcasting_minimum", b.call("broadcasting_maximum", steps, np.float32(low)), np.float32(high))
    return b.to(b.call("broadcasting_mul", b.call("broadcasting_sub", steps, zero_point), scale), b.dtype)
