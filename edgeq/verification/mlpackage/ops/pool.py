"""Pools over one to three spatial dimensions. Reference: .../ops/defs/iOS15/pool.py."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgeq.verification.mlpackage.optable import OpTable
from edgeq.verification.mlpackage.types import Array
from edgeq.verification.mlpackage.windows import Window, make_window, pad_spatial

op = OpTable()


def _pool_window(x: Array, kernel_sizes: Any, strides: Any, pad_type: str, pad: Any,
                 ceil_mode: bool) -> tuple[Window, tuple[int, ...]]:
    """The window (of padding as declared) and how many places it takes.

    ceil_mode lets a window hang over the end, unless it would begin in the padding there (torch's rule).
    """
    sizes = x.shape[2:]
    window = make_window(sizes, kernel_sizes, strides=strides, dilations=None, pad_type=pad_type.lower(), pad=pad)
    positions = window.positions(sizes)
    if ceil_mode:
        positions = tuple(_ceil(*row) for row in zip(sizes, window.kernel, window.strides, window.pads, strict=True))
    return window, positions


def _ceil(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    count = -(-(size + sum(pad) - kernel) // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad[0] and sum(pad) > 0 else count


def _overhang(x: Array, window: Window, positions: tuple[int, ...]) -> Window:
    """The window with as much padding behind as its last place needs."""
    needed = [(n - 1) * s + k - size - before for n, s, k, size, (before, _)
              in zip(positions, window.strides, window.kernel, x.shape[2:], window.pads, strict=True)]
    pads = tuple((before, max(after, more)) for (before, after), more in zip(window.pads, needed, strict=True))
    return replace(window, pads=pads)


@op("max_pool", exact=True)
def max_pool(x: Array, kernel_sizes: Any, pad_type: str, strides: Any = None, pad: Any = None,
             ceil_mode: bool = False) -> Array:
    """x [N, C, *in] -> [N, C, *out]; padding never wins."""
    window, positions = _pool_window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    window = _overhang(x, window, positions)
    result = np.full((*x.shape[:2], *positions), -np.inf, np.float32)
    for _, view in window.taps(pad_spatial(x, window.pads, -np.inf), positions):
        np.maximum(result, view, out=result)
    return result


@op("avg_pool")
def avg_pool(x: Array, kernel_sizes: Any, pad_type: str, strides: Any = None, pad: Any = None, ceil_mode: bool = False,
             exclude_padding_from_average: bool = False) -> Array:
    """x [N, C, *in] -> [N, C, *out].

    Padding counts as zeros unless it is excluded; what ceil_mode adds behind it never counts (torch's rule).
    """
    window, positions = _pool_window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    reach = _overhang(x, window, positions)
    total = _sum(x, reach, positions)
    counted = np.ones((1, 1, *x.shape[2:]), np.float32)
    if not exclude_padding_from_average:
        counted = pad_spatial(counted, window.pads, 1.0)
        overhang = ((0, more[1] - pads[1]) for more, pads in zip(reach.pads, window.pads, strict=True))
        reach = replace(reach, pads=tuple(overhang))
    return total / _sum(counted, reach, positions)


@op("l2_pool")
def l2_pool(x: Array, kernel_sizes: Any, pad_type: str, strides: Any = None, pad: Any = None,
            ceil_mode: bool = False) -> Array:
    window, positions = _pool_window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return np.sqrt(_sum(x * x, _overhang(x, window, positions), positions))


def _sum(x: Array, window: Window, positions: tuple[int, ...]) -> Array:
    result = np.zeros((*x.shape[:2], *positions), np.float32)
    for _, view in window.taps(pad_spatial(x, window.pads), positions):
        result += view
    return result
