"""A multiply-accumulate node as rows of weights that multiply columns of inputs."""
from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Product:
    """MatMul and Gemm. transposed: the weight is stored [out, in], as Gemm with transB does."""

    transposed: bool = False

    def rows(self, weight: Array) -> Array:
        """weight [in, out] or [out, in] -> [1, out, in]."""
        rows: Array = np.ascontiguousarray(weight if self.transposed else weight.T)[None]
        return rows

    def weight(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `rows`."""
        return np.asarray(rows[0] if self.transposed else rows[0].T)

    def positions(self, shape: tuple[int, ...]) -> int:
        """How many columns an input of this shape has."""
        return prod(shape[:-1])

    def columns(self, data: Array, chosen: NDArray[np.int64]) -> Array:
        """data [..., in] -> its chosen columns [1, in, N]."""
        return np.ascontiguousarray(data.reshape(-1, data.shape[-1])[chosen].T)[None]


@dataclass(frozen=True, slots=True)
class Window:
    """Conv, and ConvTranspose as a convolution of its input with zeros in between (`stuffing` > 1 or `mirrored`).

    kernel, strides, dilations, before, after (padding), stuffing: one number per spatial axis.
    """

    group: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    stuffing: tuple[int, ...]
    mirrored: bool = False

    def rows(self, weight: Array) -> Array:
        """Conv [O, I/G, *k], ConvTranspose [I, O/G, *k] -> [G, O/G, I/G * prod(k)]."""
        grouped = weight.reshape(self.group, -1, *weight.shape[1:])
        if self.mirrored:
            grouped = np.swapaxes(grouped, 1, 2)
        return np.ascontiguousarray(grouped.reshape(*grouped.shape[:2], -1))

    def weight(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `rows`."""
        first = shape[0] // self.group
        if not self.mirrored:
            return rows.reshape(shape)
        return np.swapaxes(rows.reshape(self.group, shape[1], first, *self.kernel), 1, 2).reshape(shape)

    def positions(self, shape: tuple[int, ...]) -> int:
        """How many columns (output pixels) an input [B, C, *spatial] has."""
        return shape[0] * prod(self._output(shape))

    def columns(self, data: Array, chosen: NDArray[np.int64]) -> Array:
        """data [B, C, *spatial] -> the inputs of the chosen output pixels [G, C/G * prod(k), N], zeros for padding."""
        padded = self._padded(data)
        batch, channels, *extents = padded.shape
        sample, *pixel = np.unravel_index(chosen, (batch, *self._output(data.shape)))
        index = np.zeros((*self.kernel, len(chosen)), np.int64)
        for axis, size in enumerate(self.kernel):
            tap = np.arange(size)[::-1] if self.mirrored else np.arange(size)
            shape = [1] * len(self.kernel)
            shape[axis] = size
            along = pixel[axis] * self.strides[axis] + (tap * self.dilations[axis]).reshape(*shape, 1)
            index = index * extents[axis] + along
        index += sample * prod(extents)
        flat = np.moveaxis(padded, 1, 0).reshape(channels, -1)
        return flat[:, index.reshape(-1, len(chosen))].reshape(self.group, -1, len(chosen))

    def _output(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        extents = zip(shape[2:], self.stuffing, self.before, self.after, self.kernel, self.dilations, self.strides,
                      strict=True)
        return tuple(((size - 1) * zeros + 1 + low + high - dilation * (taps - 1) - 1) // stride + 1
                     for size, zeros, low, high, taps, dilation, stride in extents)

    def _padded(self, data: Array) -> Array:
        sizes = [(size - 1) * zeros + 1 for size, zeros in zip(data.shape[2:], self.stuffing, strict=True)]
        padded = np.zeros((*data.shape[:2], *(size + low + high for size, low, high in
                                              zip(sizes, self.before, self.after, strict=True))), np.float32)
        inside = tuple(slice(low, low + size, zeros) for size, low, zeros in
                       zip(sizes, self.before, self.stuffing, strict=True))
        padded[(slice(None), slice(None), *inside)] = data
        return padded


Geometry = Product | Window
