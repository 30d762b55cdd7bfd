"""What operators compute, in torch, so that it can be differentiated: one row each.

A form's signature is its contract, as a handler's of a backend is: inputs by position, attributes as keywords with the
schema's defaults. An attribute that it does not name, or a value that it raises `NoForm` for, is refused by name.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F

from edgeq.recovery.windows import WINDOWS, NoForm

Tensor: TypeAlias = torch.Tensor
Form: TypeAlias = Callable[..., Any]

# onnx.TensorProto.DataType -> torch
TYPES: Final[Mapping[int, torch.dtype]] = MappingProxyType({
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
    11: torch.float64})


def rounded(x: Tensor) -> Tensor:
    """To the nearest integer, ties to even, with the gradient of x itself: Bengio et al. 2013, arXiv:1308.3432."""
    return x + (torch.round(x) - x).detach()


def _ints(values: Tensor | None) -> list[int]:
    return [] if values is None else [int(value) for value in values.reshape(-1).tolist()]


def _axes(x: Tensor, axes: Tensor | None, noop: int = 0) -> list[int]:
    """Which axes a reduction runs over; none at all: every one."""
    found = _ints(axes)
    return [axis % x.ndim for axis in found] if found or noop else list(range(x.ndim))


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Form:
    def form(data: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        found = _axes(data, axes, noop_with_empty_axes)
        return function(data, found, bool(keepdims)) if found else data

    return form


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    if to not in TYPES:
        raise NoForm(f"to the type {to}")
    return x.to(TYPES[to])


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = _ints(shape)
    return x.reshape([x.shape[k] if size == 0 and not allowzero else size for k, size in enumerate(sizes)])


def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(*(reversed(range(x.ndim)) if perm is None else perm))


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis + x.ndim if axis < 0 else axis]), -1)


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze([axis % x.ndim for axis in _ints(axes)])


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + len(_ints(axes))
    for axis in sorted(axis % rank for axis in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _split(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int | None = None) -> list[Tensor]:
    if sizes is not None:
        return list(torch.split(x, _ints(sizes), axis))
    assert num_outputs is not None
    return list(torch.split(x, -(-x.shape[axis] // num_outputs), axis))


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    begins, stops = _ints(starts), _ints(ends)
    strides = _ints(steps) or [1] * len(begins)
    for axis, start, stop, step in zip(_ints(axes) or range(len(begins)), begins, stops, strides, strict=True):
        size = x.shape[axis]
        places = range(size)[slice(start, None if step < 0 and stop < -size else stop, step)]
        x = (x.narrow(axis, places.start, len(places)) if step == 1 and len(places)
             else x.index_select(axis, torch.tensor(list(places), dtype=torch.int64)))
    return x


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.ndim
    places = torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64)
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1:]))


def _gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices).to(torch.int64))


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(_ints(shape))))


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(*_ints(repeats))


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _filled(shape: Tensor, *, value: Any = None) -> Tensor:
    fill = torch.zeros(1) if value is None else torch.from_numpy(value.numpy().copy())
    return fill.reshape(()).expand(tuple(_ints(shape))) if _ints(shape) else fill.reshape(())


def _trilu(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    return (torch.triu if upper else torch.tril)(x, 0 if k is None else int(k))


def _cumsum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    at = int(axis)
    x = x.flip(at) if reverse else x
    found = x.cumsum(at) - x if exclusive else x.cumsum(at)
    return found.flip(at) if reverse else found


def _pad(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *,
         mode: str = "constant") -> Tensor:
    sizes = _ints(pads)
    half = len(sizes) // 2
    for axis, before, after in zip(_axes(x, axes)[:half], sizes[:half], sizes[half:], strict=True):
        size = x.shape[axis]
        if before < 0 or after < 0 or mode == "constant":
            if mode != "constant":
                raise NoForm("negative pads")
            spread = [0] * (2 * x.ndim)
            spread[2 * (x.ndim - 1 - axis):2 * (x.ndim - axis)] = before, after
            x = F.pad(x, spread, value=0 if value is None else value.item())
            continue
        places = torch.arange(-before, size + after)
        match mode:
            case "edge":
                places = places.clamp(0, size - 1)
            case "reflect":
                places = (size - 1) - ((places % (2 * size - 2)) - (size - 1)).abs() if size > 1 else places * 0
            case _:
                places = places % size
        x = x.index_select(axis, places)
    return x


def _gemm(a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
          transB: int = 0) -> Tensor:
    y = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return y if c is None else y + beta * c


def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    split = (n, b, b, depth, h, w) if mode == "DCR" else (n, depth, b, b, h, w)
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    return x.reshape(split).permute(order).reshape(n, depth, h * b, w * b)


def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def _layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5,
                stash_type: int = 1) -> Tensor:
    axes = list(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    y = centred / torch.sqrt((centred * centred).mean(axes, keepdim=True) + epsilon) * scale
    return y if bias is None else y + bias


def _along_channels(x: Tensor, values: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def _instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    axes = list(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    y = centred / torch.sqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    return y * _along_channels(x, scale) + _along_channels(x, bias)


def _batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5,
                momentum: float = 0.9, training_mode: int = 0) -> Tensor:
    if training_mode:
        raise NoForm("training_mode")
    gain = scale / torch.sqrt(variance + epsilon)
    return (x - _along_channels(x, mean)) * _along_channels(x, gain) + _along_channels(x, bias)


def _lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    length = x.abs().sum(axis, keepdim=True) if p == 1 else torch.sqrt((x * x).sum(axis, keepdim=True))
    return torch.where(length == 0, torch.zeros_like(x), x / length)


def _einsum(*operands: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *operands)


def _top_k(x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    values, places = torch.sort(x, stable=True, dim=axis, descending=bool(largest))
    return values.narrow(axis, 0, int(k)), places.narrow(axis, 0, int(k))


def _arg(function: Callable[..., Tensor]) -> Form:
    def form(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=bool(keepdims))
        return function(x, axis, keepdim=bool(keepdims))

    return form


def spread_grid(of: Tensor, shape: Sequence[int], axis: int, block_size: int) -> Tensor:
    """Scales or zero points, broadcast against data of a shape. As `edgeq.scheme.broadcast`."""
    if of.ndim == 0 or of.numel() == 1:
        return of.reshape(())
    if block_size:
        return of.repeat_interleave(block_size, axis).narrow(axis, 0, shape[axis])
    sizes = [1] * len(shape)
    sizes[axis] = -1
    return of.reshape(sizes)


def _quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0,
              output_dtype: int = 0, saturate: int = 1, bits: int = 8, signed: bool = False) -> Tensor:
    """The integers as floats, through which gradients pass. bits, signed: of the type that the graph writes."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    zero = 0.0 if zero_point is None else spread_grid(zero_point, x.shape, axis, block_size).to(torch.float32)
    return torch.clamp(rounded(x / spread_grid(scale, x.shape, axis, block_size)) + zero, low, high)


