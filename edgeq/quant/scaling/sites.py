"""Where channels can be scaled: between an op that can divide its outputs and the products that alone read them."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, constant, dims, is_constant, label, rank
from edgeq.graph import shape as shape_of
from edgeq.ops import KEEPING_AXES, OPS, POOLING, WINDOWED, Numbers

SCALED: Final = "_scaled"
# Ops of one input whose results scale with it, number by number or for each channel.
_SCALING: Final = frozenset(op for op, row in OPS.items() if row.data == (0,) and row.numbers in (
    Numbers.HOMOGENEOUS, Numbers.EXTREME, Numbers.UNCHANGED))

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A product that reads scaled channels. repeat: how many of its inputs in a row belong to one channel (Flatten)."""

    node: ir.Node
    repeat: int = 1

    def scale(self, weight: Array, scale: Array) -> Array:
        """The weight times `scale` [C], each at what it multiplies."""
        scale = np.repeat(scale, self.repeat)
        if self.node.op_type != "Conv":
            axis = self.axis
            return weight * scale.reshape([-1 if k == axis else 1 for k in range(weight.ndim)])
        groups = int(attribute(self.node, "group", 1))
        split: Array = weight.reshape(groups, -1, *weight.shape[1:])
        along = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return np.asarray(split * along, np.float32).reshape(weight.shape)

    @property
    def axis(self) -> int:
        """Of the weight, along its inputs."""
        if self.node.op_type == "Gemm":
            return 1 if attribute(self.node, "transB", 0) else 0
        return 0

    def largest(self, weight: Array, channels: int) -> Array:
        """The largest magnitude that multiplies each channel [C]."""
        if self.node.op_type == "Conv":
            groups = int(attribute(self.node, "group", 1))
            split = np.abs(weight).reshape(groups, -1, *weight.shape[1:])
            return np.asarray(split.max(axis=(1, *range(3, split.ndim))).reshape(-1), np.float32)
        moved = np.moveaxis(np.abs(weight), self.axis, 0).reshape(channels, -1)
        return np.asarray(moved.max(axis=1), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ScalingSite:
    """node: divides its outputs. operands: its constants that are divided, and the axis of channels of each. readers:
    who multiplies. values: what lies between, scaled. axis: of the channels in the node's output.
    """

    node: ir.Node
    operands: tuple[tuple[ir.Value, int], ...]
    readers: tuple[Reader, ...]
    values: tuple[ir.Value, ...]
    axis: int

    @property
    def channels(self) -> int:
        """Number of channels."""
        value, axis = self.operands[0]
        return shape_of(value)[axis]

    @property
    def name(self) -> str:
        """For reports."""
        return label(self.node)

    @property
    def gain(self) -> Array | None:
        """Magnitudes of the factors of a normalization [C], or None for a product."""
        if self.node.op_type not in ("LayerNormalization", "Mul"):
            return None
        return np.abs(data_of(self.operands[0][0])).reshape(-1)

    @property
    def before(self) -> Array | None:
        """The largest weight that writes each channel [C], or None behind a normalization."""
        if self.gain is not None:
            return None
        value, axis = self.operands[0]
        moved = np.moveaxis(np.abs(data_of(value)), axis, 0).reshape(self.channels, -1)
        return np.asarray(moved.max(axis=1), np.float32)

    @property
    def after(self) -> Array:
        """The largest weight that reads each channel [C]."""
        found = []
        for reader in self.readers:
            largest = reader.largest(data_of(reader.node.inputs[1]), self.channels * reader.repeat)
            found.append(largest.reshape(self.channels, reader.repeat).max(axis=1))
        return np.asarray(np.max(found, axis=0), np.float32)

    def apply(self, scale: Array) -> None:
        """Divide before, multiply behind. The values between get new names: they hold other numbers now."""
        for value, axis in self.operands:
            data = data_of(value)
            store(value, data / scale.reshape([-1 if k == axis else 1 for k in range(data.ndim)]))
        for reader in self.readers:
            weight = reader.node.inputs[1]
            assert weight is not None
            store(weight, reader.scale(data_of(weight), scale))
        for between in self.values:
            between.name = f"{(between.name or '').removesuffix(SCALED)}{SCALED}"


def find_sites(graph: ir.Graph) -> Iterator[ScalingSite]:
    """All sites, in graph order. Constants with a second reader are left alone."""
    for node in graph:
        found = _divisible(node)
        if found is not None and all(_alone(value) for value, _ in found.operands):
            readers: list[Reader] = []
            values = [] if found.output is node.outputs[0] else [node.outputs[0]]
            if _follow(found.output, found.axis, 1, readers, values) and readers:
                yield ScalingSite(node, found.operands, tuple(readers), tuple(values), found.axis)


@dataclass(frozen=True, slots=True)
class _Divisible:
    """output: of a node, and of the Add behind it if that is its bias. operands, axis: as in ScalingSite."""

    output: ir.Value
    operands: tuple[tuple[ir.Value, int], ...]
    axis: int


def _divisible(node: ir.Node) -> _Divisible | None:
    """How the channels of a node's output can be divided by scales; None where they cannot."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.domain not in ("", "ai.onnx") or weight is None:
        return None
    match node.op_type:
        case "MatMul":
            return _product(node, weight)
        case "Mul":
            return _gain(node)
        case "Conv":
            return _with_bias(node, weight, 0, 1)
        case "ConvTranspose" if int(attribute(node, "group", 1)) == 1:
            return _with_bias(node, weight, 1, 1)
        case "Gemm" if attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0:
            return _with_bias(node, weight, 0 if attribute(node, "transB", 0) else 1, 1)
        case "LayerNormalization" if is_constant(weight) and len(shape_of(weight)) == 1:
            return _with_bias(node, weight, 0, rank(node.outputs[0]) - 1)
    return None


def _with_bias(node: ir.Node, weight: ir.Value, weight_axis: int, axis: int) -> _Divisible | None:
    """Where weight and bias, if there is one, are constants of the node itself."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if not is_constant(weight) or (bias is not None and not (is_constant(bias) and len(shape_of(bias)) == 1)):
        return None
    operands = ((weight, weight_axis),) if bias is None else ((weight, weight_axis), (bias, 0))
    return _Divisible(node.outputs[0], operands, axis)


def _product(node: ir.Node, weight: ir.Value) -> _Divisible | None:
    """MatMul with a constant [in, out], and the Add of its bias [out] where that alone reads the product."""
    output = node.outputs[0]
    if not is_constant(weight) or weight.shape is None or len(weight.shape) != 2:
        return None
    users = [use.node for use in output.uses()]
    add = users[0] if len(users) == 1 and not output.is_graph_output() else None
    bias = next((value for value in add.inputs if value is not output), None) if add is not None else None
    if add is not None and bias is not None and add.op_type == "Add" and is_constant(bias) and (
            shape_of(bias) == shape_of(weight)[1:]):
        return _Divisible(add.outputs[0], ((weight, 1), (bias, 0)), rank(output) - 1)
    return _Divisible(output, ((weight, 1),), rank(output) - 1)


def _gain(node: ir.Node) -> _Divisible | None:
    """The factors [C] of a normalization, along the whole last axis."""
    output = node.outputs[0]
    gain = next((v for v in node.inputs if v is not None and is_constant(v) and len(shape_of(v)) == 1), None)
    if gain is None or output.shape is None or list(output.shape)[-1:] != list(shape_of(gain)):
        return None
    return _Divisible(output, ((gain, 0),), rank(output) - 1)


def _alone(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and value.dtype == ir.DataType.FLOAT


def _follow(value: ir.Value, axis: int, repeat: int, readers: list[Reader], values: list[ir.Value]) -> bool:
    """Collect who reads `value`, through ops that let scales pass; False where somebody else does."""
    if value.is_graph_output() or not value.uses() or value.shape is None:
        return False
    values.append(value)
    for use in value.uses():
        node = use.node
        if use.idx == 0 and _reads(node, value, axis):
            readers.append(Reader(node, repeat))
            continue
        step = _PASSING[node.op_type](node, value, axis) if node.op_type in _PASSING else None
        if step is None or not _follow(node.outputs[0], step[0], repeat * step[1], readers, values):
            return False
    return True


def _reads(node: ir.Node, value: ir.Value, axis: int) -> bool:
    """Whether a product multiplies the channels of `value` by constants that nobody else reads."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or not is_constant(weight) or not _alone(weight):
        return False
    match node.op_type:
        case "Conv" | "ConvTranspose":
            return axis == 1
        case "Gemm":
            return axis == 1 and not attribute(node, "transA", 0)
        case "MatMul":
            return axis == rank(value) - 1 and len(shape_of(weight)) == 2
    return False


# How scales pass an op -> (axis of the channels behind it, inputs that each channel becomes); None: they do not pass.
Step = Callable[[ir.Node, ir.Value, int], tuple[int, int] | None]


def _same(node: ir.Node, value: ir.Value, axis: int) -> tuple[int, int] | None:
    return axis, 1


def _spatial(node: ir.Node, value: ir.Value, axis: int) -> tuple[int, int] | None:
    return (1, 1) if axis == 1 and len(node.outputs) == 1 else None


def _pad(node: ir.Node, value: ir.Value, axis: int) -> tuple[int, int] | None:
    """Zeros stay zeros. Not along the channels."""
    pads, axes = constant(node.inputs[1]), rank(value)
    number = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    if attribute(node, "mode", "constant") != "constant" or pads is None or len(pads) != 2 * axes or number is None:
        return None
    return (axis, 1) if not pads[axis] and not pads[axis + axes] and not number.any() else None


def _flatten(node: ir.Node, value: ir.Value, axis: int) -> tuple[int, int] | None:
    inner = _inner(value)
    return (1, inner) if inner is not None and axis == 1 and attribute(node, "axis", 1) == 1 else None


def _reshape(node: ir.Node, value: ir.Value, axis: int) -> tuple[int, int] | None:
    """Only what a Flatten would do."""
    before, after, inner = dims(value), dims(node.outputs[0]), _inner(value)
    if axis != 1 or before is None or inner is None or not isinstance(before[1], int):
        return None
    return (1, inner) if after == (before[0], before[1] * inner) else None


def _transpose(node: ir.Node, value: ir.Value, axis: int) -> tuple[int, int] | None:
    order = attribute(node, "perm")
    return None if order is None else (list(order).index(axis), 1)


def _times(node: ir.Node, value: ir.Value, axis: int) -> tuple[int, int] | None:
    """A gate: the other factor is computed, and as large."""
    other = next((v for v in node.inputs if v is not value), None)
    if other is None or is_constant(other) or dims(value) is None:
        return None
    return (axis, 1) if dims(other) == dims(value) == dims(node.outputs[0]) else None


_PASSING: Final[Mapping[str, Step]] = MappingProxyType({
    **dict.fromkeys(_SCALING & KEEPING_AXES, _same), **dict.fromkeys(_SCALING & (POOLING | WINDOWED), _spatial),
    "Pad": _pad, "Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose, "Mul": _times,
})


def _inner(value: ir.Value) -> int | None:
    """How many numbers one channel of [N,C,...] holds; None where each run chooses it."""
    sizes = [] if value.shape is None else list(value.shape)[2:]
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if value.shape is not None and len(known) == len(sizes) else None


def data_of(value: Any) -> Array:
    """The data of a constant, as float32."""
    data = constant(value)
    assert data is not None
    return data.astype(np.float32)


def store(value: ir.Value, data: NDArray[Any]) -> None:
    """Give a constant other data, as float32."""
    value.const_value = ir.tensor(np.ascontiguousarray(data, np.float32), name=value.name)
