"""The public tensors of a quantized graph as integers: no float operator is left at its ends.

        float x -> Q(s, z) -> DQ(s, z) -> Conv      =>      int8 x -> DQ(s, z) -> Conv
        Conv -> Q(s, z) -> DQ(s, z) -> float y      =>      Conv -> Q(s, z) -> int8 y
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import UsageError
from edgeq.graph import attribute, consumers, initializer, label, only_reader, real_inputs, shape
from edgeq.ops import KEEPING_ALL
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import PerTensor, QuantParams, QuantType

Integer: TypeAlias = Literal["uint8", "int8"]
PIXELS: Final = QuantParams(QuantType(8, signed=False, symmetric=False), np.array(1, np.float32),
                             np.array(0, np.int32))
_WEIGHT: Final = QuantType(8).range[1]  # the largest integer of a weight


@dataclass(frozen=True, slots=True)
class Affine:
    """What preprocessing makes of pixels: factor * pixel + offset, each of one number per channel."""

    factor: NDArray[np.float32]
    offset: NDArray[np.float32]


def integer_inputs(graph: ir.Graph, kind: Integer, pixels: Affine | None = None) -> dict[str, QuantParams]:
    """Every float input becomes integers, in place -> the grid of each. pixels: the input is an image as it is, and the
    graph does what preprocessing did.

    Raises:
        UsageError: an input lies on no 8-bit grid.
    """
    return {value.name or "": _input(graph, value, kind, pixels) for value in real_inputs(graph) if _is_float(value)}


def integer_outputs(graph: ir.Graph, kind: Integer) -> dict[str, QuantParams]:
    """The same of the outputs."""
    return {value.name or "": _output(graph, index, kind) for index, value in enumerate(graph.outputs)
            if _is_float(value)}


def pixel_input(graph: ir.Graph, value: ir.Value, affine: Affine) -> tuple[str, int]:
    """The input becomes pixels, still as floats, in place -> its name, and how many channels it has.

        x -> y      =>      x -> Mul(factor) -> Add(offset) -> y
    """
    assert value.shape is not None
    channels, made, front, uses = int(value.shape[1]), value, _Front(graph), list(value.uses())  # type: ignore[arg-type]
    for op, numbers in (("Mul", affine.factor), ("Add", affine.offset)):
        data = np.ascontiguousarray(np.broadcast_to(numbers, (channels,)).reshape(1, channels, 1, 1), np.float32)
        name = f"{value.name}_{'scaled' if op == 'Mul' else 'normalized'}"
        made = front.add(ir.node(op, [made, initializer(graph, f"{name}_by", data)]), name, value.shape)
    for use in uses:
        use.node.replace_input_with(use.idx, made)
    return value.name or "", channels


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT


def _input(graph: ir.Graph, value: ir.Value, kind: Integer, pixels: Affine | None) -> QuantParams:
    name = value.name or ""
    found = next((node for node in consumers(value) if _grid(node, QUANTIZE) is not None), None)
    inner = None if found is None else _grid(found, QUANTIZE)
    if found is None or inner is None:
        raise UsageError(f"--io {kind}: nothing reads the input '{name}' on an 8-bit grid; leave its side at float")
    normalized = pixels is not None and not _is_pixel_grid(inner, pixels)
    outer = _as(kind, PIXELS if normalized else inner)
    uses, float_type = list(value.uses()), value.type
    value.type = ir.TensorType(_dtype(outer))
    front = _Front(graph)
    real = front.node(DEQUANTIZE, value, outer, f"{name}_real")
    if normalized and pixels is not None:
        _normalize(front, real, found, uses, pixels, inner)
        return outer
    for use in uses:
        use.node.replace_input_with(use.idx, real)
    for node in consumers(real):
        if node.op_type == QUANTIZE and inner.same_grid(grid_of(node)):
            _skip_pair(graph, node, real)
    real.type = float_type
    return outer


def _is_pixel_grid(grid: QuantParams, pixels: Affine) -> bool:
    """Whether the integers of a grid, without a sign, are the pixels: then no operator has to make them."""
    unsigned = replace(grid, zero_point=grid.zero_point + (128 if grid.type.signed else 0))
    scale, zero = float(unsigned.scale), int(unsigned.zero_point)
    steps = (pixels.factor * 255 + pixels.offset) / scale + zero - 255, pixels.offset / scale + zero
    return all(bool(np.abs(step).max() <= 0.5 + 1e-3) for step in steps)


def _normalize(front: _Front, real: ir.Value, quantize: ir.Node, uses: Sequence[Any], pixels: Affine,
               inner: QuantParams) -> None:
    """Preprocessing as one integer convolution of each channel with itself, which writes on the input's own grid.

        x -> Q -> DQ                =>      DQ(pixels) -> Conv -> Q -> DQ
        x -> Q -> DQ -> Transpose   =>      DQ(pixels) -> Transpose -> Q(pixels) -> DQ(pixels) -> Conv -> Q -> DQ
    """
    dequantize = only_reader(quantize.outputs[0])
    transpose = None if dequantize is None else only_reader(dequantize.outputs[0])
    if transpose is not None and transpose.op_type == "Transpose":
        before = list(transpose.outputs[0].uses())
        real = front.pair(front.add(ir.node("Transpose", [real], {"perm": list(attribute(transpose, "perm", ()))}),
                                    f"{real.name}_first", transpose.outputs[0].shape), PIXELS)
        uses, alone = before, [quantize, *consumers(quantize.outputs[0]), transpose]
    else:
        alone = []
    made = front.convolution(real, pixels)
    if not all(use.node.op_type == QUANTIZE and inner.same_grid(grid_of(use.node)) for use in uses):
        made = front.pair(made, inner)
    for use in uses:
        use.node.replace_input_with(use.idx, made)
    for node in reversed(alone):
        front.graph.remove(node, safe=True)


class _Front:
    """Nodes in front of all others, in the order in which they are added."""

    def __init__(self, graph: ir.Graph):
        self.graph, self.first = graph, graph[0]

    def add(self, node: ir.Node, name: str, shape: ir.Shape | None, kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        made = node.outputs[0]
        node.name, made.name, made.shape, made.type = f"{name}_{node.op_type}", name, shape, ir.TensorType(kind)
        self.graph.insert_before(self.first, node)
        return made

    def node(self, op: str, value: ir.Value, grid: QuantParams, name: str) -> ir.Value:
        kind = _dtype(grid) if op == QUANTIZE else ir.DataType.FLOAT
        return self.add(ir.node(op, [value, *_parameters(self.graph, name, grid)]), name, value.shape, kind)

    def pair(self, value: ir.Value, grid: QuantParams) -> ir.Value:
        return self.node(DEQUANTIZE, self.node(QUANTIZE, value, grid, f"{value.name}_q"), grid, f"{value.name}_dq")

    def convolution(self, value: ir.Value, pixels: Affine) -> ir.Value:
        """value [N,C,spatial..] of pixels -> factor * value + offset."""
        name, (_, channels, *spatial) = value.name or "", shape(value)
        factor, offset = (np.broadcast_to(numbers, (channels,)) for numbers in (pixels.factor, pixels.offset))
        scale = (np.abs(factor) / _WEIGHT).astype(np.float32)
        weight = (np.sign(factor) * _WEIGHT).astype(np.int8).reshape(channels, 1, *[1] * len(spatial))
        constants = [self._stored(f"{name}_factor", weight, scale),
                     self._stored(f"{name}_offset", np.rint(offset / scale).astype(np.int32), scale)]
        node = ir.node("Conv", [value, *constants], {"group": channels, "kernel_shape": [1] * len(spatial)})
        return self.add(node, f"{name}_normalized", value.shape)

    def _stored(self, name: str, data: NDArray[Any], scale: NDArray[np.float32]) -> ir.Value:
        """Integers with a scale for each channel, as real numbers."""
        inputs = [initializer(self.graph, f"{name}_q", data), initializer(self.graph, f"{name}_scale", scale),
                  initializer(self.graph, f"{name}_zero_point", np.zeros(scale.shape, data.dtype))]
        return self.add(ir.node(DEQUANTIZE, inputs, {"axis": 0}), name, ir.Shape(data.shape))


def _output(graph: ir.Graph, index: int, kind: Integer) -> QuantParams:
    value = graph.outputs[index]
    name = value.name or ""
    grid = _grid_behind(value)
    if grid is None:
        raise UsageError(f"--io {kind}: the output '{name}' lies on no 8-bit grid; leave its side at float")
    value.name = f"{name}_real"
    outer, producer = _as(kind, grid), value.producer()
    assert producer is not None
    source = producer.inputs[0].producer() if producer.op_type == DEQUANTIZE and producer.inputs[0] else None
    if source is not None and source.op_type == QUANTIZE:
        stored = source.outputs[0]
        for node in (source, *consumers(stored)):
            _regrid(graph, node, outer)
        stored.type = ir.TensorType(_dtype(outer))
    else:
        quantize = ir.node(QUANTIZE, [value, *_parameters(graph, name, outer)], name=f"{name}_{QUANTIZE}")
        graph.insert_after(producer, quantize)
        stored = quantize.outputs[0]
        stored.type = ir.TensorType(_dtype(outer))
    stored.name, stored.shape = name, value.shape
    graph.outputs[index] = stored
    if producer.op_type == DEQUANTIZE and not value.uses() and not value.is_graph_output():
        graph.remove(producer, safe=True)
    return outer


def _grid_behind(value: ir.Value) -> QuantParams | None:
    """The grid of a value that a DequantizeLinear gives, or what only moves its numbers."""
    producer = value.producer()
    while producer is not None and producer.op_type in KEEPING_ALL and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return None if producer is None else _grid(producer, DEQUANTIZE)


def _grid(node: ir.Node, op: str) -> QuantParams | None:
    """The 8-bit grid of a QuantizeLinear or DequantizeLinear with one scale for all, else None."""
    found = grid_of(node) if node.op_type == op else None
    is_one = found is not None and found.type.bits == 8 and isinstance(found.type.granularity, PerTensor)
    return found if is_one else None


def _skip_pair(graph: ir.Graph, quantize: ir.Node, real: ir.Value) -> None:
    """real -> Q -> DQ -> y, where real came from that grid     =>     real -> y"""
    for dequantize in consumers(quantize.outputs[0]):
        if dequantize.op_type == DEQUANTIZE:
            dequantize.outputs[0].replace_all_uses_with(real)
            graph.remove(dequantize, safe=True)
    if not quantize.outputs[0].uses():
        graph.remove(quantize, safe=True)


def _as(kind: Integer, grid: QuantParams) -> QuantParams:
    """The same grid, stored with or without a sign."""
    signed = grid.as_signed()
    if kind == "int8":
        return signed
    return grid if not grid.type.signed else replace(
        grid, type=replace(grid.type, signed=False, symmetric=False),
        zero_point=np.asarray(signed.zero_point + 128, np.int32))


def _dtype(grid: QuantParams) -> ir.DataType:
    return ir.DataType.INT8 if grid.type.signed else ir.DataType.UINT8


def _parameters(graph: ir.Graph, name: str, grid: QuantParams) -> list[ir.Value]:
    dtype = np.int8 if grid.type.signed else np.uint8
    return [initializer(graph, f"{name}_scale", np.asarray(grid.scale, np.float32)),
            initializer(graph, f"{name}_zero_point", np.asarray(grid.zero_point, dtype))]


def _regrid(graph: ir.Graph, node: ir.Node, grid: QuantParams) -> None:
    """Another grid for a QuantizeLinear or DequantizeLinear."""
    for index, value in enumerate(_parameters(graph, label(node), grid), 1):
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
    node.attributes.pop("output_dtype", None)
    if node.op_type == QUANTIZE:
        node.outputs[0].type = ir.TensorType(_dtype(grid))
