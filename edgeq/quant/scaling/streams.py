"""Where channels can be rotated: values that linear writers make and linear readers read, whatever lies between being
blind to an orthogonal R [C, C].

    x -> A(w1) -> norm -> B(w2)        =>        x -> A(w1 R) -> norm -> B(R^T w2)

The residual stream of a pre-norm transformer is one such stream (SliceGPT, Ashkboos et al. 2024, arXiv:2401.15024),
and so are the values between the V and O projections of an attention, head by head.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.graph import attribute, constant, consumers, is_constant, label, rank
from edgeq.graph import shape as shape_of
from edgeq.ops import MATRIX_PRODUCTS, RESHAPING
from edgeq.quant.scaling.sites import Reader, data_of, store

ROTATED: Final = "_rotated"

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightRotation:
    """A constant is rotated along `axis`: it becomes data R there, whether it writes the channels (w R) or reads them
    (R^T w). times, over: the gain of a normalization [C] that it takes up first, or takes off.
    """

    axis: int
    times: ir.Value | None = None
    over: ir.Value | None = None

    def __call__(self, data: Matrix, matrix: Matrix) -> Matrix:
        """data, rotated in blocks of the size of `matrix`."""
        last = np.moveaxis(data, self.axis, -1)
        last = last if self.times is None else last * data_of(self.times)
        last = last if self.over is None else _over(last, data_of(self.over))
        rotated = last.reshape(*last.shape[:-1], -1, len(matrix)) @ matrix
        return np.moveaxis(rotated.reshape(last.shape), -1, self.axis)


@dataclass(frozen=True, slots=True, eq=False)
class RotatableStream:
    """Values whose last axis is rotated in blocks of `size`, all or none. rotations: the constants that change. gains:
    those that become ones. products: the MatMul and Gemm that write or read, in graph order. keeps_mean: R must leave
    the mean as it is.
    """

    values: tuple[ir.Value, ...]
    rotations: Mapping[ir.Value, WeightRotation]
    gains: tuple[ir.Value, ...]
    products: tuple[ir.Node, ...]
    size: int
    keeps_mean: bool

    @property
    def name(self) -> str:
        """For reports: who writes first."""
        return label(self.products[0])

    def apply(self, matrix: Matrix) -> Callable[[], None]:
        """Rotate by R [size, size]: every writer by R, every reader by its transpose -> what takes that back."""
        kept = {value: value.const_value for value in (*self.rotations, *self.gains)}
        rotated = {value: rotate(data_of(value).astype(np.float64), matrix) for value, rotate in self.rotations.items()}
        rotated |= {gain: np.ones_like(data_of(gain), np.float64) for gain in self.gains}
        for value, data in rotated.items():
            store(value, data)

        def undo() -> None:
            for value, tensor in kept.items():
                value.const_value = tensor
        return undo

    def rename(self) -> None:
        """The values get new names: they hold other numbers now."""
        for value in self.values:
            value.name = f"{(value.name or '').removesuffix(ROTATED)}{ROTATED}"


def find_streams(graph: ir.Graph) -> Iterator[RotatableStream]:
    """All streams, in graph order. One that anything else reads or writes is none."""
    seen: set[ir.Value] = set()
    for node in graph:
        if _multiplies_constant(node) and node.outputs[0] not in seen:
            flood = _Flood(graph)
            if flood.reach(node.outputs[0]) and (stream := flood.stream()):
                seen.update(stream.values)
                yield stream


@dataclass(eq=False)
class _Flood:
    """Everything that must rotate because one value does."""

    graph: ir.Graph
    rotated: dict[ir.Value, None] = field(default_factory=dict)
    scaled: dict[ir.Value, None] = field(default_factory=dict)
    rotations: dict[ir.Value, list[WeightRotation]] = field(default_factory=dict)
    gains: dict[ir.Value, int] = field(default_factory=dict)
    products: dict[ir.Node, None] = field(default_factory=dict)
    keeps_mean: bool = False

    def reach(self, first: ir.Value) -> bool:
        """Whether all that is connected with `first` can rotate."""
        waiting = [first]
        while waiting:
            value = waiting.pop()
            if value in self.rotated:
                continue
            self.rotated[value] = None
            producer = value.producer()
            if value.is_graph_output() or (producer is None and not is_constant(value)):
                return False
            for node in (*([producer] if producer else []), *consumers(value)):
                joined = _RULES[node.op_type](self, node, value) if self._knows(node) else None
                if joined is None:
                    return False
                waiting += joined
        return True

    def _knows(self, node: ir.Node) -> bool:
        return node.graph is self.graph and node.domain in ("", "ai.onnx") and node.op_type in _RULES

    def stream(self) -> RotatableStream | None:
        """What was reached, or None where it cannot be rotated after all."""
        size = math.gcd(*(_width(value) for value in self.rotated))
        for value in self.rotated:
            if is_constant(value):
                self.rotations.setdefault(value, []).extend([WeightRotation(rank(value) - 1)] * len(value.uses()))
        uses = {value: len(rotations) for value, rotations in self.rotations.items()} | self.gains
        whole = all(len(value.uses()) == count and value.dtype == ir.DataType.FLOAT for value, count in uses.items())
        alike = all(len(set(rotations)) == 1 for rotations in self.rotations.values())
        if size < 2 or not whole or not alike or not self.products:
            return None
        values = tuple(value for value in (*self.rotated, *self.scaled) if not is_constant(value))
        products = tuple(node for node in self.graph if node in self.products)
        rotations = {value: found[0] for value, found in self.rotations.items()}
        return RotatableStream(values, rotations, tuple(self.gains), products, size, self.keeps_mean)

    def rotate(self, value: ir.Value, rotation: WeightRotation) -> None:
        """One use of a constant."""
        self.rotations.setdefault(value, []).append(rotation)

    def read(self, node: ir.Node, gain: ir.Value | None = None) -> None:
        """By a product."""
        weight = node.inputs[1]
        assert weight is not None
        self.products[node] = None
        self.rotate(weight, WeightRotation(Reader(node).axis, times=gain))


# What an op asks of the values that it connects: those that rotate with `value`, or None where it is not blind to R.
Rule = Callable[[_Flood, ir.Node, ir.Value], Sequence[ir.Value] | None]


def _sum(flood: _Flood, node: ir.Node, value: ir.Value) -> Sequence[ir.Value] | None:
    """All that are added, or laid one behind the other, rotate alike."""
    values = [*(v for v in node.inputs if v is not None), *node.outputs]
    return values if all(_width(v) == _width(value) for v in values) else None


def _move(flood: _Flood, node: ir.Node, value: ir.Value) -> Sequence[ir.Value] | None:
    """The first input in another order, or a part of it, its last axis whole. A Reshape may cut that into blocks."""
    data = node.inputs[0]
    if data is None or value not in (data, node.outputs[0]):
        return None
    last, whole = rank(data) - 1, True
    match node.op_type:
        case "Transpose":
            whole = attribute(node, "perm", (-1,))[-1] == last
        case "Expand":
            whole = _width(data) == _width(node.outputs[0])
        case "Gather":
            whole = attribute(node, "axis", 0) not in (-1, last)
    return [data, node.outputs[0]] if whole else None


def _product(flood: _Flood, node: ir.Node, value: ir.Value) -> Sequence[ir.Value] | None:
    """A constant weight ends the stream. A computed first operand (attention's) mixes positions, not channels."""
    left, right, *bias = node.inputs
    assert right is not None
    constant_weight = _multiplies_constant(node)
    if value is node.outputs[0] and constant_weight:
        flood.products[node] = None
        flood.rotate(right, WeightRotation(1 - Reader(node).axis))
        if bias and bias[0] is not None:
            flood.rotate(bias[0], WeightRotation(0))
        return []
    if value is left and constant_weight and left is not right:
        flood.read(node)
        return []
    mixes = node.op_type == "MatMul" and value in (right, node.outputs[0]) and left is not right
    return [right, node.outputs[0]] if mixes and not is_constant(right) and rank(right) > 1 else None


def _multiplies_constant(node: ir.Node) -> bool:
    """MatMul or Gemm with a weight [in, out] or [out, in], and a bias [out] if any."""
    if node.op_type not in MATRIX_PRODUCTS or not is_constant(node.inputs[1]):
        return False
    assert node.inputs[1] is not None
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    added = bias is None or (is_constant(bias) and shape_of(bias) == (_width(node.outputs[0]),))
    return plain and added and rank(node.inputs[1]) == 2


def _factor(flood: _Flood, node: ir.Node, value: ir.Value) -> Sequence[ir.Value] | None:
    """One factor for all channels passes, a square may be summed, and a gain goes into the products behind it."""
    left, right = node.inputs
    output = node.outputs[0]
    assert left is not None
    assert right is not None
    wide = left if _width(left) == _width(output) else right
    other = right if wide is left else left
    if _width(other) == 1 and value in (wide, output) and not (node.op_type == "Div" and wide is right):
        return [wide, output]
    if value is output or node.op_type == "Div":
        return None
    if left is right:
        return _square(flood, output)
    gain = right if value is left else left
    return _gain(flood, node, gain) if is_constant(gain) and math.prod(shape_of(gain)) == _width(value) else None


def _power(flood: _Flood, node: ir.Node, value: ir.Value) -> Sequence[ir.Value] | None:
    exponent = constant(node.inputs[1])
    square = value is node.inputs[0] and exponent is not None and exponent.size == 1 and exponent.item() == 2
    return _square(flood, node.outputs[0]) if square else None


def _square(flood: _Flood, output: ir.Value) -> Sequence[ir.Value] | None:
    """Of which only the sum over all channels stays as it is."""
    flood.scaled[output] = None
    return [] if all(_sums_last(use.node) for use in output.uses()) and not output.is_graph_output() else None


def _norm(flood: _Flood, node: ir.Node, value: ir.Value) -> Sequence[ir.Value] | None:
    """Vectors keep their length."""
    return [] if value is node.inputs[0] and _sums_last(node) else None


def _layer_norm(flood: _Flood, node: ir.Node, value: ir.Value) -> Sequence[ir.Value] | None:
    """Where the mean of x R is that of x, what is centred rotates with x."""
    data, gain, *bias = node.inputs
    last = attribute(node, "axis", -1) in (-1, rank(node.outputs[0]) - 1)
    if value is not data or not last or not is_constant(gain) or len(node.outputs) > 1:
        return None
    assert gain is not None
    if bias and bias[0] is not None:
        steepest = policy.STEEPEST_GAIN.value
        if not is_constant(bias[0]) or np.abs(_over(data_of(bias[0]), data_of(gain))).max() > steepest:
            return None
        flood.rotate(bias[0], WeightRotation(0, over=gain))
    flood.keeps_mean = True
    return _gain(flood, node, gain)


def _gain(flood: _Flood, node: ir.Node, gain: ir.Value) -> Sequence[ir.Value] | None:
    """Only products may read what a gain scales: they take it up."""
    output = node.outputs[0]
    if output.is_graph_output() or rank(gain) != 1:
        return None
    flood.scaled[output] = None
    flood.gains[gain] = flood.gains.get(gain, 0) + 1
    for reader in consumers(output):
        if not _multiplies_constant(reader) or reader.inputs[0] is not output or reader.graph is not node.graph:
            return None
        flood.read(reader, gain)
    return []


def _sums_last(node: ir.Node) -> bool:
    """Whether a reduction sums over the last axis alone."""
    if node.op_type not in _REDUCTIONS or len(node.inputs) < 2 or node.inputs[0] is None:
        return False
    axes = constant(node.inputs[1])
    return axes is not None and axes.tolist() in ([-1], [rank(node.inputs[0]) - 1])


def _over(data: Matrix | NDArray[np.float32], gain: NDArray[np.float32]) -> Matrix:
    """data [..., C] / gain [C], where nothing divided by nothing is nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(data == 0, 0, data / gain.astype(np.float64))


def _width(value: ir.Value) -> int:
    """Of the last axis; -1 where each run chooses it."""
    last = -1 if value.shape is None else (1, *value.shape)[-1]
    return last if isinstance(last, int) else -1


_REDUCTIONS: Final = ("ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare")
_RULES: Final[Mapping[str, Rule]] = MappingProxyType({
    "Add": _sum, "Sub": _sum, "Concat": _sum,
    **dict.fromkeys((*RESHAPING, "Identity", "Transpose", "Expand", "Gather"), _move),
    "MatMul": _product, "Gemm": _product,
    "Mul": _factor, "Div": _factor, "Pow": _power, "ReduceL2": _norm, "ReduceSumSquare": _norm,
    "LayerNormalization": _layer_norm,
})
