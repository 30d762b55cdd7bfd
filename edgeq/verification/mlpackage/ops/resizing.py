"""Resampling of images. Reference: .../ops/defs/iOS15/image_resizing.py and later.

MIL describes linear interpolation by the places of the grid points (``grid``), and says nothing on how the nearest
neighbour is chosen; here it is what the frontends take it for: rounded down where the grid starts at the first pixel
(torch, and TensorFlow without half pixels), else the closest pixel.
"""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.verification.mlpackage.optable import CannotRun, OpTable
from edgeq.verification.mlpackage.types import Array
from edgeq.verification.mlpackage.windows import integers

op = OpTable()


def grid(size: float, count: int, mode: str) -> Array:
    """The places of ``count`` output pixels on an axis of ``size`` input pixels -> float64 [count], not yet bounded.

    The size of a box that is cropped need not be whole.
    """
    i = np.arange(count, dtype=np.float64)
    if mode == "DEFAULT":
        return i * (size / count)
    if mode == "UNALIGN_CORNERS":
        return (i + 0.5) * (size / count) - 0.5
    if mode == "OFFSET_CORNERS":
        return (i + 0.5) * (max(1.0, size - 1) / count)
    if mode == "ALIGN_CORNERS" and count == 1:
        return i + (size - 1) / 2
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return i * ((size - 1) / max(1, count - 1))
    raise CannotRun(f"sampling_mode '{mode}'")


def _linear(x: Array, axis: int, count: int, mode: str) -> Array:
    size = x.shape[axis]
    places = np.clip(grid(size, count, mode), 0, size - 1)
    lower = np.floor(places).astype(np.int64)
    upper = np.minimum(lower + 1, size - 1)
    shape = [1] * x.ndim
    shape[axis] = count
    fraction = (places - lower).astype(np.float32).reshape(shape)
    below, above = np.take(x, lower, axis), np.take(x, upper, axis)
    return below + (above - below) * fraction


def _nearest(x: Array, axis: int, count: int, mode: str) -> Array:
    size = x.shape[axis]
    places = grid(size, count, mode)
    chosen = np.floor(places if mode == "DEFAULT" else places + 0.5)
    return np.take(x, np.clip(chosen, 0, size - 1).astype(np.int64), axis)


def _resize(x: Array, sizes: dict[int, int], mode: str, nearest: bool = False) -> Array:
    """Resize the axes of ``sizes`` one after the other."""
    one = _nearest if nearest else _linear
    for axis, count in sizes.items():
        if count != x.shape[axis] or mode == "OFFSET_CORNERS":
            x = one(x, axis, count, mode)
    return x


def _scaled(x: Array, height: float, width: float) -> dict[int, int]:
    return {-2: int(np.floor(height * x.shape[-2])), -1: int(np.floor(width * x.shape[-1]))}


