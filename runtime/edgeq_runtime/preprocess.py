"""From an image to a model input, as the manifest declares it; the same code calibrates, verifies and runs.

Resizing is Pillow's antialiased filters in their integer arithmetic, so that a device without Pillow sees the pixels
that the model was trained on. Sounds: edgeq_runtime.sound.
"""
from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

import numpy as np

from .errors import BundleError, InputError
from .manifest import decode, decode_kind
from .sound import LogMel

_PRECISION_BITS = 22  # Pillow, src/libImaging/Resample.c: 32 - 8 - 2


@dataclass(frozen=True)
class Preprocess:
    """Steps in this order; each is skipped at its default.

    resize_shorter: pixels of the shorter side, the other side in proportion. resize, crop: (height, width), the crop
    from the centre. letterbox: (height, width) into which the image is fitted whole, in the middle of pixels of value
    `pad`; align: "center", or "corner" for the top left one. interpolation: "bilinear" or "bicubic". order: "RGB", or
    "BGR" to reverse the channels. Then (pixel * scale - mean) / std, per channel in the order after reversing. layout:
    "NCHW" or "NHWC". pixels: the model does that last step itself, and takes uint8 pixels.
    """

    resize_shorter: Optional[int] = None
    resize: Optional[Tuple[int, int]] = None
    letterbox: Optional[Tuple[int, int]] = None
    pad: int = 114
    align: str = "center"
    crop: Optional[Tuple[int, int]] = None
    interpolation: str = "bilinear"
    order: str = "RGB"
    scale: float = 1.0
    mean: Tuple[float, ...] = ()
    std: Tuple[float, ...] = ()
    layout: str = "NCHW"
    pixels: bool = False

    def __post_init__(self) -> None:
        for field, known in (("order", ("RGB", "BGR")), ("layout", ("NCHW", "NHWC")), ("interpolation", _FILTERS),
                             ("align", ("center", "corner"))):
            if getattr(self, field) not in known:
                raise BundleError(f"preprocessing: {field} is {' or '.join(known)}; got {getattr(self, field)}")
        if (self.resize_shorter, self.resize, self.letterbox).count(None) < 2:
            raise BundleError("preprocessing: 'resize', 'resize_shorter' and 'letterbox' exclude each other")
        if self.letterbox is not None and self.crop is not None:
            raise BundleError("preprocessing: 'letterbox' keeps the whole image, so it excludes 'crop'")
        sizes = [size for size in (self.resize, self.letterbox, self.crop) if size is not None]
        if any(len(size) != 2 for size in sizes):
            raise BundleError("preprocessing: 'resize', 'letterbox' and 'crop' are (height, width)")
        sides = [n for size in sizes for n in size] + ([] if self.resize_shorter is None else [self.resize_shorter])
        if any(n < 1 for n in sides) or any(value == 0 for value in self.std) or not 0 <= self.pad <= 255:
            raise BundleError("preprocessing: sizes are positive, no std is 0, and pad is 0 to 255")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """The manifest's dictionary; BundleError for a key that is unknown here, or a value of another kind."""
        found: Preprocess = decode(cls, data, "preprocessing")
        return found

    def to_dict(self) -> Dict[str, Any]:
        """What differs from the defaults, so that a runtime without a newer key reads whatever does not use it."""
        return {"kind": "image", **{f.name: getattr(self, f.name) for f in fields(self)
                                    if getattr(self, f.name) != f.default}}

    def __call__(self, image: Any) -> Any:
        """image uint8 [H,W,C] or [H,W] -> float32, or uint8 for a model that takes pixels, [1,C,h,w] or [1,h,w,C].

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
        height, width = self._resized(image.shape[0], image.shape[1])
        image = resize(image, height, width, self.interpolation)
        if self.letterbox is not None:
            return framed(image, *self.letterbox, self.pad, self.align)
        return image if self.crop is None else center_crop(image, *self.crop)

    def _resized(self, height: int, width: int) -> Tuple[int, int]:
        if self.resize_shorter is not None:
            return shorter_side(height, width, self.resize_shorter)
        if self.letterbox is not None:
            return fitted(height, width, *self.letterbox, self.align)
        return (height, width) if self.resize is None else self.resize

    def to_image(self, boxes: Any, height: int, width: int) -> Any:
        """boxes [N,4] x0 y0 x1 y1 in pixels of the model's input -> in those of the image [height,width], inside it."""
        high, wide = self._resized(height, width)
        top, left = 0, 0
        if self.letterbox is not None:
            top, left = (-margin for margin in _margins(high, wide, *self.letterbox, self.align))
        elif self.crop is not None:
            top, left = _corner(high, wide, *self.crop)
        corner, factor = np.array([left, top] * 2), np.array([width / wide, height / high] * 2)
        return np.clip((np.asarray(boxes, np.float64) + corner) * factor, 0, [width, height] * 2)

    def of_pixels(self, pixels: Any) -> Any:
        """Pixels, uint8 [N,C,h,w] or [N,h,w,C], as the layout says -> what this makes of them, float32, same shape."""
        if self.layout == "NCHW":
            pixels = pixels.transpose(0, 2, 3, 1)
        values = self._scaled(pixels.astype(np.float32))
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if self.layout == "NCHW" else values

    def to_pixels(self, values: Any) -> Any:
        """What this makes of pixels, float [N,C,h,w] or [N,h,w,C] -> the pixels, uint8, same shape."""
        std, mean = (np.array(numbers, np.float32).reshape(-1, *[1, 1] * (self.layout == "NCHW"))
                     for numbers in (self.std or (1,), self.mean or (0,)))
        return np.clip(np.rint((values * std + mean) / np.float32(self.scale)), 0, 255).astype(np.uint8)

    def _normalized(self, image: Any) -> Any:
        values = image if self.pixels else self._scaled(image.astype(np.float32))
        values = values.transpose(2, 0, 1) if self.layout == "NCHW" else values
        return np.ascontiguousarray(values[None])

    def _scaled(self, values: Any) -> Any:
        if self.scale != 1:
            values *= np.float32(self.scale)
        if self.mean:
            values -= np.array(self.mean, np.float32)
        if self.std:
            values /= np.array(self.std, np.float32)
        return values


