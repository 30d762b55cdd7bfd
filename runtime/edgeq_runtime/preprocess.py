"""From an image to a model input, as the manifest declares it; the same code calibrates, verifies and runs.

Resizing is Pillow's antialiased bilinear filter in its integer arithmetic, so that a device without Pillow sees the
pixels that the model was trained on.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import ceil
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np

from .errors import BundleError, InputError

_PRECISION_BITS = 22  # Pillow, src/libImaging/Resample.c: 32 - 8 - 2


@dataclass(frozen=True)
class Preprocess:
    """Steps in this order; each is skipped at its default.

    resize_shorter: pixels of the shorter side, the other side in proportion. resize, crop: (height, width), the crop
    from the centre. order: "RGB", or "BGR" to reverse the channels. Then (pixel * scale - mean) / std, per channel in
    the order after reversing. layout: "NCHW" or "NHWC".
    """

    resize_shorter: Optional[int] = None
    resize: Optional[Tuple[int, int]] = None
    crop: Optional[Tuple[int, int]] = None
    order: str = "RGB"
    scale: float = 1.0
    mean: Tuple[float, ...] = ()
    std: Tuple[float, ...] = ()
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR") or self.layout not in ("NCHW", "NHWC"):
            raise BundleError(f"preprocessing: order is RGB or BGR, layout NCHW or NHWC; "
                              f"got {self.order} and {self.layout}")
        if self.resize_shorter is not None and self.resize is not None:
            raise BundleError("preprocessing: 'resize' and 'resize_shorter' exclude each other")
        sizes = [n for size in (self.resize, self.crop) if size is not None for n in size]
        if self.resize_shorter is not None:
            sizes.append(self.resize_shorter)
        if any(type(n) is not int or n < 1 for n in sizes) or any(value == 0 for value in self.std):
            raise BundleError("preprocessing: sizes are positive integers, and no std is 0")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """The manifest's dictionary; BundleError for a key that is unknown here, or a value of another kind."""
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise BundleError(f"preprocessing: unknown key '{unknown[0]}'")
        values: Dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        for key, value in values.items():
            if not _KINDS[key](value):
                raise BundleError(f"preprocessing: '{key}' cannot be {data[key]!r}")
        return cls(**values)

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)

    def __call__(self, image: Any) -> Any:
        """image uint8 [H,W,C] or [H,W] -> float32 [1,C,h,w] or [1,h,w,C].

        Raises:
            InputError: not such an image, smaller than the crop, or with another number of channels than mean and std.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
            raise InputError(f"an image is a uint8 array [H, W, channels], got {image.dtype} {list(image.shape)}")
        image = image[..., None] if image.ndim == 2 else image
        for values in (self.mean, self.std):
            if len(values) not in (0, 1, image.shape[2]):
                raise InputError(f"the image has {image.shape[2]} channels, the preprocessing is for {len(values)}")
        image = self._pixels(image)
        if self.order == "BGR":
            image = image[..., ::-1]
        return self._normalized(image)

    def _pixels(self, image: Any) -> Any:
        if self.resize_shorter is not None:
            image = resize(image, *shorter_side(image.shape[0], image.shape[1], self.resize_shorter))
        if self.resize is not None:
            image = resize(image, *self.resize)
        return image if self.crop is None else center_crop(image, *self.crop)

    def _normalized(self, image: Any) -> Any:
        values = image.astype(np.float32)
        if self.scale != 1:
            values *= np.float32(self.scale)
        if self.mean:
            values -= np.array(self.mean, np.float32)
        if self.std:
            values /= np.array(self.std, np.float32)
        values = values.transpose(2, 0, 1) if self.layout == "NCHW" else values
        return np.ascontiguousarray(values[None])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) == 2)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_number, value))


_KINDS: Dict[str, Callable[[Any], bool]] = {
    "resize_shorter": lambda value: value is None or type(value) is int,
    "resize": _is_size,
    "crop": _is_size,
    "order": lambda value: isinstance(value, str),
    "scale": _is_number,
    "mean": _are_numbers,
    "std": _are_numbers,
    "layout": lambda value: isinstance(value, str),
}


def imagenet() -> Preprocess:
    """What torchvision's classifiers were trained with: shorter side 256, crop 224, the data set's mean and std."""
    return Preprocess(resize_shorter=256, crop=(224, 224), scale=1 / 255, mean=(0.485, 0.456, 0.406),
                      std=(0.229, 0.224, 0.225))


PRESETS = {"imagenet": imagenet}


def shorter_side(height: int, width: int, size: int) -> Tuple[int, int]:
    """(height, width) with the shorter one `size`, the other rounded down, as torchvision's Resize does."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def center_crop(image: Any, height: int, width: int) -> Any:
    """image [H,W,C] -> [height,width,C]; the odd pixel goes as torchvision's CenterCrop puts it."""
    if image.shape[0] < height or image.shape[1] < width:
        raise InputError(f"an image of {image.shape[0]} x {image.shape[1]} pixels is smaller than the crop "
                         f"of {height} x {width}")
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    return image[top:top + height, left:left + width]


def resize(image: Any, height: int, width: int) -> Any:
    """image uint8 [H,W,C] -> [height,width,C]: Pillow's Image.resize(..., BILINEAR).

    Along the rows first, rounded to uint8 in between: bit for bit Pillow up to 12, which most models were trained with.
    Pillow 13 takes the columns first for some tall images, and its values then differ by at most 1.
    """
    if image.shape[1] != width:
        image = _resample(image, width, axis=1)
    return _resample(image, height, axis=0) if image.shape[0] != height else image


def _resample(image: Any, size: int, axis: int) -> Any:
    """One axis, in Pillow's 22-bit fixed point: at most 255 * 2^22 + 2^21, which int32 holds."""
    first, weights = _filter(image.shape[axis], size)
    shape = [1, 1, 1]
    shape[axis] = size
    total = np.int32(1 << (_PRECISION_BITS - 1))
    for tap in range(weights.shape[1]):
        index = np.minimum(first + tap, image.shape[axis] - 1)  # beyond the edge the weight is 0
        total = total + image.take(index, axis).astype(np.int32) * weights[:, tap].reshape(shape)
    return np.clip(total >> _PRECISION_BITS, 0, 255).astype(np.uint8)


def _filter(length: int, size: int) -> Tuple[Any, Any]:
    """The triangle filter from `length` to `size` pixels -> (first source pixel [size], weights int32 [size,taps]).

    precompute_coeffs and normalize_coeffs_8bpc of Pillow's src/libImaging/Resample.c.
    """
    scale = length / size
    support = max(scale, 1.0)
    center = (np.arange(size) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), length)
    position = first[:, None] + np.arange(ceil(support) * 2 + 1)
    distance = np.abs((position - center[:, None] + 0.5) * (1.0 / support))
    weights = np.where((position < last[:, None]) & (distance < 1), 1 - distance, 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added one after the other, as C does; np.sum adds in pairs
    return first, (weights * (1 << _PRECISION_BITS) + 0.5).astype(np.int32)
