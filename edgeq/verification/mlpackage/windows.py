"""Sliding windows of convolutions and pools over N, C and one to three spatial dimensions."""
from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.verification.mlpackage.optable import CannotRun
from edgeq.verification.mlpackage.types import Array


@dataclass(frozen=True, slots=True)
class Window:
    """A window's geometry, one entry per spatial dimension; ``pads`` are (before, after)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Sizes of the dilated kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def positions(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many places the window takes over an input of ``sizes``, padding included."""
        return tuple((size + sum(pad) - extent) // stride + 1 for size, pad, extent, stride
                     in zip(sizes, self.pads, self.extents, self.strides, strict=True))

    def taps(self, padded: Array, positions: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Per element of the kernel: its index, and the view of ``padded`` that it meets [..., *positions]."""
        for index in np.ndindex(*self.kernel):
            yield index, padded[self.tap(index, positions)]

    def tap(self, index: Sequence[int], positions: Sequence[int]) -> tuple[Any, ...]:
        """The index of that view."""
        rows = zip(index, self.dilations, positions, self.strides, strict=True)
        return last(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in rows)


def last(index: Iterable[Any]) -> tuple[Any, ...]:
    """An index into the last dimensions."""
    return (..., *index)


def integers(values: Any, default: int, count: int) -> tuple[int, ...]:
    """An optional vector of a MIL op -> a tuple of ints."""
    return (default,) * count if values is None else tuple(int(value) for value in np.ravel(values))


def make_window(sizes: Sequence[int], kernel: Sequence[int], *, strides: Any, dilations: Any, pad_type: str,
                pad: Any) -> Window:
    """The window that MIL's arguments describe over an input of ``sizes``.

    `same` puts the odd element of padding after, `same_lower` before the data (coremltools .../ops/defs/_utils.py,
    aggregated_pad; the frontends emit `same` for TensorFlow's SAME).
    """
    count = len(kernel)
    window = Window(tuple(int(k) for k in kernel), integers(strides, 1, count), integers(dilations, 1, count),
                    ((0, 0),) * count)
    if pad_type == "valid":
        return window
    if pad_type == "custom":
        flat = integers(pad, 0, 2 * count)
        pads = tuple(zip(flat[::2], flat[1::2], strict=True))
    elif pad_type in ("same", "same_lower"):
        totals = [max(0, stride * (math.ceil(size / stride) - 1) + extent - size) for size, stride, extent
                  in zip(sizes, window.strides, window.extents, strict=True)]
        pads = tuple((total // 2, total - total // 2) for total in totals)
        if pad_type == "same_lower":
            pads = tuple((after, before) for before, after in pads)
    else:
        raise CannotRun(f"pad_type '{pad_type}'")
    return Window(window.kernel, window.strides, window.dilations, pads)


def pad_spatial(x: Array, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """x [N, C, *spatial], padded with ``value``."""
    if not any(before or after for before, after in pads):
        return x
    inner = [slice(before, before + size) for (before, _), size in zip(pads, x.shape[2:], strict=True)]
    shape = (*x.shape[:2], *(size + sum(pad) for size, pad in zip(x.shape[2:], pads, strict=True)))
    padded = np.full(shape, value, x.dtype)
    padded[last(inner)] = x
    return padded
