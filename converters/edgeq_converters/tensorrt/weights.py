"""Constants in the forms that TensorRT takes: biases in float, INT4 weights in blocks."""
from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import NodeNote, attribute, constant, consumers, initializer, is_constant, shape
from edgeq.ops import MATRIX_PRODUCTS, MOVING, WEIGHTED
from edgeq.quant.qdq import DEQUANTIZE, grid_of
from edgeq.scheme import PerBlock, PerChannel, dequantize

_BLOCKS: Final = (128, 64, 32, 16)  # sizes that its kernels know; the largest that divides the axis


def float_constants(graph: ir.Graph) -> None:
    """DQ(int32 b, s) -> Conv      =>      float b -> Conv,      and so for an int8 constant of an Add or a Concat

    The parser takes no int32 in a DequantizeLinear (onnxruntime#14229, onnx-tensorrt#850). The builder wants weights
    behind one: of a scalar it says "Quantized constant is only allowed before DQ". The numbers stay the same.
    """
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == DEQUANTIZE else None
        if stored is None or not is_constant(stored) or not (stored.dtype == ir.DataType.INT32 or _is_summand(node)):
            continue
        grid, data = grid_of(node), constant(stored)
        if grid is not None and data is not None:
            _replace(graph, node, dequantize(data, grid).astype(np.float32))


def _is_summand(node: ir.Node) -> bool:
    """Whether nothing multiplies matrices or filters with a value, nor hands it on to who does."""
    return all(reader.op_type not in WEIGHTED | MOVING | {"Cast"} for reader in consumers(node.outputs[0]))


def block_int4_weights(graph: ir.Graph) -> list[NodeNote]:
    """INT4 is for the weights of a MatMul, in blocks along its rows or columns: a scale per channel is repeated for
    each block of the channel. Other layers get their 4-bit integers stored as int8, which computes the same.

        DQ(int4 w [K,N], s [N], axis 1)  =>  DQ(int4 w [K,N], s [K/128,N], axis 0, block_size 128)

    -> the layers whose weights take more than 4 bits.
    """
    notes = []
    for node in list(graph):
        stored = node.inputs[0] if node.op_type == DEQUANTIZE else None
        if stored is None or stored.dtype not in (ir.DataType.INT4, ir.DataType.UINT4) or not is_constant(stored):
            continue
        grid, data = grid_of(node), constant(stored)
        if grid is None or data is None or grid.zero_point.any():
            continue
        readers = consumers(node.outputs[0])
        product = data.ndim == 2 and all(reader.op_type in MATRIX_PRODUCTS for reader in readers)
        if isinstance(grid.type.granularity, PerBlock) and product:
            continue
        size = _block_size(shape(stored), grid.type.granularity) if product else None
        if size is not None:
            _in_blocks(graph, node, np.broadcast_to(grid.scale, shape(stored)[_axis(grid.type.granularity)]), size,
                       _axis(grid.type.granularity))
            continue
        why = f"no block of {_BLOCKS[-1]} or more divides its rows" if product else "INT4 is for matrix products"
        notes += [NodeNote.of(reader, f"its 4-bit weights are stored in {kind}: {why}")
                  for kind in [_widened(graph, node, data)] for reader in readers]
    return notes


def _axis(granularity: object) -> int:
    """The channels' axis; of a weight with one scale, the columns."""
    return granularity.axis if isinstance(granularity, PerChannel) else 1


def _block_size(sizes: tuple[int, ...], granularity: object) -> int | None:
    if isinstance(granularity, PerBlock):
        return None
    length = sizes[1 - _axis(granularity)]
    return next((size for size in _BLOCKS if length % size == 0), None)


def _in_blocks(graph: ir.Graph, node: ir.Node, scale: NDArray[Any], size: int, channels: int) -> None:
    stored = node.inputs[0]
    assert stored is not None
    count = shape(stored)[1 - channels] // size
    blocks = np.repeat(np.expand_dims(scale, 1 - channels), count, axis=1 - channels).astype(np.float32)
    node.replace_input_with(1, initializer(graph, f"{stored.name}_block_scale", blocks))
    if len(node.inputs) > 2:
        node.resize_inputs(2)  # zero is what ONNX assumes, and of the scale's shape
    node.attributes["axis"] = ir.AttrInt64("axis", 1 - channels)
    node.attributes["block_size"] = ir.AttrInt64("block_size", size)


def _widened(graph: ir.Graph, node: ir.Node, data: NDArray[Any]) -> str:
    """-> what the weights became. The zero point is dropped rather than widened: it is 0."""
    stored = node.inputs[0]
    assert stored is not None
    if attribute(node, "block_size", 0):
        grid = grid_of(node)
        assert grid is not None
        _replace(graph, node, dequantize(data, grid).astype(np.float32))
        return "float"
    node.replace_input_with(0, initializer(graph, f"{stored.name}_int8", data.astype(np.int8)))
    if len(node.inputs) > 2:
        node.resize_inputs(2)
    return "int8"


def _replace(graph: ir.Graph, node: ir.Node, data: NDArray[Any]) -> None:
    """A constant instead of a DequantizeLinear of constants."""
    value = initializer(graph, f"{node.outputs[0].name}_constant", data)
    node.outputs[0].replace_all_uses_with(value)
    graph.remove(node, safe=True)
