"""Causal masks: computed when a session loads, in place of a float on disk for every pair of positions."""
from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import constant, initializer, is_constant

SMALLEST_BYTES: Final = 4096  # of a mask; the nodes in place of it take 200
_READERS: Final = ("Add", "Mul", "Slice", "Where")  # of masks; no weight is read on the way here
_TRIANGLES: Final = ((1, 0), (1, 1), (0, 0), (0, -1))  # upper, diagonal: with the main diagonal or without


def generate_masks(graph: ir.Graph) -> None:
    """One number on one side of the diagonal and 0 on the other, as nodes that fold at load.

        Add(x, m [..,S,T])      =>      Add(x, Trilu(ConstantOfShape([..,S,T], number), diagonal))
    """
    for value in list(graph.initializers.values()):
        if _may_be_mask(value):
            _generate(graph, value)


def _may_be_mask(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not is_constant(value) or value.is_graph_output():
        return False
    return (tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) >= 2 and tensor.nbytes >= SMALLEST_BYTES
            and all(use.node.op_type in _READERS and use.node.graph is value.graph for use in value.uses()))


def _generate(graph: ir.Graph, value: ir.Value) -> None:
    data = constant(value)
    assert data is not None
    triangle = next((each for each in _TRIANGLES if _is(data, *each)), None)
    if triangle is None:
        return
    upper, diagonal = triangle
    name = value.name
    number = ir.tensor(np.array([_number(data, upper)]), name="value")
    full = ir.node("ConstantOfShape", [initializer(graph, f"{name}_shape", np.array(data.shape, np.int64))],
                   {"value": number})
    mask = ir.node("Trilu", [full.outputs[0], initializer(graph, f"{name}_diagonal", np.array(diagonal, np.int64))],
                   {"upper": upper})
    full.outputs[0].name, mask.outputs[0].name = f"{name}_full", f"{name}_triangle"
    graph.insert_before(graph[0], [full, mask])
    value.replace_all_uses_with(mask.outputs[0])


def _is(data: NDArray[Any], upper: int, diagonal: int) -> bool:
    """To the bit: a zero of the wrong sign is no match."""
    cut = np.triu if upper else np.tril
    return cut(np.full_like(data, _number(data, upper)), diagonal).tobytes() == data.tobytes()


def _number(data: NDArray[Any], upper: int) -> np.float32:
    """That of the corner farthest from the diagonal."""
    return np.float32(data[..., 0, -1].flat[0] if upper else data[..., -1, 0].flat[0])
