"""Convolution, pooling, matrix products, normalization."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from edgeq_converters.coreai.builder import Builder
from edgeq_converters.coreai.words import word
from edgeq_converters.mil.builder import Var
from edgeq_converters.optable import CannotLower


def _sizes(var: Var) -> list[int]:
    if any(dim is None for dim in var.shape):
        raise CannotLower("an input's shape is known only at run time")
    return [int(dim or 0) for dim in var.shape]


def _with_height(b: Builder, x: Var) -> Var:
    """[N,C,W] -> [N,C,1,W]: the dialect's windows have two or three axes."""
    shape = _sizes(x)
    return b.reshape(x, [*shape[:2], 1, *shape[2:]]) if len(shape) == 3 else x


def _without_height(b: Builder, x: Var, rank: int) -> Var:
    shape = _sizes(x)
    return b.reshape(x, [*shape[:2], *shape[3:]]) if rank == 3 else x


def _two(values: Sequence[int], filler: int = 1) -> np.ndarray[Any, Any]:
    return np.array([filler, *values] if len(values) == 1 else list(values), np.uint32)


def _pairs(pad: Sequence[int]) -> list[tuple[int, int]]:
    return [(0, 0), (0, 0), *zip(pad[::2], pad[1::2], strict=True)]


def _windows(kind: str, rank: int) -> str:
    if not 3 <= rank <= 5:
        raise CannotLower(f"windows over {rank - 2} axes")
    return f"{kind}{3 if rank == 5 else 2}d"


def _biased(b: Builder, y: Var, bias: Any) -> Var:
    """bias [C] along axis 1."""
    if bias is None:
        return y
    vector = b.tensor(bias, y.dtype)
    return b.op("add", x=y, y=b.reshape(vector, [1, _sizes(vector)[0], *[1] * (len(y.shape) - 2)]))


@word("conv")
def conv(b: Builder, *, x: Any, weight: Any, strides: Sequence[int], dilations: Sequence[int], groups: int,
         pad: Sequence[int], bias: Any = None, pad_type: str = "custom") -> Var:
    x, weight = b.matched(x, weight)
    rank = len(x.shape)
    padded = b.tensor(b.pad(x, _pairs(pad)))
    y: Var = b.call(_windows("conv", rank), _with_height(b, padded), _with_height(b, weight), _two(strides),
                    _two(dilations), np.uint32(groups))
    return _biased(b, _without_height(b, y, rank), bias)


@word("conv_transpose")
def conv_transpose(b: Builder, *, x: Any, weight: Any, strides: Sequence[int], dilations: Sequence[int], groups: int,
                   pad: Sequence[int], bias: Any = None, pad_type: str = "custom") -> Var:
    """The full output, of which the padding is then cut off: the dialect's own padding is the same on both sides."""
    x, weight = b.matched(x, weight)
    rank, count = len(x.shape), max(len(x.shape) - 2, 2)
    none = np.zeros(count, np.uint32)
    size, kernel = _sizes(x)[2:], _sizes(weight)[2:]
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)]
    batch, channels = _sizes(x)[0], _sizes(weight)[1] * groups
    y: Var = b.program.typed(
        _windows("ConvTranspose", rank) + "Op", [batch, channels, *([1, *full] if rank == 3 else full)], x.dtype,
        _with_height(b, x), _with_height(b, weight), _two(strides), none, _two(dilations), none, np.uint32(groups))
    y = _without_height(b, y, rank)
    pairs = _pairs(pad)
    if any(map(any, pairs)):
        y = b.slice(y, [before for before, _ in pairs],
                    [dim - after for dim, (_, after) in zip(_sizes(y), pairs, strict=True)])
    return _biased(b, y, bias)