def from_dict(data: Mapping[str, Any]) -> Union[Preprocess, LogMel]:
    """What a manifest or a file declares; one without a kind is about images.

    Raises:
        BundleError: a kind or key that is unknown here, or a value that does not fit.
    """
    found: Union[Preprocess, LogMel] = decode_kind({"image": Preprocess, "log-mel": LogMel}, data, "preprocessing",
                                                   default="image")
    return found


def imagenet() -> Preprocess:
    """What torchvision's classifiers were trained with: shorter side 256, crop 224, the data set's mean and std."""
    return Preprocess(resize_shorter=256, crop=(224, 224), scale=1 / 255, mean=(0.485, 0.456, 0.406),
                      std=(0.229, 0.224, 0.225))


PRESETS: Dict[str, Callable[[], Preprocess]] = {
    "imagenet": imagenet,
    "mobilenet": lambda: Preprocess(resize=(224, 224), scale=1 / 127.5, mean=(1.0,)),  # -1 to 1, as Keras' and TF's
    "yolo": lambda: Preprocess(letterbox=(640, 640), scale=1 / 255),
    "yolox": lambda: Preprocess(letterbox=(640, 640), align="corner", order="BGR"),
}


def shorter_side(height: int, width: int, size: int) -> Tuple[int, int]:
    """(height, width) with the shorter one `size`, the other rounded down, as torchvision's Resize does."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def fitted(height: int, width: int, frame_height: int, frame_width: int, align: str) -> Tuple[int, int]:
    """(height, width) of the same proportions, as large as the frame allows, rounded as framed's sources do."""
    factor = min(frame_height / height, frame_width / width)
    if align == "corner":
        return max(int(height * factor), 1), max(int(width * factor), 1)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def framed(image: Any, height: int, width: int, value: int, align: str) -> Any:
    """image [H,W,C], not larger -> [height,width,C], around it pixels of one value; the odd row and column come last.

    LetterBox of https://github.com/ultralytics/ultralytics/blob/main/ultralytics/data/augment.py; in the
    corner as preproc of https://github.com/Megvii-BaseDetection/YOLOX/blob/main/yolox/data/data_augment.py
    """
    top, left = _margins(image.shape[0], image.shape[1], height, width, align)
    frame = np.full((height, width, image.shape[2]), value, np.uint8)
    frame[top:top + image.shape[0], left:left + image.shape[1]] = image
    return frame


