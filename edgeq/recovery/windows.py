"""Torch forms of operators that slide a window over an image or a signal, or change its size."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F

Tensor: TypeAlias = torch.Tensor


class NoForm(Exception):
    """The table holds no such form of the operator; says which."""


_CONV: Final = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Final = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX: Final = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """pads: of all spatial axes, those before and those after."""
    rank = len(pads) // 2
    return F.pad(x, [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)], value=value)


def _pads(x: Tensor, auto_pad: str, pads: Sequence[int] | None, kernel: Sequence[int], strides: Sequence[int],
          dilations: Sequence[int]) -> list[int]:
    if auto_pad in ("NOTSET", "VALID"):
        return list(pads or [0] * (2 * len(kernel)))
    total = [max(0, (-(-size // step) - 1) * step + (k - 1) * d + 1 - size)
             for size, k, step, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)]
    before = [all // 2 if auto_pad == "SAME_UPPER" else -(-all // 2) for all in total]
    return [*before, *(all - first for all, first in zip(total, before, strict=True))]


def _conv(x: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET",
          dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
          pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Tensor:
    rank = x.ndim - 2
    steps, spread = list(strides or [1] * rank), list(dilations or [1] * rank)
    x = _padded(x, _pads(x, auto_pad, pads, w.shape[2:], steps, spread))
    return _CONV[rank](x, w, b, steps, 0, spread, group)


def _conv_transpose(x: Tensor, w: Tensor, b: Tensor | None = None, *, auto_pad: str = "NOTSET",
                    dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
                    output_padding: Sequence[int] | None = None, output_shape: Sequence[int] | None = None,
                    pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Tensor:
    if auto_pad not in ("NOTSET", "VALID") or output_shape is not None:
        raise NoForm("auto_pad or output_shape")
    rank = x.ndim - 2
    steps, more = list(strides or [1] * rank), list(output_padding or [0] * rank)
    y = _TRANSPOSED[rank](x, w, None, steps, 0, 0, group, list(dilations or [1] * rank))
    cut = list(pads or [0] * (2 * rank))
    y = _padded(y, [*(-n for n in cut[:rank]), *(e - n for e, n in zip(more, cut[rank:], strict=True))])
    return y if b is None else y + b.reshape(1, -1, *[1] * rank)


def _with_ceil(x: Tensor, pads: list[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
               ) -> list[int]:
    """pads with what the last window of ceil_mode looks at beyond the end; one that began there does not exist."""
    rank = len(kernel)
    for axis in range(rank):
        reach, size = dilations[axis] * (kernel[axis] - 1) + 1, x.shape[2 + axis]
        room = size + pads[axis] + pads[axis + rank] - reach
        count = -(-room // strides[axis]) + 1
        if (count - 1) * strides[axis] >= size + pads[axis]:
            count -= 1
        pads[axis + rank] += max(0, (count - 1) * strides[axis] - room)
    return pads


def _max_pool(x: Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
              dilations: Sequence[int] | None = None, pads: Sequence[int] | None = None, storage_order: int = 0,
              strides: Sequence[int] | None = None) -> Tensor:
    rank = x.ndim - 2
    steps, spread = list(strides or [1] * rank), list(dilations or [1] * rank)
    found = _pads(x, auto_pad, pads, kernel_shape, steps, spread)
    found = _with_ceil(x, found, kernel_shape, steps, spread) if ceil_mode else found
    return _MAX[rank](_padded(x, found, -math.inf), list(kernel_shape), steps, 0, spread)


def _average_pool(x: Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
                  count_include_pad: int = 0, dilations: Sequence[int] | None = None,
                  pads: Sequence[int] | None = None, strides: Sequence[int] | None = None) -> Tensor:
    """A window's sum over how many of its places count, both by convolution with ones."""
    rank = x.ndim - 2
    steps, spread = list(strides or [1] * rank), list(dilations or [1] * rank)
    said = _pads(x, auto_pad, pads, kernel_shape, steps, spread)
    full = _with_ceil(x, list(said), kernel_shape, steps, spread) if ceil_mode else said
    ones = torch.ones(1, 1, *kernel_shape)
    counted = torch.ones(1, 1, *x.shape[2:])
    if count_include_pad:
        counted = _padded(counted, said, 1.0)
    counted = _padded(counted, [f - s for f, s in zip(full, said, strict=True)] if count_include_pad else full)
    convolve: Any = _CONV[rank]
    flat = _padded(x, full).flatten(0, 1)[:, None]
    total = convolve(flat, ones, None, steps, 0, spread)[:, 0].unflatten(0, x.shape[:2])
    return total / convolve(counted, ones, None, steps, 0, spread)


def _global(function: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x, list(range(2, x.ndim)))


def _resize(x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None, *,
            antialias: int = 0, axes: Sequence[int] | None = None, mode: str = "nearest",
            coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75,
            exclude_outside: int = 0, extrapolation_value: float = 0.0,
            keep_aspect_ratio_policy: str = "stretch", nearest_mode: str = "round_prefer_floor") -> Tensor:
    """Axis by axis, each a matrix of [output, input]."""
    if antialias or mode == "cubic" or keep_aspect_ratio_policy != "stretch" or (
            coordinate_transformation_mode not in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")):
        raise NoForm("cubic, antialias, a policy for the aspect ratio or crop")
    places = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    for number, axis in enumerate(places):
        size = x.shape[axis]
        scale = float(scales[number]) if scales is not None and scales.numel() else None
        target = math.floor(size * scale) if scale is not None else int(sizes[number])  # type: ignore[index]
        scale = scale or target / size
        if target != size or scale != 1:
            at = _coordinates(target, size, scale, coordinate_transformation_mode)
            matrix = _nearest(at, size, nearest_mode) if mode == "nearest" else _linear(at, size)
            x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def _coordinates(target: int, size: int, scale: float, mode: str) -> Tensor:
    at = torch.arange(target, dtype=torch.float64)
    match mode:
        case "asymmetric":
            return at / scale
        case "align_corners":
            return at * (size - 1) / (target - 1) if target > 1 else at * 0
        case "pytorch_half_pixel" if target == 1:
            return at * 0
    return (at + 0.5) / scale - 0.5


def _nearest(at: Tensor, size: int, mode: str) -> Tensor:
    near = {"floor": torch.floor, "ceil": torch.ceil, "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
            "round_prefer_ceil": lambda x: torch.floor(x + 0.5)}[mode](at)
    return torch.eye(size)[near.clamp(0, size - 1).to(torch.int64)]


def _linear(at: Tensor, size: int) -> Tensor:
    at = at.clamp(0, size - 1)
    low = at.floor().to(torch.int64)
    part = (at - low).to(torch.float32)[:, None]
    eye = torch.eye(size)
    return eye[low] * (1 - part) + eye[(low + 1).clamp(max=size - 1)] * part


WINDOWS: Final[Mapping[str, Callable[..., Any]]] = {
    "AveragePool": _average_pool, "Conv": _conv, "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdim=True)),
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "MaxPool": _max_pool, "Resize": _resize,
}
