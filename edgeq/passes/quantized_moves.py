"""What moves numbers between a DequantizeLinear and its readers, or in front of a QuantizeLinear, moves integers.

A kernel of integers asks for DequantizeLinear right before it and QuantizeLinear right behind it; exporters put
Transposes and Reshapes between (torch and AIMET: a Linear's weight), and quantizers round what the next layer reads,
behind a pooling say (NVIDIA's). Rounding and choosing among numbers may change places, bit for bit.
"""
from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, constant, is_constant, only_reader, rank, static
from edgeq.passes.fold import evaluate
from edgeq.passes.rewrite import constant_like, nodes_of, producer

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SHAPES: Final = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
_PARTS: Final = ("Slice", "Split", "Gather")
_CHOICES: Final = ("MaxPool", "GlobalMaxPool")  # the largest of rounded numbers is the largest, rounded


def move_weights(model: ir.Model, *, blocks: bool = False) -> int:
    """What rearranges a constant behind its DequantizeLinear rearranges its integers -> how often.

        int8 w [O,I] -> DQ(scale [O], axis 0) -> Transpose -> y    =>    int8 w [I,O] -> DQ(scale [O], axis 1) -> y

    A Cast of half precision to single is left out: the scale becomes single then. blocks: transpose those with a scale
    for each block too, which not every engine multiplies by.
    """
    return sum(_move_weight(node, blocks) for node in nodes_of(model, *_SHAPES, *_PARTS, "Cast"))


def _move_weight(node: ir.Node, blocks: bool) -> bool:
    before = producer(node.inputs[0], DEQUANTIZE)
    stored = constant(before.inputs[0]) if before is not None else None
    others = [value for value in node.inputs[1:] if value is not None]
    if before is None or stored is None or not all(map(is_constant, others)):
        return False
    if any(output.is_graph_output() for output in node.outputs) or node.graph is None:
        return False
    if attribute(before, "block_size", 0) and not blocks:
        return False
    grid = [value for value in before.inputs[1:] if value is not None]
    parameters = [data for value in grid if (data := constant(value)) is not None]
    if len(parameters) < len(grid):
        return False
    moved = _cast(node, stored, parameters) if node.op_type == "Cast" else _moved(node, before, stored, parameters)
    if moved is None:
        return False
    for output, (integers, numbers, axis) in zip(node.outputs, moved, strict=True):
        attributes = {name: given.value for name, given in before.attributes.items()} | {"axis": axis}
        names = ("scale", "zero_point")
        inputs = [constant_like(node, "integers", integers),
                  *(constant_like(node, name, data) for name, data in zip(names, numbers, strict=False))]
        made = ir.node(DEQUANTIZE, inputs, attributes=attributes, name=f"{output.name}_dequantize")
        node.graph.insert_before(node, made)
        real = made.outputs[0]
        real.name, real.type, real.shape = f"{output.name}_real", output.type, output.shape
        output.replace_all_uses_with(real)
    node.graph.remove(node, safe=True)
    return True


Moved = list[tuple[NDArray[Any], list[NDArray[Any]], int]]  # of each output: integers, scale and zero point, axis


def _cast(node: ir.Node, stored: NDArray[Any], parameters: list[NDArray[Any]]) -> Moved | None:
    wider = parameters[0].dtype == np.float16 and attribute(node, "to") == ir.DataType.FLOAT
    before = producer(node.inputs[0], DEQUANTIZE)
    if not wider or before is None:
        return None
    return [(stored, [parameters[0].astype(np.float32), *parameters[1:]], int(attribute(before, "axis", 1)))]


def _moved(node: ir.Node, before: ir.Node, stored: NDArray[Any], parameters: list[NDArray[Any]]) -> Moved | None:
    """None where the channels would not lie along one axis any more."""
    results = _results(node, stored)
    if results is None:
        return None
    axis = int(attribute(before, "axis", 1))
    if parameters[0].size == 1:
        return [(result, parameters, axis) for result in results]
    if attribute(before, "block_size", 0):
        return _transposed(node, stored.ndim, axis % stored.ndim, results[0], parameters)
    axis %= stored.ndim
    column = [-1 if a == axis else 1 for a in range(stored.ndim)]
    numbers = np.arange(stored.shape[axis], dtype=np.int32).reshape(column)
    channels = _results(node, np.broadcast_to(numbers, stored.shape).copy())
    found: Moved = []
    for result, channel in zip(results, channels or (), strict=True):
        place = next((a for a in range(channel.ndim) if _is_along(channel, a)), None)
        if place is None:
            return None
        chosen = np.moveaxis(channel, place, 0).reshape(channel.shape[place], -1)[:, 0]
        found.append((result, [data[chosen] for data in parameters], place))
    return found


