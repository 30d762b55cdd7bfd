"""Sliding windows: ONNX pads against TFLite's SAME and VALID, and one-dimensional windows as two-dimensional ones."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.program import Tensor

# https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs, enum Padding
SAME, VALID = 0, 1


@dataclass(frozen=True, slots=True)
class Window:
    """A window per spatial axis. padding: SAME or VALID when one says the same as `pads`, else None. out: size of the
    result.

    pads: (before, after) of what the windows read outside the input; declared: what the node says, for counting.
    resizable: the size may be another one at run time, and everything here must be right for that one too."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilations: tuple[int, ...]
    declared: tuple[tuple[int, int], ...] = ()
    resizable: bool = False

    @property
    def padding(self) -> int | None:
        if not any(map(sum, self.pads)) and self.out == self._reach(self.size):
            return VALID
        if self.resizable and set(self.strides) != {1}:
            return None  # what SAME pads in front then depends on the size
        same = tuple(-(-size // stride) for size, stride in zip(self.size, self.strides, strict=True))
        return SAME if self.out == same and all(map(self._is_same, range(len(self.size)))) else None

    def _is_same(self, axis: int) -> bool:
        """What lies behind the last window is never read, so only the pads in front matter."""
        extent = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        total = max((self.out[axis] - 1) * self.strides[axis] + extent - self.size[axis], 0)
        return self.pads[axis][0] == total // 2

    def _reach(self, sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple((size - (k - 1) * d - 1) // s + 1
                     for size, k, d, s in zip(sizes, self.kernel, self.dilations, self.strides, strict=True))

    def part(self, axes: slice) -> Window:
        """The window over some of the axes."""
        return Window(self.size[axes], self.out[axes], self.kernel[axes], self.strides[axes], self.pads[axes],
                      self.dilations[axes], self.declared[axes], self.resizable)

    def beside(self, size: int) -> Window:
        """The window over a further axis in which it holds one element."""
        none = ((0, 0),)
        return Window((*self.size, size), (*self.out, size), (*self.kernel, 1), (*self.strides, 1), self.pads + none,
                      (*self.dilations, 1), self.declared + none, self.resizable)

    def without_pads(self) -> Window:
        """The same window over the padded input."""
        size = tuple(size + sum(pair) for size, pair in zip(self.size, self.pads, strict=True))
        return replace(self, size=size, pads=((0, 0),) * len(size))

    def counts(self, include_pads: bool) -> NDArray[np.float32]:
        """[1, *out, 1]: how many elements ONNX divides the sum of each window by.

        Rows that ceil_mode adds behind the pads never count.
        """
        total = np.ones((), np.float32)
        for axis, (size, out, k, s, d) in enumerate(zip(self.size, self.out, self.kernel, self.strides, self.dilations,
                                                        strict=True)):
            before, after = self.declared[axis] if include_pads else (0, 0)
            place = np.arange(out)[:, None] * s + np.arange(k)[None] * d - self.pads[axis][0]
            inside = ((place >= -before) & (place < size + after)).sum(1)
            total = np.multiply.outer(total, inside.astype(np.float32))
        return total[None, ..., None].astype(np.float32)


def window(size: Sequence[int], out: Sequence[int], kernel: Sequence[int], strides: Sequence[int] | None = None,
           pads: Sequence[int] | None = None, dilations: Sequence[int] | None = None,
           auto_pad: str = "NOTSET", *, resizable: bool = False) -> Window:
    """The attributes of a Conv or pool, normalized. ceil_mode shows in `out`, and becomes pads behind the input."""
    count = len(kernel)
    stride = tuple(strides or (1,) * count)
    dilation = tuple(dilations or (1,) * count)
    read, declared = [], []
    for axis in range(count):
        needed = (out[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        total = max(needed - size[axis], 0)
        if auto_pad == "SAME_UPPER":
            before, after = total // 2, total - total // 2
        elif auto_pad == "SAME_LOWER":
            before, after = total - total // 2, total // 2
        else:
            before, after = (pads[axis], pads[axis + count]) if pads and auto_pad == "NOTSET" else (0, 0)
        declared.append((before, after))
        read.append((before, max(after if resizable else 0, needed - size[axis] - before)))
    return Window(tuple(size), tuple(out), tuple(kernel), stride, tuple(read), dilation, tuple(declared), resizable)


def two_dimensional(b: Builder, tensor: Tensor, w: Window, run: Callable[[Builder, Tensor, Window], Tensor],
                    channels: int) -> Tensor:
    """Run a 2-D kernel; a window over one axis [N, L, C] becomes one over [N, 1, L, C].

    A pool over three axes is one over the last two and then one over the first.
    """
    if len(w.kernel) == 2:
        return run(b, tensor, w)
    if len(w.kernel) == 3:
        n, depth, height, width, _ = tensor.shape
        pooled = run(b, b.reshape(tensor, (n * depth, height, width, channels)), w.part(slice(1, 3)))
        plane = w.out[1] * w.out[2]
        deep = run(b, b.reshape(pooled, (n, depth, plane, channels)), w.part(slice(0, 1)).beside(plane))
        return b.reshape(deep, (n, *w.out, channels))
    n, length, _ = tensor.shape
    flat = Window((1, *w.size), (1, *w.out), (1, *w.kernel), (1, *w.strides), ((0, 0), *w.pads), (1, *w.dilations),
                  ((0, 0), *w.declared), w.resizable)
    made = run(b, b.reshape(tensor, (n, 1, length, channels)), flat)
    return b.reshape(made, (n, made.shape[2], made.shape[3]))


def dilated_taps(b: Builder, tensor: Tensor, w: Window) -> list[Tensor]:
    """One strided view of a padded input [N, H, W, C] per element of the window: pools with dilation are made of
    them."""
    from edgeq_converters.tflite.ops_shape import strided

    taps = []
    for offset in np.ndindex(*w.kernel):
        ranges = {}
        for axis in range(2):
            start = offset[axis] * w.dilations[axis]
            ranges[axis + 1] = range(start, start + (w.out[axis] - 1) * w.strides[axis] + 1, w.strides[axis])
        taps.append(strided(b, tensor, ranges))
    return taps