def _margins(height: int, width: int, frame_height: int, frame_width: int, align: str) -> Tuple[int, int]:
    if align == "corner":
        return 0, 0
    return (frame_height - height) // 2, (frame_width - width) // 2


def center_crop(image: Any, height: int, width: int) -> Any:
    """image [H,W,C] -> [height,width,C]; the odd pixel goes as torchvision's CenterCrop puts it."""
    if image.shape[0] < height or image.shape[1] < width:
        raise InputError(f"an image of {image.shape[0]} x {image.shape[1]} pixels is smaller than the crop "
                         f"of {height} x {width}")
    top, left = _corner(image.shape[0], image.shape[1], height, width)
    return image[top:top + height, left:left + width]


def _corner(height: int, width: int, crop_height: int, crop_width: int) -> Tuple[int, int]:
    return round((height - crop_height) / 2), round((width - crop_width) / 2)


def resize(image: Any, height: int, width: int, interpolation: str = "bilinear") -> Any:
    """image uint8 [H,W,C] -> [height,width,C]: Pillow's Image.resize with BILINEAR or BICUBIC.

    Along the rows first, rounded to uint8 in between: bit for bit Pillow up to 12, which most models were trained with.
    Pillow 13 takes the columns first for some tall images, and its values then differ by at most 1 (bicubic: 2).
    """
    if image.shape[1] != width:
        image = _resample(image, width, 1, *_FILTERS[interpolation])
    return _resample(image, height, 0, *_FILTERS[interpolation]) if image.shape[0] != height else image


def _resample(image: Any, size: int, axis: int, support: float, kernel: Callable[[Any], Any]) -> Any:
    """One axis, in Pillow's 22-bit fixed point. The weights' magnitudes add up to 1.3 at most, so int32 holds it."""
    first, weights = _filter(image.shape[axis], size, support, kernel)
    shape = [1, 1, 1]
    shape[axis] = size
    total = np.int32(1 << (_PRECISION_BITS - 1))
    for tap in range(weights.shape[1]):
        index = np.minimum(first + tap, image.shape[axis] - 1)  # beyond the edge the weight is 0
        total = total + image.take(index, axis).astype(np.int32) * weights[:, tap].reshape(shape)
    return np.clip(total >> _PRECISION_BITS, 0, 255).astype(np.uint8)


def _filter(length: int, size: int, radius: float, kernel: Callable[[Any], Any]) -> Tuple[Any, Any]:
    """A filter from `length` to `size` pixels -> (first source pixel [size], weights int32 [size,taps]).

    precompute_coeffs and normalize_coeffs_8bpc of Pillow's src/libImaging/Resample.c.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    support = radius * stretch
    center = (np.arange(size) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), length)
    position = first[:, None] + np.arange(ceil(support) * 2 + 1)
    distance = np.abs(position - center[:, None] + 0.5) * (1.0 / stretch)
    weights = np.where(position < last[:, None], kernel(distance), 0.0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added one after the other, as C does; np.sum adds in pairs
    scaled = weights * (1 << _PRECISION_BITS)
    return first, np.trunc(scaled + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)


def _triangle(x: Any) -> Any:
    return np.where(x < 1, 1 - x, 0.0)


def _cubic(x: Any) -> Any:
    """Keys' filter with a = -0.5, as bicubic_filter of Resample.c."""
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


# interpolation -> (pixels to each side, weight at a distance in pixels)
_FILTERS: Dict[str, Tuple[float, Callable[[Any], Any]]] = {"bilinear": (1.0, _triangle), "bicubic": (2.0, _cubic)}
