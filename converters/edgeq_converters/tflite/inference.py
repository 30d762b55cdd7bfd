"""The shape that each kernel gives its result, computed from the operator alone: the validator's second opinion.

Written from the kernels' Prepare functions (https://github.com/google-ai-edge/LiteRT/tree/main/tflite/kernels), not
from the lowering.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np

from edgeq_converters.tflite.program import Operator, Tensor

Shape: TypeAlias = tuple[int, ...]
SAME_PADDING: Final = 0


def result_shape(operator: Operator) -> Shape | None:
    """The shape of the first output, or None where the kernel takes any."""
    rule = RULES.get(operator.kernel)
    return None if rule is None else tuple(int(size) for size in rule(operator))


def _in(operator: Operator, index: int = 0) -> Tensor:
    tensor = operator.inputs[index]
    if tensor is None:
        raise ValueError(f"input {index} is absent")
    return tensor


def _numbers(operator: Operator, index: int) -> list[int]:
    data = _in(operator, index).data
    if data is None:
        raise ValueError(f"input {index} must be constant")
    return [int(number) for number in data.ravel()]


def _windowed(size: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    if padding == SAME_PADDING:
        return -(-size // stride)
    return (size - (kernel - 1) * dilation - 1) // stride + 1


def _conv(operator: Operator) -> Shape:
    x, w, o = _in(operator).shape, _in(operator, 1).shape, operator.options
    depthwise = operator.kernel == "DEPTHWISE_CONV_2D"
    if depthwise and w[3] != x[3] * o["depthMultiplier"]:
        raise ValueError(f"a depth multiplier of {o['depthMultiplier']} does not take {x[3]} channels to {w[3]}")
    if not depthwise and x[3] % w[3]:
        raise ValueError(f"{x[3]} channels do not divide into groups of {w[3]}")
    h = _windowed(x[1], w[1], o["strideH"], o["dilationHFactor"], o["padding"])
    width = _windowed(x[2], w[2], o["strideW"], o["dilationWFactor"], o["padding"])
    return x[0], h, width, w[3] if depthwise else w[0]


def _pool(operator: Operator) -> Shape:
    x, o = _in(operator).shape, operator.options
    return (x[0], _windowed(x[1], o["filterHeight"], o["strideH"], 1, o["padding"]),
            _windowed(x[2], o["filterWidth"], o["strideW"], 1, o["padding"]), x[3])


def _fully_connected(operator: Operator) -> Shape:
    x, w = _in(operator).shape, _in(operator, 1).shape
    if operator.options.get("keepNumDims"):
        if x[-1] != w[1]:
            raise ValueError(f"rows of {x[-1]} meet weights for {w[1]}")
        return *x[:-1], w[0]
    return int(np.prod(x)) // w[1], w[0]


def _batch_matmul(operator: Operator) -> Shape:
    x, y = _in(operator).shape, _in(operator, 1).shape
    if operator.options.get("adjX"):
        x = (*x[:-2], x[-1], x[-2])
    if operator.options.get("adjY"):
        y = (*y[:-2], y[-1], y[-2])
    if x[-1] != y[-2]:
        raise ValueError(f"rows of {x[-1]} meet columns of {y[-2]}")
    return *np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1]


def _broadcast(operator: Operator) -> Shape:
    return tuple(np.broadcast_shapes(*(tensor.shape for tensor in operator.inputs if tensor is not None)))


def _same(operator: Operator) -> Shape:
    return _in(operator).shape


def _reshape(operator: Operator) -> Shape:
    target = _numbers(operator, 1)
    if int(np.prod(target, dtype=np.int64)) != int(np.prod(_in(operator).shape, dtype=np.int64)):
        raise ValueError(f"{_in(operator).shape} has not the size of {target}")
    return tuple(target)


def _transpose(operator: Operator) -> Shape:
    perm = _numbers(operator, 1)
    if sorted(perm) != list(range(_in(operator).rank)):
        raise ValueError(f"{perm} is no permutation")
    return tuple(_in(operator).shape[axis] for axis in perm)


def _concat(operator: Operator) -> Shape:
    axis = operator.options["axis"]
    shapes = [tensor.shape for tensor in operator.inputs if tensor is not None]
    if any(shape[:axis] + shape[axis + 1:] != shapes[0][:axis] + shapes[0][axis + 1:] for shape in shapes):
        raise ValueError(f"{shapes} differ in more than axis {axis}")
    return *shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1:]


def _slice(operator: Operator) -> Shape:
    begin, size = _numbers(operator, 1), _numbers(operator, 2)
    limits = zip(begin, size, _in(operator).shape, strict=True)
    if any(first < 0 or first + count > full for first, count, full in limits):
        raise ValueError(f"begin {begin}, size {size} leave the input {_in(operator).shape}")
    return tuple(size)


def _strided_slice(operator: Operator) -> Shape:
    ends = operator.options.get("endMask", 0)
    sizes = []
    for axis, (first, last, step) in enumerate(zip(*(_numbers(operator, index) for index in (1, 2, 3)), strict=True)):
        stop = None if ends >> axis & 1 else last
        sizes.append(len(range(*slice(first, stop, step).indices(_in(operator).shape[axis]))))
    return tuple(sizes)


def _pad(operator: Operator) -> Shape:
    pads = np.array(_numbers(operator, 1)).reshape(-1, 2)
    if (pads < 0).any():
        raise ValueError("negative pads")
    return tuple(size + before + after for size, (before, after) in zip(_in(operator).shape, pads, strict=True))


def _gather(operator: Operator) -> Shape:
    axis, x, index = operator.options["axis"], _in(operator).shape, _in(operator, 1)
    if index.data is not None and index.data.size and not 0 <= int(index.data.min()) <= int(index.data.max()) < x[axis]:
        raise ValueError(f"indices leave the axis of {x[axis]}")
    return *x[:axis], *index.shape, *x[axis + 1:]


def _reduce(operator: Operator) -> Shape:
    axes = _numbers(operator, 1)
    if operator.options.get("keepDims"):
        return tuple(1 if axis in axes else size for axis, size in enumerate(_in(operator).shape))
    return tuple(size for axis, size in enumerate(_in(operator).shape) if axis not in axes)


def _arg(operator: Operator) -> Shape:
    axis = _numbers(operator, 1)[0]
    return tuple(size for place, size in enumerate(_in(operator).shape) if place != axis)


def _resize(operator: Operator) -> Shape:
    x = _in(operator).shape
    return x[0], *_numbers(operator, 1), x[3]


def _tile(operator: Operator) -> Shape:
    return tuple(size * count for size, count in zip(_in(operator).shape, _numbers(operator, 1), strict=True))


def _depth_to_space(operator: Operator) -> Shape:
    (n, h, w, c), block = _in(operator).shape, operator.options["blockSize"]
    return n, h * block, w * block, c // block**2


def _space_to_depth(operator: Operator) -> Shape:
    (n, h, w, c), block = _in(operator).shape, operator.options["blockSize"]
    return n, h // block, w // block, c * block**2


def _gather_nd(operator: Operator) -> Shape:
    index = _in(operator, 1).shape
    return *index[:-1], *_in(operator).shape[index[-1]:]


def _bitcast(operator: Operator) -> Shape:
    shape, narrower = _in(operator).shape, _in(operator).dtype.itemsize // operator.outputs[0].dtype.itemsize
    if narrower == 1:
        return shape
    return (*shape, narrower) if narrower else shape[:-1]


RULES: Final[Mapping[str, Callable[[Operator], Shape]]] = MappingProxyType({
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _conv, "MAX_POOL_2D": _pool, "AVERAGE_POOL_2D": _pool,
    "FULLY_CONNECTED": _fully_connected, "BATCH_MATMUL": _batch_matmul,
    "TRANSPOSE_CONV": lambda o: tuple(_numbers(o, 0)),
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "POW", "FLOOR_DIV", "FLOOR_MOD", "SQUARED_DIFFERENCE", "MAXIMUM",
                     "MINIMUM",
                     "PRELU", "EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "LOGICAL_AND",
                     "LOGICAL_OR", "BITWISE_XOR", "RIGHT_SHIFT", "ATAN2", "SELECT_V2"), _broadcast),
    **dict.fromkeys(("LOGICAL_NOT", "ABS", "NEG", "SIGN", "CEIL", "FLOOR", "ROUND", "EXP", "LOG", "SQRT", "RSQRT",
                     "SQUARE", "SIN",
                     "COS", "RELU", "RELU6", "LEAKY_RELU", "ELU", "GELU", "HARD_SWISH", "LOGISTIC", "TANH", "SOFTMAX",
                     "LOG_SOFTMAX", "L2_NORMALIZATION", "CAST", "QUANTIZE", "DEQUANTIZE", "CUMSUM", "REVERSE_V2",
                     "REVERSE_SEQUENCE"), _same),
    "BITCAST": _bitcast, "RESHAPE": _reshape, "TRANSPOSE": _transpose, "CONCATENATION": _concat, "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "PAD": _pad, "PADV2": _pad, "GATHER": _gather, "GATHER_ND": _gather_nd, "TILE": _tile,
    "BROADCAST_TO": lambda o: tuple(_numbers(o, 1)),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL"), _reduce),
    "ARG_MAX": _arg, "ARG_MIN": _arg,
    "RESIZE_BILINEAR": _resize, "RESIZE_NEAREST_NEIGHBOR": _resize,
    "DEPTH_TO_SPACE": _depth_to_space, "SPACE_TO_DEPTH": _space_to_depth,
    "SCATTER_ND": lambda o: tuple(_numbers(o, 2)),
    "TOPK_V2": lambda o: (*_in(o).shape[:-1], _numbers(o, 1)[0]),
})
