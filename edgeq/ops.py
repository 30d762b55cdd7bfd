"""What ONNX operators do, one row each: where their numbers come from, which axes they keep, which inputs are data.

These follow from the operators' definitions (https://onnx.ai/onnx/operators/) and hold on every engine. What an engine
runs on integers is in `edgeq.targets`, and how it does so in its backend. All names are of the default domain.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final


class Numbers(Enum):
    """What the numbers of the first result are, as seen from the data inputs."""

    COMPUTED = "new ones"
    HOMOGENEOUS = "new ones, where f(k x) = k f(x) for every k > 0"
    EXTREME = "some of them, found by comparing"
    SELECTED = "some of them, found by their place; one may come several times, or a constant beside them"
    PERMUTED = "all of them, in another order"
    RESHAPED = "all of them, in the order in which they lie"
    UNCHANGED = "all of them, and the shape too"


class Axes(Enum):
    """What becomes of the axes of the first input."""

    OTHER = "anything else"
    KEPT = "each stays where it is; its size may change"
    WINDOWS = "as SPATIAL: a window slides over space, with pads and auto_pad"
    SPATIAL = "axis 1 is the channels, those behind it are space"
    POOLED = "as SPATIAL, with one number left for each channel"
    REDUCED = "those that input 1 names are reduced"


class Layer(Enum):
    """What the weights of an operator are."""

    CONVOLUTION = "filters"
    MATRIX = "a matrix, or one for each of a batch"
    RECURRENT = "matrices of all gates, [directions, gates * hidden, inputs or hidden]"
    TABLE = "rows that are picked"


@dataclass(frozen=True, slots=True)
class Facts:
    """data: the inputs that carry data, None for all; others are weights, biases, sizes, axes, indices and limits.

    layer: what its weights are, where it may have some. limits: it cuts numbers off, which the grid that they are
    rounded to may do instead. positive: no result is below 0. bounded: none is beyond -1 or 1. random: it gives other
    numbers in every run.
    """

    numbers: Numbers = Numbers.COMPUTED
    axes: Axes = Axes.OTHER
    data: tuple[int, ...] | None = (0,)
    layer: Layer | None = None
    limits: bool = False
    positive: bool = False
    bounded: bool = False
    random: bool = False


_ALL: Final = None
_UNKNOWN: Final = Facts(data=_ALL)


def _each(ops: str, row: Facts) -> dict[str, Facts]:
    return dict.fromkeys(ops.split(), row)


_N, _A = Numbers, Axes
OPS: Final[Mapping[str, Facts]] = MappingProxyType({
    # layers
    "Conv": Facts(axes=_A.WINDOWS, layer=Layer.CONVOLUTION), "ConvTranspose": Facts(
        axes=_A.WINDOWS, layer=Layer.CONVOLUTION),
    **_each("Gemm MatMul", Facts(data=(0, 1), layer=Layer.MATRIX)),
    **_each("LSTM GRU RNN", Facts(layer=Layer.RECURRENT)),
    "ConvInteger": Facts(axes=_A.WINDOWS),
    # moving numbers
    **_each("Identity Dropout", Facts(_N.UNCHANGED, _A.KEPT)),
    **_each("Reshape Flatten Squeeze Unsqueeze", Facts(_N.RESHAPED)),
    "Transpose": Facts(_N.PERMUTED),
    **_each("DepthToSpace SpaceToDepth", Facts(_N.PERMUTED, _A.SPATIAL)),
    **_each("Slice Split Pad", Facts(_N.SELECTED, _A.KEPT)),
    **_each("Tile Expand GatherND GatherElements", Facts(_N.SELECTED)),
    "Gather": Facts(_N.SELECTED, layer=Layer.TABLE),
    "Concat": Facts(_N.SELECTED, _A.KEPT, _ALL),
    "Where": Facts(_N.SELECTED, _A.KEPT, (1, 2)),
    **_each("ScatterND ScatterElements", Facts(data=(0, 2))),
    # choosing by size
    **_each("Max Min", Facts(_N.EXTREME, _A.KEPT, _ALL)),
    "MaxPool": Facts(_N.EXTREME, _A.WINDOWS),
    "GlobalMaxPool": Facts(_N.EXTREME, _A.POOLED),
    **_each("ReduceMax ReduceMin", Facts(_N.EXTREME, _A.REDUCED)),
    # sums and means
    **_each("Add Sub Sum Mean", Facts(_N.HOMOGENEOUS, _A.KEPT, _ALL)),
    **_each("AveragePool LpPool", Facts(_N.HOMOGENEOUS, _A.WINDOWS)),
    **_each("GlobalAveragePool GlobalLpPool", Facts(_N.HOMOGENEOUS, _A.POOLED)),
    **_each("ReduceMean ReduceSum", Facts(_N.HOMOGENEOUS, _A.REDUCED)),
    **_each("ReduceL1 ReduceL2", Facts(_N.HOMOGENEOUS, _A.REDUCED, positive=True)),
    "ReduceSumSquare": Facts(axes=_A.REDUCED, positive=True),
    **_each("ReduceProd ReduceLogSum ReduceLogSumExp", Facts(axes=_A.REDUCED)),
    # number by number
    "Relu": Facts(_N.HOMOGENEOUS, _A.KEPT, limits=True, positive=True),
    "Clip": Facts(axes=_A.KEPT, limits=True),
    **_each("LeakyRelu Neg", Facts(_N.HOMOGENEOUS, _A.KEPT)),
    "PRelu": Facts(_N.HOMOGENEOUS, _A.KEPT, (0, 1)),
    "Abs": Facts(_N.HOMOGENEOUS, _A.KEPT, positive=True),
    **_each("Sigmoid HardSigmoid Softmax", Facts(axes=_A.KEPT, positive=True, bounded=True)),
    **_each("Tanh Softsign Erf", Facts(axes=_A.KEPT, bounded=True)),
    **_each("Exp Sqrt Softplus", Facts(axes=_A.KEPT, positive=True)),
    **_each("HardSwish Gelu Elu Selu Celu Mish ThresholdedRelu LogSoftmax Log Reciprocal", Facts(axes=_A.KEPT)),
    **_each("Cast QuantizeLinear DequantizeLinear", Facts(axes=_A.KEPT)),
    **_each("Mul Div Pow", Facts(axes=_A.KEPT, data=_ALL)),
    # over space
    **_each("BatchNormalization InstanceNormalization LRN Resize GridSample", Facts(axes=_A.SPATIAL)),
    **_each("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike", Facts(random=True)),
})


def facts(op: str) -> Facts:
    """The row of an operator; of one that has none, nothing is known but that all of its inputs may be data."""
    return OPS.get(op, _UNKNOWN)


def _where(is_one: Callable[[Facts], bool]) -> frozenset[str]:
    return frozenset(op for op, row in OPS.items() if is_one(row))


# The ops that hold weights and nearly all of the arithmetic: what quantization is for.
CONVOLUTIONS: Final = _where(lambda row: row.layer is Layer.CONVOLUTION)
MATRIX_PRODUCTS: Final = _where(lambda row: row.layer is Layer.MATRIX)
MULTIPLY_ACCUMULATE: Final = CONVOLUTIONS | MATRIX_PRODUCTS
# Layers that engines compute in float, weights aside: their state would carry every rounding into all later steps.
RECURRENT: Final = _where(lambda row: row.layer is Layer.RECURRENT)
WEIGHTED: Final = MULTIPLY_ACCUMULATE | RECURRENT
# Ops that compute nothing, each set within the next: one input in another shape; ...; in another order; a part of it by
# place; or by size.
RESHAPING: Final = _where(lambda row: row.numbers is _N.RESHAPED)
KEEPING_ORDER: Final = _where(lambda row: row.numbers in (_N.RESHAPED, _N.UNCHANGED))
KEEPING_ALL: Final = KEEPING_ORDER | _where(lambda row: row.numbers is _N.PERMUTED)
TAKING: Final = KEEPING_ALL | _where(lambda row: row.numbers is _N.SELECTED and row.data == (0,))
MOVING: Final = TAKING | _where(lambda row: row.numbers is _N.EXTREME and row.data == (0,))
LIMITING: Final = _where(lambda row: row.limits)
POSITIVE: Final = _where(lambda row: row.positive)
KEEPING_AXES: Final = _where(lambda row: row.axes is _A.KEPT)
WINDOWED: Final = _where(lambda row: row.axes is _A.WINDOWS)
POOLING: Final = _where(lambda row: row.axes is _A.POOLED)
SPATIAL: Final = WINDOWED | POOLING | _where(lambda row: row.axes is _A.SPATIAL)
REDUCING: Final = _where(lambda row: row.axes is _A.REDUCED)
RANDOM: Final = _where(lambda row: row.random)


def weight_inputs(op: str) -> tuple[int, ...]:
    """The inputs that may hold what an operator multiplies its data with."""
    match facts(op).layer:
        case Layer.CONVOLUTION | Layer.MATRIX:
            return (1,)
        case Layer.RECURRENT:
            return (1, 2)
        case _:
            return ()


def stored_inputs(op: str) -> tuple[int, ...]:
    """`weight_inputs`, and tables that rows are picked from: what is stored in fewer bits where it is constant."""
    return (0,) if facts(op).layer is Layer.TABLE else weight_inputs(op)


def data_inputs(op: str, count: int) -> tuple[int, ...]:
    """Which of `count` inputs carry data."""
    data = facts(op).data
    return tuple(index for index in range(count) if data is None or index in data)


def operands(op: str, count: int) -> tuple[int, ...]:
    """Which of `count` inputs an integer kernel takes as integers: data and weights."""
    return tuple(sorted({*data_inputs(op, count), *(index for index in weight_inputs(op) if index < count)}))
