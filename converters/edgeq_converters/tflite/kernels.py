"""What LiteRT's builtin kernels accept, one row a kernel. Nothing else in this backend repeats these facts.

dtypes: what the data operands may be. "q8" is int8 with a grid, "q16" int16 with one around 0, which is all that those
kernels take; plain integers are named by their type.
grids: what an integer kernel does with the grids of its data operands and its result. No kernel of the SAME class
rescales, and most do not check, so a mismatch is silently wrong data: the lowering inserts a requantizing QUANTIZE,
and the validator checks. Sources: the Prepare and Eval functions in
https://github.com/google-ai-edge/LiteRT/tree/main/tflite/kernels (file named after the kernel), each row run on the
default, the plain and the reference resolver; versions follow
https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/tools/versioning/op_version.cc
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias

import ml_dtypes
import numpy as np

from edgeq.scheme import PerChannel, QuantParams, QuantType
from edgeq_converters.tflite.program import Operator, Tensor

INT4: Final = np.dtype(ml_dtypes.int4)
INT8: Final = np.dtype(np.int8)
INT16: Final = np.dtype(np.int16)
FLOAT32: Final = np.dtype(np.float32)


def grid(scale: float, zero_point: int = 0, bits: int = 8) -> QuantParams:
    """A per-tensor grid of int8 or int16."""
    return QuantParams(QuantType(bits, signed=True, symmetric=False), np.array(scale, np.float32),
                       np.array(zero_point, np.int32))


class Grids(Enum):
    SAME = "all data operands and results share one grid"
    FREE = "the kernel rescales"
    FIXED = "the result has the one grid that the kernel knows"
    NONE = "no kernel on grids"


@dataclass(frozen=True, slots=True)
class Kernel:
    """options: name of the options table. data: which inputs are data (None: all). broadcast: the highest rank it
    broadcasts."""

    dtypes: frozenset[str]
    grids: Grids = Grids.NONE
    options: str | None = None
    data: tuple[int, ...] | None = (0,)
    broadcast: int = 0


MOVED: Final = "f32 q8 q16 i8 u8 i16 i32 i64 bool"  # kernels that copy elements and do not look at them


def _row(dtypes: str, grids: Grids = Grids.NONE, options: str | None = None, data: tuple[int, ...] | None = (0,),
         broadcast: int = 0) -> Kernel:
    return Kernel(frozenset(dtypes.split()), grids, options, data, broadcast)


SAME, FREE, FIXED = Grids.SAME, Grids.FREE, Grids.FIXED
KERNELS: Final[Mapping[str, Kernel]] = MappingProxyType({
    # convolution and matrix products
    "CONV_2D": _row("f32 q8 q16", FREE, "Conv2DOptions"),
    "DEPTHWISE_CONV_2D": _row("f32 q8 q16", FREE, "DepthwiseConv2DOptions"),
    "CONV_3D": _row("f32", options="Conv3DOptions"),
    "CONV_3D_TRANSPOSE": _row("f32", options="Conv3DOptions", data=(2,)),
    "TRANSPOSE_CONV": _row("f32 q8 q16", FREE, "TransposeConvOptions", data=(2,)),
    "FULLY_CONNECTED": _row("f32 q8 q16", FREE, "FullyConnectedOptions"),
    "BATCH_MATMUL": _row("f32 q8 q16", FREE, "BatchMatMulOptions", data=(0, 1)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _row("f32", options="UnidirectionalSequenceLSTMOptions"),
    # pooling and resizing
    "MAX_POOL_2D": _row("f32 q8 q16", SAME, "Pool2DOptions"),
    "AVERAGE_POOL_2D": _row("f32 q8 q16", SAME, "Pool2DOptions"),
    "RESIZE_NEAREST_NEIGHBOR": _row("f32 q8 q16 u8", SAME, "ResizeNearestNeighborOptions"),
    "RESIZE_BILINEAR": _row("f32 q8 q16", SAME, "ResizeBilinearOptions"),
    # element by element
    "ADD": _row("f32 q8 q16 i32 i64", FREE, "AddOptions", None, 6),
    "SUB": _row("f32 q8 q16 i32 i64", FREE, "SubOptions", None, 5),
    "MUL": _row("f32 q8 q16 i32 i64", FREE, "MulOptions", None, 6),
    "DIV": _row("f32 i32", options="DivOptions", data=None, broadcast=5),
    "POW": _row("f32 i32", options="PowOptions", data=None, broadcast=4),
    "FLOOR_DIV": _row("f32 i32", options="FloorDivOptions", data=None, broadcast=4),
    "FLOOR_MOD": _row("f32 i32 i64", options="FloorModOptions", data=None, broadcast=4),
    "SQUARED_DIFFERENCE": _row("f32 q8 i32", FREE, "SquaredDifferenceOptions", None, 4),
    "MAXIMUM": _row("f32 q8 q16 i32 i64", SAME, "MaximumMinimumOptions", None, 5),
    "MINIMUM": _row("f32 q8 q16 i32 i64", SAME, "MaximumMinimumOptions", None, 5),
    "PRELU": _row("f32 q8", FREE, data=(0, 1), broadcast=4),
    "EQUAL": _row("f32 q8 i32 i64 bool", FREE, "EqualOptions", None, 4),
    "NOT_EQUAL": _row("f32 q8 i32 i64 bool", FREE, "NotEqualOptions", None, 4),
    "LESS": _row("f32 q8 i32 i64", FREE, "LessOptions", None, 4),
    "LESS_EQUAL": _row("f32 q8 i32 i64", FREE, "LessEqualOptions", None, 4),
    "GREATER": _row("f32 q8 i32 i64", FREE, "GreaterOptions", None, 4),
    "GREATER_EQUAL": _row("f32 q8 i32 i64", FREE, "GreaterEqualOptions", None, 4),
    "LOGICAL_AND": _row("bool", options="LogicalAndOptions", data=None, broadcast=4),
    "LOGICAL_OR": _row("bool", options="LogicalOrOptions", data=None, broadcast=4),
    "LOGICAL_NOT": _row("bool", options="LogicalNotOptions"),
    "BITWISE_XOR": _row("i8 u8 i16 u16 i32 u32", options="BitwiseXorOptions", data=None, broadcast=4),
    "RIGHT_SHIFT": _row("i8 u8 i16 u16 i32 u32", options="RightShiftOptions", data=None, broadcast=4),
    "ATAN2": _row("f32", options="ATan2Options", data=None),
    "SELECT_V2": _row("f32 q8 q16 i8 u8 i16 i32 u32 i64 bool", SAME, "SelectV2Options", (1, 2), 5),
    "ABS": _row("f32 q8 q16 i32", FREE, "AbsOptions"),
    "NEG": _row("f32 i32 i64", options="NegOptions"),  # the int8 kernel ignores the zero point
    "SIGN": _row("f32 i32", options="SignOptions"),
    "CEIL": _row("f32"), "FLOOR": _row("f32"), "ROUND": _row("f32"),
    "EXP": _row("f32 q8 q16", FREE, "ExpOptions"),
    "LOG": _row("f32"), "SQRT": _row("f32"), "RSQRT": _row("f32 q8 q16", FREE),
    "SQUARE": _row("f32", options="SquareOptions"),
    "SIN": _row("f32"), "COS": _row("f32", options="CosOptions"),
    "RELU": _row("f32 q8 q16", FREE), "RELU6": _row("f32 q8 q16", FREE), "RELU_N1_TO_1": _row("f32"),
    "RELU_0_TO_1": _row("f32"),
    "LEAKY_RELU": _row("f32 q8 q16", FREE, "LeakyReluOptions"),
    "ELU": _row("f32 q8", FREE),
    "GELU": _row("f32 q8", FREE, "GeluOptions"),
    "HARD_SWISH": _row("f32 q8", FREE, "HardSwishOptions"),
    "LOGISTIC": _row("f32 q8 q16", FIXED), "TANH": _row("f32 q8 q16", FIXED),
    "SOFTMAX": _row("f32 q8 q16", FIXED, "SoftmaxOptions"),
    "LOG_SOFTMAX": _row("f32 q8", FIXED, "LogSoftmaxOptions"),
    "L2_NORMALIZATION": _row("f32 q8", FIXED, "L2NormOptions"),
    "LOCAL_RESPONSE_NORMALIZATION": _row("f32", options="LocalResponseNormalizationOptions"),
    "CAST": _row("f32 f16 f64 i8 u8 i16 u16 i32 u32 i64 bool", options="CastOptions"),
    "BITCAST": _row("f32 i8 u8 i16 u16 i32 u32 i64 u64", options="BitcastOptions"),
    "QUANTIZE": _row("f32 q8 q16 u8", FREE, "QuantizeOptions"),
    "DEQUANTIZE": _row("q8 q16 q4 f16", FREE, "DequantizeOptions"),
    # moving data
    "RESHAPE": _row("f32 q8 q16 f16 f64 i8 u8 i16 u16 i32 u32 i64 u64 bool", SAME, "ReshapeOptions"),
    "TRANSPOSE": _row(MOVED, SAME, "TransposeOptions"),
    "SLICE": _row(f"{MOVED} u32", SAME, "SliceOptions"),
    "STRIDED_SLICE": _row(MOVED, SAME, "StridedSliceOptions"),
    "PAD": _row("f32 q8 q16 u8 i16 i32 i64 bool", SAME, "PadOptions"),
    "PADV2": _row("f32 q8 q16 u8 i32 i64", SAME, "PadV2Options", (0, 2)),
    "MIRROR_PAD": _row("f32 q8 q16 u8 i32 i64", SAME, "MirrorPadOptions"),
    "GATHER": _row(MOVED, SAME, "GatherOptions"),
    "GATHER_ND": _row("f32 q8 q16 i8 u8 i16 i32 i64 bool", SAME, "GatherNdOptions"),
    "SCATTER_ND": _row("f32 i8 u8 i32 i64 bool", options="ScatterNdOptions", data=(1,)),
    "DYNAMIC_UPDATE_SLICE": _row("f32 q8 i8 i32 i64 bool", SAME, "DynamicUpdateSliceOptions", (0, 1)),
    "TILE": _row("f32 q8 q16 u8 i32 i64 bool", SAME, "TileOptions"),
    "BROADCAST_TO": _row(MOVED, SAME, "BroadcastToOptions"),
    "REVERSE_V2": _row("f32 u8 i16 i32 i64 bool", options="ReverseV2Options"),
    "REVERSE_SEQUENCE": _row("f32 u8 i16 i32 i64", options="ReverseSequenceOptions"),
    "CONCATENATION": _row(f"{MOVED} u32", SAME, "ConcatenationOptions", None),
    "PACK": _row("f32 q8 q16 i8 u8 i16 i32 i64", SAME, "PackOptions", None),
    "SPLIT": _row("f32 q8 q16 i8 u8 i16 i32", SAME, "SplitOptions", (1,)),
    "SPLIT_V": _row("f32 q8 q16 i8 u8 i16 i32 i64", SAME, "SplitVOptions"),
    "SPACE_TO_DEPTH": _row("f32 q8 u8 i32 i64", SAME, "SpaceToDepthOptions"),
    "DEPTH_TO_SPACE": _row("f32 q8 u8 i32 i64", SAME, "DepthToSpaceOptions"),
    # reducing
    "MEAN": _row("f32 q8 q16 i32 i64", FREE, "ReducerOptions"),
    "SUM": _row("f32 i32 i64", options="ReducerOptions"),  # int8: the reference kernel is wrong
    "REDUCE_PROD": _row("f32 i32 i64", options="ReducerOptions"),
    "REDUCE_MAX": _row("f32 q8 q16 u8 i32 i64", SAME, "ReducerOptions"),
    "REDUCE_MIN": _row("f32 q8 q16 u8 i32 i64", SAME, "ReducerOptions"),
    "REDUCE_ANY": _row("bool", options="ReducerOptions"),
    "REDUCE_ALL": _row("bool", options="ReducerOptions"),
    "ARG_MAX": _row("f32 q8 u8 i32", FREE, "ArgMaxOptions"),
    "ARG_MIN": _row("f32 q8 u8 i32", FREE, "ArgMinOptions"),
    "CUMSUM": _row("f32 i32 i64", options="CumsumOptions"),
    "TOPK_V2": _row("f32 q8 u8 i16 i32 i64", SAME, "TopKV2Options"),
    "ONE_HOT": _row("f32 u8 i32 i64 bool", options="OneHotOptions", data=(2, 3)),
    "SHAPE": _row(f"{MOVED} f16 f64 u8 u16 u32 u64", options="ShapeOptions"),
    "EMBEDDING_LOOKUP": _row("f32 i32", data=(1,)),
})

# https://github.com/google-ai-edge/LiteRT/blob/main/tflite/kernels/activations.cc and l2norm.cc: scale and zero point
# of the result.
FIXED_GRIDS: Final[Mapping[tuple[str, int], QuantParams]] = MappingProxyType({
    ("LOGISTIC", 8): grid(1 / 256, -128), ("SOFTMAX", 8): grid(1 / 256, -128),
    ("LOG_SOFTMAX", 8): grid(16 / 256, 127), ("TANH", 8): grid(1 / 128), ("L2_NORMALIZATION", 8): grid(1 / 128),
    **{(kernel, 16): grid(1 / 32768, bits=16) for kernel in ("LOGISTIC", "SOFTMAX", "TANH")},
})


@dataclass(frozen=True, slots=True)
class Weights:
    """One legal combination of activation and weight types. per_channel: allowed, needed (True) or only per tensor
    (False)."""

    kernel: str
    activation: str
    weight: str
    per_channel: bool
    version: int


# Every combination that gives right results on all three resolvers of LiteRT 2.3; all others are refused or written as
# DEQUANTIZE(weights) and a float kernel. Left out because they run and are wrong, or fail at the first inference:
# float x 4-bit convolution (NaN before 2.1, twenty times slower since), 4-bit depthwise on float, blockwise (wrong on
# the reference resolver, https://github.com/google-ai-edge/ai-edge-quantizer/issues/678), int16 x 4-bit convolutions,
# 4-bit BATCH_MATMUL. int8 x 4-bit depthwise runs, but not on the reference resolver, and ten times slower than the few
# bytes it saves are worth.
WEIGHTS: Final[tuple[Weights, ...]] = (
    Weights("CONV_2D", "q8", "q8", True, 3), Weights("CONV_2D", "q8", "q8", False, 3),
    Weights("CONV_2D", "q8", "q4", True, 7), Weights("CONV_2D", "f32", "q8", True, 5),
    Weights("DEPTHWISE_CONV_2D", "q8", "q8", True, 3),
    Weights("DEPTHWISE_CONV_2D", "f32", "q8", True, 6),
    Weights("TRANSPOSE_CONV", "q8", "q8", True, 3), Weights("TRANSPOSE_CONV", "q8", "q8", False, 3),
    Weights("FULLY_CONNECTED", "q8", "q8", True, 4), Weights("FULLY_CONNECTED", "q8", "q8", False, 4),
    Weights("FULLY_CONNECTED", "q8", "q4", True, 10), Weights("FULLY_CONNECTED", "q8", "q4", False, 10),
    Weights("FULLY_CONNECTED", "f32", "q8", True, 12), Weights("FULLY_CONNECTED", "f32", "q8", False, 9),
    Weights("FULLY_CONNECTED", "f32", "q4", True, 12),
    Weights("CONV_2D", "q16", "q8", True, 4), Weights("DEPTHWISE_CONV_2D", "q16", "q8", True, 5),
    Weights("TRANSPOSE_CONV", "q16", "q8", True, 3),
    Weights("FULLY_CONNECTED", "q16", "q8", True, 7), Weights("FULLY_CONNECTED", "q16", "q8", False, 7),
)


SHORT: Final[Mapping[str, str]] = MappingProxyType({
    "float32": "f32", "float16": "f16", "float64": "f64", "int8": "i8", "uint8": "u8", "int16": "i16", "uint16": "u16",
    "int32": "i32", "uint32": "u32", "int64": "i64", "uint64": "u64", "bool": "bool", "int4": "q4",
})


def dtype_name(tensor: Tensor) -> str:
    """ "q8", "q16" and "q4" for tensors with a grid, else the plain type's short name."""
    if tensor.grid is not None and tensor.dtype in (INT8, INT16):
        return f"q{8 * tensor.dtype.itemsize}"
    return SHORT.get(tensor.dtype.name, tensor.dtype.name)