@op("upsample_nearest_neighbor", exact=True)
def upsample_nearest_neighbor(x: Array, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Array:
    return _resize(x, _scaled(x, scale_factor_height, scale_factor_width), "DEFAULT", nearest=True)


@op("resize_nearest_neighbor", exact=True)
def resize_nearest_neighbor(x: Array, target_size_height: int, target_size_width: int) -> Array:
    return _resize(x, {-2: target_size_height, -1: target_size_width}, "DEFAULT", nearest=True)


@op("upsample_bilinear")
def upsample_bilinear(x: Array, scale_factor_height: float = 1, scale_factor_width: float = 1,
                      align_corners: bool = True, half_pixel_centers: bool | None = None) -> Array:
    """The scale that counts is output size over input size."""
    half_pixels = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half_pixels:
        raise CannotRun("align_corners together with half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half_pixels else "DEFAULT"
    return _resize(x, _scaled(x, scale_factor_height, scale_factor_width), mode)


@op("resize_bilinear")
def resize_bilinear(x: Array, target_size_height: int = 1, target_size_width: int = 1,
                    sampling_mode: str = "DEFAULT") -> Array:
    return _resize(x, {-2: target_size_height, -1: target_size_width}, sampling_mode)


@op("resize")
def resize(x: Array, shape: Any, resized_dims: int, interpolation_mode: str = "LINEAR",
           sampling_mode: str = "DEFAULT") -> Array:
    """The last `resized_dims` dimensions take the last sizes of `shape`; 0 keeps one."""
    wanted = integers(shape, 0, 0)[-int(resized_dims):]
    sizes = {axis - len(wanted): size or x.shape[axis - len(wanted)] for axis, size in enumerate(wanted)}
    if interpolation_mode not in ("LINEAR", "NEAREST_NEIGHBOR"):
        raise CannotRun(f"interpolation_mode '{interpolation_mode}'")
    return _resize(x, sizes, sampling_mode, nearest=interpolation_mode == "NEAREST_NEIGHBOR")


@op("resample")
def resample(x: Array, coordinates: Array, sampling_mode: str, padding_mode: str, padding_value: float,
             coordinates_mode: str, align_corners: bool) -> Array:
    """x [B, C, H, W] sampled at coordinates [B, H2, W2, (x, y)] -> [B, C, H2, W2]."""
    height, width = x.shape[2:]
    column = _pixels(coordinates[..., 0].astype(np.float64), width, coordinates_mode, align_corners)
    row = _pixels(coordinates[..., 1].astype(np.float64), height, coordinates_mode, align_corners)
    if padding_mode != "constant":
        column, row = _bounded(column, width, padding_mode), _bounded(row, height, padding_mode)
    if sampling_mode == "nearest":
        return _pick(x, np.rint(row), np.rint(column), padding_value)
    if sampling_mode != "bilinear":
        raise CannotRun(f"sampling_mode '{sampling_mode}'")
    return _bilinear(x, row, column, padding_value)


@op("affine")
def affine(x: Array, transform_matrix: Array, output_height: int, output_width: int, sampling_mode: str,
           padding_mode: str, padding_value: float, coordinates_mode: str, align_corners: bool) -> Array:
    """x [B, C, H, W] sampled where the matrix [B or 1, (a0, a1, a2, b0, b1, b2)] sends each pixel -> [B, C, H2, W2]."""
    if coordinates_mode != "normalized_minus_one_to_one" or not align_corners:
        raise CannotRun(f"coordinates_mode '{coordinates_mode}', align_corners {align_corners}")
    row, column = np.meshgrid(np.linspace(-1, 1, output_height), np.linspace(-1, 1, output_width), indexing="ij")
    pixel = np.stack([column, row, np.ones_like(row)], -1)
    matrix = np.broadcast_to(transform_matrix, (len(x), 6)).astype(np.float64).reshape(-1, 2, 3)
    coordinates = np.einsum("hwk,bjk->bhwj", pixel, matrix)
    return resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def _pixels(coordinate: Array, size: int, mode: str, align_corners: bool) -> Array:
    if mode == "unnormalized":
        return coordinate
    if mode not in ("normalized_minus_one_to_one", "normalized_zero_to_one"):
        raise CannotRun(f"coordinates_mode '{mode}'")
    unit = (coordinate + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinate
    return unit * (size - 1) if align_corners else unit * size - 0.5


def _bounded(place: Array, size: int, mode: str) -> Array:
    """Places outside the image -> the places inside that the padding mode shows there."""
    if mode == "border" or size == 1:
        return np.clip(place, 0, size - 1)
    if mode == "reflection":
        folded = np.abs(place) % (2 * (size - 1))
        return np.minimum(folded, 2 * (size - 1) - folded)
    if mode == "symmetric":
        folded = np.abs(place + 0.5) % (2 * size)
        return np.clip(np.minimum(folded, 2 * size - folded) - 0.5, 0, size - 1)
    raise CannotRun(f"padding_mode '{mode}'")


def _pick(x: Array, row: Array, column: Array, outside: float) -> Array:
    """x [B, C, H, W] at whole places [B, H2, W2] -> [B, C, H2, W2]."""
    height, width = x.shape[2:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    batch = np.arange(x.shape[0])[:, None, None]
    picked = x[batch, :, np.where(inside, row, 0).astype(np.int64), np.where(inside, column, 0).astype(np.int64)]
    return np.where(inside[:, None], np.moveaxis(picked, -1, 1), np.float32(outside))


def _bilinear(x: Array, row: Array, column: Array, outside: float) -> Array:
    top, left = np.floor(row), np.floor(column)
    down, right = (row - top).astype(np.float32), (column - left).astype(np.float32)
    result = np.zeros((*x.shape[:2], *row.shape[1:]), np.float32)
    for row_step, row_weight in ((0, 1 - down), (1, down)):
        for column_step, column_weight in ((0, 1 - right), (1, right)):
            result += _pick(x, top + row_step, left + column_step, outside) * (row_weight * column_weight)[:, None]
    return result


# box_coordinate_mode: where the first (y, x) and the second (y, x) are, and whether these are centre and size.
_CORNERS = {
    "CORNERS_HEIGHT_FIRST": ((0, 1, 2, 3), False), "CORNERS_WIDTH_FIRST": ((1, 0, 3, 2), False),
    "CENTER_SIZE_HEIGHT_FIRST": ((0, 1, 2, 3), True), "CENTER_SIZE_WIDTH_FIRST": ((1, 0, 3, 2), True),
}


@op("crop_resize")
def crop_resize(x: Array, boxes: Array | None = None, box_indices: Any = None, roi: Array | None = None,
                target_height: int = 1, target_width: int = 1, normalized_coordinates: bool = False,
                spatial_scale: float = 1.0, box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
                sampling_mode: str = "DEFAULT", pad_value: float = 0.0) -> Array:
    """x [B, C, H, W], boxes [N, 4] -> crops [N, C, h, w].

    Before iOS 17: roi [N, 1, 4 or 5, 1, 1] (a leading image number) -> crops [N, B or 1, C, h, w].
    """
    size = (target_height, target_width)

    def crop(image: Array, box: Array) -> Array:
        order, centred = _CORNERS[box_coordinate_mode]
        places = _box_grid(box[list(order)].astype(np.float64), centred, image.shape[1:], size, normalized_coordinates,
                           spatial_scale, sampling_mode)
        rows, columns = np.meshgrid(*places, indexing="ij")
        inside = (rows >= 0) & (rows <= image.shape[1] - 1) & (columns >= 0) & (columns <= image.shape[2] - 1)
        return np.where(inside, _bilinear(image[None], rows[None], columns[None], pad_value)[0], np.float32(pad_value))

    if boxes is not None:
        indices = range(len(boxes)) if box_indices is None else integers(box_indices, 0, 0)
        return np.stack([crop(x[index], box) for index, box in zip(indices, boxes, strict=True)])
    if roi is None:
        raise CannotRun("neither boxes nor roi")
    flat = roi.reshape(len(roi), -1)
    if flat.shape[1] == 4:
        return np.stack([np.stack([crop(image, box) for image in x]) for box in flat])
    return np.stack([crop(x[int(box[0])], box[1:])[None] for box in flat])


def _box_grid(box: Array, centred: bool, full: tuple[int, ...], target: tuple[int, int], normalized: bool, scale: float,
              mode: str) -> list[Array]:
    """box [y, x, y, x] or [y, x, height, width] -> the rows and columns of the samples, in pixels of the image."""
    places = []
    for axis in range(2):
        first, second = box[axis] * scale, box[axis + 2] * scale
        start, end = (first - second / 2, first + second / 2) if centred else (first, second)
        unit = full[axis] - 1 if normalized else 1
        start, end = start * unit, end * unit
        places.append(start + grid(end - start + 1, target[axis], mode))
    return places