# ---------------------------------------------------------------------- pooling
@word("max_pool")
def max_pool(b: Builder, *, x: Any, kernel_sizes: Sequence[int], strides: Sequence[int], pad: Sequence[int],
             pad_type: str = "custom") -> Var:
    x = b.tensor(x)
    rank, operator = len(x.shape), _windows("maxpool", len(x.shape))
    padded = _filled(b, x, pad, -np.inf)
    size = [(n - k) // s + 1 for n, k, s in zip(_sizes(padded)[2:], kernel_sizes, strides, strict=True)]
    shape = [*_sizes(padded)[:2], *([1, *size] if rank == 3 else size)]
    y = b.program.typed(operator, shape, x.dtype, _with_height(b, padded), _two(kernel_sizes), _two(strides),
                        np.ones(max(rank - 2, 2), np.uint32), np.bool_(False))
    return _without_height(b, y, rank)


def _filled(b: Builder, x: Var, pad: Sequence[int], value: float) -> Var:
    if not any(pad):
        return x
    amounts = np.array(_pairs(pad), np.uint32).ravel()
    return b.call("pad", x, amounts, x.dtype.type(value))


@word("avg_pool")
def avg_pool(b: Builder, *, x: Any, kernel_sizes: Sequence[int], strides: Sequence[int], pad: Sequence[int],
             exclude_padding_from_average: bool, pad_type: str = "custom") -> Var:
    """A sum of each window, over how many elements it has: known here."""
    x = b.tensor(x)
    rank, operator = len(x.shape), _windows("sumpool", len(x.shape))
    padded = _filled(b, x, pad, 0.0)
    total: Var = b.call(operator, _with_height(b, padded), _two(kernel_sizes), _two(strides),
                        np.ones(max(rank - 2, 2), np.uint32))
    counts = np.ones([1] * rank)
    if exclude_padding_from_average and any(pad):
        inside = np.pad(np.ones(_sizes(x)[2:]), _pairs(pad)[2:])
        windows = np.lib.stride_tricks.sliding_window_view(inside, tuple(kernel_sizes))
        steps = tuple(slice(None, None, stride) for stride in strides)
        counts = windows[steps].sum(tuple(range(-len(kernel_sizes), 0)))[None, None]
    else:
        counts = counts * prod(kernel_sizes)
    return b.op("mul", x=_without_height(b, total, rank), y=1 / counts)


# ---------------------------------------------------------------------- matrices
@word("matmul")
def matmul(b: Builder, *, x: Any, y: Any, transpose_x: bool = False, transpose_y: bool = False) -> Var:
    x, y = b.matched(x, y)
    x, y = (_turned(b, operand) if turn else operand for operand, turn in ((x, transpose_x), (y, transpose_y)))
    rank = max(len(x.shape), len(y.shape))
    x, y = (b.reshape(operand, [*[1] * (rank - len(operand.shape)), *b.shape(operand)]) for operand in (x, y))
    if x.dtype.kind in "iu" and x.dtype.itemsize < np.dtype(np.int32).itemsize:
        # where products of narrow integers overflow, the runtime's process ends: illegal instruction
        x, y = b.to(x, np.int32), b.to(y, np.int32)
    return b.call("broadcasting_batch_matmul", x, y)


def _turned(b: Builder, x: Var) -> Var:
    rank = len(x.shape)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


@word("linear")
def linear(b: Builder, *, x: Any, weight: Any, bias: Any = None) -> Var:
    """x [..,K], weight [N,K] -> [..,N]."""
    x, weight = b.matched(x, weight)
    shape = b.shape(x)
    y = b.op("matmul", x=b.reshape(x, [1, *shape]) if len(shape) == 1 else x, y=weight, transpose_y=True)
    y = b.reshape(y, [*shape[:-1], b.shape(weight)[0]])
    return y if bias is None else b.op("add", x=y, y=bias)


# ---------------------------------------------------------------------- normalization
@word("layer_norm")
def layer_norm(b: Builder, *, x: Any, axes: Sequence[int], epsilon: float, gamma: Any = None, beta: Any = None) -> Var:
    x = b.tensor(x)
    centered = b.op("sub", x=x, y=b.op("reduce_mean", x=x, axes=axes, keep_dims=True))
    variance = b.op("reduce_mean", x=b.op("square", x=centered), axes=axes, keep_dims=True)
    y = b.op("mul", x=centered, y=b.op("rsqrt", x=variance, epsilon=epsilon))
    y = y if gamma is None else b.op("mul", x=y, y=gamma)
    return y if beta is None else b.op("add", x=y, y=beta)


@word("instance_norm")
def instance_norm(b: Builder, *, x: Any, gamma: Any, beta: Any, epsilon: float) -> Var:
    x = b.tensor(x)
    spread = [1, -1] + [1] * (len(x.shape) - 2)
    return b.op("layer_norm", x=x, axes=list(range(2, len(x.shape))), epsilon=epsilon,
                gamma=np.reshape(gamma, spread), beta=np.reshape(beta, spread))


@word("local_response_norm")
def local_response_norm(b: Builder, *, x: Any, size: int, alpha: float, beta: float, k: float) -> Var:
    """x / (k + alpha / size * sum of squares of `size` channels around)^beta; ONNX has the larger half behind."""
    x = b.tensor(x)
    shape = _sizes(x)
    before, after = (size - 1) // 2, size // 2
    pads = [(0, 0)] * len(shape)
    pads[1] = (before, after)
    squares = b.pad(b.op("square", x=x), pads)
    total = None
    for start in range(size):
        first, last = [0] * len(shape), list(shape)
        first[1], last[1] = start, start + shape[1]
        part = b.slice(squares, first, last)
        total = part if total is None else b.op("add", x=total, y=part)
    base = b.op("add", x=b.op("mul", x=total, y=alpha / size), y=k)
    return b.op("real_div", x=x, y=b.op("pow", x=base, y=beta))