def per_channel(tensor: Tensor) -> bool:
    return tensor.grid is not None and isinstance(tensor.grid.type.granularity, PerChannel)


def _several_scales(tensor: Tensor) -> bool:
    """One scale along an axis is one scale: so it is read back from the file."""
    return per_channel(tensor) and tensor.grid is not None and tensor.grid.scale.size > 1


def weights_row(kernel: str, activation: str, weight: Tensor) -> Weights | None:
    """The row for this combination, or None when it is not legal."""
    kind, by_channel = dtype_name(weight), per_channel(weight)
    one = weight.grid is not None and weight.grid.scale.size == 1  # then nobody can tell the two apart
    return next((row for row in WEIGHTS if (row.kernel, row.activation, row.weight) == (kernel, activation, kind)
                 and (one or row.per_channel == by_channel)), None)


Test: TypeAlias = Callable[[Operator], bool]


def _first(*names: str) -> Test:
    return lambda operator: dtype_name(_data(operator)) in names


def _data(operator: Operator) -> Tensor:
    row = KERNELS[operator.kernel]
    tensor = operator.inputs[row.data[0] if row.data else 0]
    assert tensor is not None
    return tensor


def _wide(operator: Operator) -> bool:
    return any(tensor is not None and tensor.rank > 4 for tensor in operator.inputs)