def _dequantize(x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0,
                output_dtype: int = 0) -> Tensor:
    zero = 0.0 if zero_point is None else spread_grid(zero_point, x.shape, axis, block_size).to(torch.float32)
    return (x.to(torch.float32) - zero) * spread_grid(scale, x.shape, axis, block_size)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Form:
    """Of any number of operands."""
    def form(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return form


def _mean(*operands: Tensor) -> Tensor:
    return sum(operands[1:], start=operands[0]) / len(operands)


def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


# Operators of which a function of torch says everything.
_PLAIN: Final[Mapping[str, Form]] = {
    "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Atan": torch.atan, "Ceil": torch.ceil,
    "Cos": torch.cos, "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "HardSwish": F.hardswish, "Identity": lambda x: x,
    "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log, "MatMul": torch.matmul, "Max": _folded(torch.maximum),
    "Mean": _mean, "Min": _folded(torch.minimum), "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg,
    "Not": torch.logical_not, "Or": torch.logical_or, "Pow": lambda x, y: torch.pow(x, y.to(x.dtype)),
    "PRelu": _prelu, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Sub": torch.sub, "Sum": _folded(torch.add), "Tan": torch.tan, "Tanh": torch.tanh,
    "Where": torch.where, "Xor": torch.logical_xor,
}

FORMS: Final[Mapping[str, Form]] = MappingProxyType({
    **_PLAIN, **WINDOWS,
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin), "BatchNormalization": _batch_norm, "Cast": _cast,
    "Clip": _clip, "Concat": _concat, "ConstantOfShape": _filled, "CumSum": _cumsum,
    "DepthToSpace": _depth_to_space, "DequantizeLinear": _dequantize, "Div": _div, "Einsum": _einsum,
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha), "Expand": _expand, "Flatten": _flatten, "Gather": _gather,
    "GatherElements": _gather_elements, "Gelu": _gelu, "Gemm": _gemm, "HardSigmoid": _hard_sigmoid,
    "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "LogSoftmax": lambda x, *, axis=-1: torch.log_softmax(x, axis), "LpNormalization": _lp_norm, "Mod": _mod,
    "Pad": _pad, "QuantizeLinear": _quantize, "Range": _range,
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keepdim=keep))),
    "ReduceLogSumExp": _reduced(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "Reshape": _reshape, "Shape": _shape, "Slice": _slice, "Softmax": _softmax,
    "SpaceToDepth": _space_to_depth, "Split": _split, "Squeeze": _squeeze,
    "ThresholdedRelu": lambda x, *, alpha=1.0: torch.where(x > alpha, x, torch.zeros_like(x)),
    "Tile": _tile, "TopK": _top_k, "Transpose": _transpose, "Trilu": _trilu, "Unsqueeze": _unsqueeze,
})
