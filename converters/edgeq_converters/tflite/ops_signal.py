"""Transforms as products with constant matrices: Fourier, columns to images, regions of interest."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.layout import last
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op


def product(b: Builder, tensor: Tensor, matrix: NDArray[np.float64]) -> Tensor:
    """tensor [.., K] @ matrix [K, N]."""
    weights = b.constant(matrix.T.astype(np.float32))
    return b.call("FULLY_CONNECTED", [tensor, weights, None], (*tensor.shape[:-1], matrix.shape[1]), keepNumDims=True)


def fourier(size: int, length: int, bins: int, inverse: bool, complex_in: bool,
            window: NDArray[np.float64] | None = None, real_out: bool = False) -> NDArray[np.float64]:
    """[size * (1 or 2), bins * 2]: a signal of `size` samples, cut or filled with zeros to `length`, to its spectrum.

    Complex numbers are pairs. One-sided inverse (real_out, [.., bins]): the missing half is the conjugate of the given.
    """
    sign = 2j if inverse else -2j
    taken = min(size, length)
    n, k = np.arange(taken)[:, None], np.arange(bins)[None]
    factor = np.exp(sign * np.pi * n * k / length) / (length if inverse else 1)
    if window is not None:
        factor = factor * window[:taken, None]
    if real_out:
        given = np.array([1.0 if j == 0 or 2 * j == length else 2.0 for j in range(taken)])[:, None]
        both = np.stack([given * factor.real, -given * factor.imag], 1)
        return np.concatenate([both.reshape(2 * taken, bins), np.zeros((2 * (size - taken), bins))])
    rows = [np.stack([factor.real, factor.imag], -1)]
    if complex_in:
        rows.append(np.stack([-factor.imag, factor.real], -1))
    joined = np.stack(rows, 1).reshape(taken * len(rows), bins * 2)
    return np.concatenate([joined, np.zeros(((size - taken) * len(rows), bins * 2))])


@op("DFT")
def dft(b: Builder, x: Value, length: Value | None = None, axis: Value | None = None, *, inverse: int = 0,
        onesided: int = 0) -> Value:
    """x [.., 1 or 2], the last axis holds real and imaginary parts."""
    place = (b.numbers(axis, "axis")[0] if axis is not None else -2) % x.rank
    parts, size = x.shape[-1], x.shape[place]
    total = b.numbers(length, "dft_length")[0] if length is not None else size
    layout = (*(a for a in range(x.rank - 1) if a != place), place, x.rank - 1)
    tensor = b.read(x, layout)
    outer, out_parts, bins = tensor.shape[:-2], b.shape[-1], b.shape[place]
    real_out = bool(inverse and onesided)
    if real_out and length is None:
        total = bins
    flat = b.reshape(tensor, (int(np.prod(outer, dtype=np.int64)), size * parts))
    matrix = fourier(size, total, bins, bool(inverse), parts == 2, real_out=real_out)
    made = product(b, flat, matrix)
    return b.result(b.reshape(made, (*outer, bins, out_parts)), layout)


@op("STFT")
def stft(b: Builder, x: Value, step: Value, window: Value | None = None, length: Value | None = None, *,
         onesided: int = 1) -> Value:
    """x [N, T, 1 or 2] -> [N, frames, bins, 2]: a GATHER of the frames, then as DFT."""
    shape = b.array(window, "window").astype(np.float64) if window is not None else None
    size = b.numbers(length, "frame_length")[0] if length is not None else len(shape) if shape is not None else 0
    hop, frames, bins = b.numbers(step, "frame_step")[0], b.shape[1], size // 2 + 1 if onesided else size
    if b.shape[2] != bins:
        raise CannotLower(f"onnx infers {b.shape[2]} frequencies where there are {bins}", "write onesided=1 out")
    parts = x.shape[2] if x.rank == 3 else 1
    index = np.arange(frames)[:, None] * hop + np.arange(size)[None]
    signal = b.reshape(b.read(x), (x.shape[0], x.shape[1], parts))
    taken = b.through("GATHER", [signal, b.ints(index)], (x.shape[0], frames, size, parts), axis=1)
    flat = b.reshape(taken, (x.shape[0] * frames, size * parts))
    return b.result(b.reshape(product(b, flat, fourier(size, size, bins, False, parts == 2, shape)), b.shape))


@op("Col2Im")
def columns_to_image(b: Builder, x: Value, image: Value, block: Value, *, strides: Sequence[int] | None = None,
                     pads: Sequence[int] | None = None, dilations: Sequence[int] | None = None) -> Value:
    """x [N, C * prod(block), L] -> [N, C, image..]: every column's elements are added where they came from."""
    sizes, kernel = b.numbers(image, "image_shape"), b.numbers(block, "block_shape")
    count = len(sizes)
    stride, dilation = strides or (1,) * count, dilations or (1,) * count
    pad = pads or (0,) * (2 * count)
    steps = [(sizes[a] + pad[a] + pad[a + count] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1
             for a in range(count)]
    inner, columns, pixels = int(np.prod(kernel)), int(np.prod(steps)), int(np.prod(sizes))
    if inner * columns * pixels > 1 << 24:
        raise CannotLower(f"an image of {pixels} pixels from {columns} columns")
    matrix = np.zeros((inner, columns, pixels))
    for k, tap in enumerate(np.ndindex(*kernel)):
        for c, column in enumerate(np.ndindex(*steps)):
            place = [column[a] * stride[a] + tap[a] * dilation[a] - pad[a] for a in range(count)]
            if all(0 <= p < size for p, size in zip(place, sizes, strict=True)):
                matrix[k, c, np.ravel_multi_index(place, sizes)] += 1
    n, channels = x.shape[0], x.shape[1] // inner
    flat = b.reshape(b.read(x), (n * channels, inner * columns))
    return b.result(b.reshape(product(b, flat, matrix.reshape(inner * columns, pixels)), b.shape))


@op("RoiAlign")
def roi_align(b: Builder, x: Value, rois: Value, batch: Value, *, coordinate_transformation_mode: str = "half_pixel",
              mode: str = "avg", output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0,
              spatial_scale: float = 1.0) -> Value:
    """Constant regions: their samples' pixels by one product with a matrix [H*W, samples], then a mean or a maximum.

    mode=max takes the largest weighted pixel, as ONNX Runtime and the ONNX reference do.
    """
    if mode != "avg":
        raise CannotLower("mode=max")
    boxes, images = b.array(rois, "regions"), b.numbers(batch, "batch_indices")
    n, channels, height, width = x.shape
    offset = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    made = []
    flat = b.reshape(b.read(x), (n, channels, height * width))
    for box, image in zip(boxes, images, strict=True):
        x1, y1, x2, y2 = (float(v) * spatial_scale - offset for v in box)
        rows, columns = (_samples(start, end, count, size, sampling_ratio, not offset) for start, end, count, size in
                         ((y1, y2, output_height, height), (x1, x2, output_width, width)))
        matrix = np.einsum("ih,jw->hwij", rows, columns).reshape(height * width, output_height * output_width)
        one = b.through("SLICE", [flat, b.ints([image, 0, 0]), b.ints([1, channels, height * width])],
                        (1, channels, height * width))
        made.append(product(b, one, matrix))
    whole = (len(made), channels, output_height * output_width)
    joined = made[0] if len(made) == 1 else b.call("CONCATENATION", made, whole, axis=0)
    return b.result(b.reshape(joined, b.shape))


def _samples(start: float, end: float, count: int, size: int, ratio: int, at_least_one: bool) -> NDArray[np.float64]:
    """[count, size]: the weights of the pixels along one axis in each output bin, the mean over its samples.

    Bilinear weights, their mean and the zeros outside of (-1, size) are products of one factor per axis.
    """
    length = max(end - start, 1.0) if at_least_one else end - start
    each = length / count
    samples = ratio if ratio > 0 else int(np.ceil(length / count))
    weights = np.zeros((count, size))
    for i in range(count):
        for s in range(samples):
            place = start + i * each + (s + 0.5) * each / samples
            if place < -1.0 or place > size:
                continue
            place = max(place, 0.0)
            low = min(int(place), size - 1)
            high = min(low + 1, size - 1)
            share = place - low if low < size - 1 else 0.0
            weights[i, low] += (1 - share) / samples
            weights[i, high] += share / samples
    return weights


@op("AffineGrid")
def affine_grid(b: Builder, theta: Value, size: Value, *, align_corners: int = 0) -> Value:
    """theta [N, D, D + 1] times (x, y, .., 1) of every pixel, from -1 to 1 -> [N, pixels.., D]."""
    spatial = b.numbers(size, "size")[2:]
    axes = [np.linspace(-1, 1, s) if align_corners else (2 * np.arange(s) + 1) / s - 1 for s in spatial]
    places = [*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(spatial)]
    count = len(spatial)
    matrix = np.stack([place.ravel() for place in places])
    made = product(b, b.reshape(b.read(theta), (theta.shape[0] * count, count + 1)), matrix)
    return b.result(b.reshape(made, (theta.shape[0], count, *spatial)), (0, count + 1, *range(1, count + 1)))


@op("Det")
def determinant(b: Builder, x: Value) -> Value:
    """x [.., n, n], n at most 3, by expansion."""
    from edgeq_converters.tflite.float_expr import Real

    n = x.shape[-1]
    if n > 3:
        raise CannotLower(f"the determinant of a matrix of {n} rows")
    tensor = b.read(x, last(x.rank, x.rank - 1))
    flat = b.reshape(tensor, (x.size // (n * n), n * n))

    def entry(i: int, j: int) -> Real:
        return Real(b, b.call("SLICE", [flat, b.ints([0, i * n + j]), b.ints([flat.shape[0], 1])], (flat.shape[0], 1)))

    def minor(rows: list[int], columns: list[int]) -> Real:
        if len(rows) == 1:
            return entry(rows[0], columns[0])
        terms = [entry(rows[0], c) * minor(rows[1:], [d for d in columns if d != c]) for c in columns]
        total = terms[0]
        for place, term in enumerate(terms[1:], 1):
            total = total - term if place % 2 else total + term
        return total

    return b.result(b.reshape(minor(list(range(n)), list(range(n))).tensor, b.shape))