def _option(name: str) -> Test:
    return lambda operator: bool(operator.options.get(name))


def _grouped(operator: Operator) -> bool:
    x, w = operator.inputs[0], operator.inputs[1]
    assert x is not None
    assert w is not None
    return x.shape[-1] != w.shape[-1]


def _weighted(operator: Operator) -> int:
    """The version that a weight combination asks for, or 0 for float weights."""
    weight = operator.inputs[1]
    assert weight is not None
    row = weights_row(operator.kernel, dtype_name(_data(operator)), weight)
    return row.version if row else 0


_int8, _int16, _wide_grid = _first("q8", "i8"), _first("q16", "i16"), _first("q16")
# Per kernel: tests in order and the version of the first that holds; otherwise 1.
VERSIONS: Final[Mapping[str, tuple[tuple[Test, int], ...]]] = MappingProxyType({
    "CONV_2D": ((_grouped, 6), (lambda o: max(o.options.get("dilationHFactor", 1),
                                              o.options.get("dilationWFactor", 1)) > 1, 2)),
    "DEPTHWISE_CONV_2D":
        ((lambda o: max(o.options.get("dilationHFactor", 1), o.options.get("dilationWFactor", 1)) > 1, 2),),
    "TRANSPOSE_CONV": ((lambda o: len(o.inputs) > 3, 3),),
    "FULLY_CONNECTED": ((lambda o: len(o.inputs) < 3, 6), (_option("keepNumDims"), 5)),
    "ADD": ((_first("i64"), 4), (_int16, 3), (_int8, 2)),
    "SUB": ((_int16, 5), (_first("i64"), 4), (_wide, 3), (_int8, 2)),
    "MUL": ((_first("i64"), 6), (_wide, 5), (_int16, 4), (_int8, 2)),
    "DIV": ((_wide, 2),),
    "MAXIMUM": ((_int16, 4), (_wide, 3), (_int8, 2)), "MINIMUM": ((_int16, 4), (_wide, 3), (_int8, 2)),
    "TRANSPOSE": ((lambda o: _data(o).rank > 5, 6), (_wide_grid, 5), (_wide, 4), (_first("bool"), 3), (_int8, 2)),
    "SHAPE": (),
    "SLICE": ((_wide, 5), (_int16, 4), (_int8, 2)),
    "STRIDED_SLICE": ((_wide, 4), (_first("bool"), 3), (_int8, 2)),
    "PAD": ((_wide, 3), (_wide_grid, 3), (_int8, 2)), "PADV2": ((_wide, 3), (_wide_grid, 3), (_int8, 2)),
    "GATHER": ((_option("batchDims"), 5), (_int16, 4), (_first("bool"), 3), (_int8, 2)),
    "GATHER_ND": ((_first("bool"), 5), (_int16, 3), (_int8, 2)),
    "TILE": (), "PRELU": (), "DEPTH_TO_SPACE": (),
    "BROADCAST_TO": ((_int16, 4), (_int8, 3), (lambda o: True, 2)),
    "REVERSE_V2": ((_wide, 3), (_first("bool"), 2)),
    "SPLIT": ((_int16, 4), (_first("i32"), 3), (_int8, 2)),
    "SPLIT_V": ((_int8, 2),),
    "CONCATENATION": ((_int16, 3), (_int8, 2)),
    "PACK": ((_int16, 3), (_int8, 2)),
    "QUANTIZE": ((lambda o: o.outputs[0].dtype == INT16, 2), (_int8, 2)),
    "DEQUANTIZE": ((_first("q4"), 6), (lambda o: _several_scales(_data(o)), 5), (_first("f16", "q16"), 3),
                   (_int8, 2)),
    "RESIZE_BILINEAR": ((_wide_grid, 4),
                        (lambda o: bool(o.options.get("alignCorners") or o.options.get("halfPixelCenters")), 3),
                        (_int8, 2)),
    "RESIZE_NEAREST_NEIGHBOR":
        ((_wide_grid, 4), (lambda o: bool(o.options.get("alignCorners") or o.options.get("halfPixelCenters")), 3),
         (_int8, 2)),
    "EMBEDDING_LOOKUP": ((_first("q4"), 4), (lambda o: per_channel(_data(o)), 4), (_first("q8"), 3)),
    "BITCAST": (), "BITWISE_XOR": (), "RIGHT_SHIFT": (), "NEG": (), "HARD_SWISH": (), "ELU": (), "RESHAPE": (),
    "CAST": ((_first("f64", "u16", "u32", "f16"), 5),),
    "BATCH_MATMUL": ((_wide_grid, 3), (_int8, 2)),
    **dict.fromkeys(("LEAKY_RELU", "EXP"), ((_first("q8", "i8", "q16"), 2),)), "SELECT_V2": ((_int8, 2),),
})


def version(operator: Operator) -> int:
    """The lowest version of the kernel that computes this call; the only guard against an older runtime's garbage."""
    weighted = _weighted(operator) if operator.kernel in {row.kernel for row in WEIGHTS} else 0
    default: tuple[tuple[Test, int], ...] = ((_wide_grid, 3), (_int8, 2))
    rules = VERSIONS.get(operator.kernel, default)
    return max(weighted, 1, *[number for test, number in rules if test(operator)][:1])