def _results(node: ir.Node, data: NDArray[Any]) -> list[NDArray[Any]] | None:
    """What a node makes of other data; 4-bit integers go as bytes, which every evaluator has."""
    packed = data.dtype if data.dtype.kind not in "iuf" else None
    constants = {value.name or "": array for value in node.inputs[1:]
                 if value is not None and (array := constant(value)) is not None}
    first = node.inputs[0]
    assert first is not None
    assert first.name is not None
    results = evaluate(node, {**constants, first.name: data.astype(np.int8) if packed is not None else data})
    if results is None or any(not result.size for result in results):
        return None
    return results if packed is None else [result.astype(packed) for result in results]


def _is_along(channel: NDArray[np.int32], axis: int) -> bool:
    """Whether the channel depends on the place along one axis alone."""
    rows = np.moveaxis(channel, axis, 0).reshape(channel.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())


def _transposed(node: ir.Node, axes: int, axis: int, integers: NDArray[Any], parameters: list[NDArray[Any]],
                ) -> Moved | None:
    if node.op_type != "Transpose":
        return None
    order = list(attribute(node, "perm") or range(axes)[::-1])
    return [(integers, [np.ascontiguousarray(data.transpose(order)) for data in parameters], order.index(axis))]


def extend_grids(model: ir.Model) -> int:
    """What moves or chooses numbers that lie on a grid leaves them on it, and says so -> how often.

        x -> Q -> DQ -> Transpose -> MatMul     =>     x -> Q -> DQ -> Transpose -> Q -> DQ -> MatMul
        Conv -> Relu -> MaxPool -> Q -> DQ      =>     Conv -> Relu -> Q -> DQ -> MaxPool -> Q -> DQ
    """
    moves = nodes_of(model, *_SHAPES, *_PARTS, *_CHOICES)
    return sum(_behind(node) for node in moves) + sum(_in_front(node) for node in reversed(moves))


def _behind(node: ir.Node) -> bool:
    before = producer(node.inputs[0], DEQUANTIZE)
    if before is None or producer(before.inputs[0], QUANTIZE) is None or not _is_plain(before):
        return False
    outputs = [value for value in node.outputs[:1 if node.op_type in _CHOICES else None] if value.uses()]
    done = [value.is_graph_output() or all(use.node.op_type == QUANTIZE for use in value.uses()) for value in outputs]
    if all(done):
        return False
    for value, is_done in zip(outputs, done, strict=True):
        if not is_done:
            _round(node, value, before)
    return True


def _in_front(node: ir.Node) -> bool:
    value, moved = node.inputs[0], node.outputs[0]
    readers = [use.node for use in moved.uses()]
    if len(node.outputs) != 1 or len(readers) != 1 or readers[0].op_type != QUANTIZE or moved.is_graph_output():
        return False
    source = None if value is None else value.producer()
    if value is None or source is None or source.op_type == DEQUANTIZE or only_reader(value) is not node:
        return False
    if not _is_plain(readers[0]) or static(value) == () or rank(value) == 0:
        return False
    _round(source, value, readers[0])
    return True


def _is_plain(node: ir.Node) -> bool:
    """One constant scale for the whole tensor."""
    scale = constant(node.inputs[1])
    return scale is not None and scale.size == 1 and all(
        is_constant(value) for value in node.inputs[2:] if value is not None)


def _round(after: ir.Node, value: ir.Value, like: ir.Node) -> None:
    """value -> Q -> DQ -> its readers, behind a node, on the grid of another Q or DQ."""
    assert after.graph is not None
    readers = list(value.uses())
    given = like.inputs[0] if like.op_type == DEQUANTIZE else like.outputs[0]
    stored = ir.node(QUANTIZE, [value, *like.inputs[1:]], name=f"{value.name}_quantize", attributes={
        name: each.value for name, each in like.attributes.items() if name == "output_dtype"})
    real = ir.node(DEQUANTIZE, [stored.outputs[0], *like.inputs[1:]], name=f"{value.name}_dequantize")
    stored.outputs[0].name, stored.outputs[0].shape = f"{value.name}_stored", value.shape
    stored.outputs[0].type = given.type if given is not None else None
    real.outputs[0].name, real.outputs[0].shape, real.outputs[0].type = f"{value.name}_real", value.shape, value.type
    after.graph.insert_after(after, [stored, real])
    for use in readers:
        use.node.replace_input_with(use.idx, real.outputs[0])
