"""Images at the public interface of a model: in which layout they are, and how it becomes channels last."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import UsageError
from edgeq.graph import attribute, constant, real_inputs
from edgeq.graph import rank as rank_of
from edgeq.ops import KEEPING_AXES, POOLING, SPATIAL
from edgeq.state import state_of

Order: TypeAlias = tuple[int, ...]  # which axis of a public tensor stands where in a value inside
CHANNELS_FIRST: Final = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
CHANNELS_LAST: Final = {3: "NWC", 4: "NHWC", 5: "NDHWC"}


def layouts(graph: ir.Graph) -> dict[str, str]:
    """Name -> "NCHW" or "NHWC" (of rank 3: "NCW" or "NWC", of rank 5: "NCDHW" or "NDHWC") of the inputs that a spatial
    operator reads and the outputs that one makes, directly or through pointwise operators and Transposes. Inputs and
    outputs of which nothing is known, or which are read in both orders, are absent."""
    ends = [(value, _readers(value)) for value in real_inputs(graph)]
    ends += [(value, _makers(value)) for value in graph.outputs]
    found = {value.name or "": {_layout(order) for order in orders} for value, orders in ends}
    return {name: kinds.pop() for name, kinds in found.items() if len(kinds) == 1 and "" not in kinds}


def _layout(order: Order) -> str:
    rank = len(order)
    if order == tuple(range(rank)):
        return CHANNELS_FIRST.get(rank, "")
    return CHANNELS_LAST.get(rank, "") if order == _first(rank) else ""


def _first(rank: int) -> Order:
    """The perm of a Transpose from channels last to channels first."""
    return (0, rank - 1, *range(1, rank - 1))


def _last(rank: int) -> Order:
    return (0, *range(2, rank), 1)


def _readers(value: ir.Value) -> Iterator[Order]:
    """How the spatial operators behind an input see it."""
    waiting, seen = [(value, tuple(range(rank_of(value))))], {value}
    while waiting:
        here, order = waiting.pop()
        for node, position in here.uses():
            after = order
            if node.op_type in SPATIAL:
                if position == 0:
                    yield order
                continue
            if node.op_type == "Transpose":
                after = tuple(order[axis] for axis in attribute(node, "perm", range(len(order))[::-1]))
            elif node.op_type not in KEEPING_AXES or rank_of(node.outputs[0]) != len(order):
                continue
            waiting += [(output, after) for output in node.outputs if output not in seen]
            seen.update(node.outputs)


def _makers(value: ir.Value) -> Iterator[Order]:
    """How the spatial operators in front of an output make it."""
    waiting, seen = [(value, tuple(range(rank_of(value))))], {value}
    while waiting:
        here, order = waiting.pop()
        node = here.producer()
        if node is None or node.op_type in POOLING:  # no picture is left behind it
            continue
        before = order
        if node.op_type in SPATIAL:
            yield order
            continue
        if node.op_type == "Transpose":
            perm = list(attribute(node, "perm", range(len(order))[::-1]))
            before = tuple(order[perm.index(axis)] for axis in range(len(order)))
        elif node.op_type not in KEEPING_AXES:
            continue
        fresh = [v for v in node.inputs if v is not None and v not in seen and rank_of(v) == len(order)]
        waiting += [(v, before) for v in fresh]
        seen.update(fresh)


def channels_first_names(graph: ir.Graph) -> list[str]:
    """What `--layout nhwc` changes. State stays as it is: both of its ends have one shape.

    Raises:
        UsageError: nothing; says what is known of each input and output.
    """
    known = layouts(graph)
    state = {name for value in real_inputs(graph) if (after := state_of(value)) for name in (value.name, after)}
    names = [name for name, layout in known.items() if layout in CHANNELS_FIRST.values() and name not in state]
    if not names:
        found = ", ".join(f"'{value.name}' {known.get(value.name or '', 'no image that is known')}"
                          for value in (*real_inputs(graph), *graph.outputs))
        raise UsageError("--layout nhwc: no input goes channels first into a convolution, pooling or the like, and no "
                         f"output comes from one ({found}); leave the flag out")
    return names


def make_channels_last(model: ir.Model, names: Collection[str]) -> None:
    """Transposes at the interface, in place.

        x [N,C,H,W] -> Conv -> y [N,O,H,W]     =>     x [N,H,W,C] -> Transpose -> Conv -> Transpose -> y [N,H,W,O]
    """
    graph = model.graph
    for value in real_inputs(graph):
        if value.name in names:
            _transpose_input(graph, value)
    for index, value in enumerate(graph.outputs):
        if value.name in names:
            graph.outputs[index] = _transposed_output(graph, value)


def _transpose_input(graph: ir.Graph, value: ir.Value) -> None:
    """What lies on a grid is transposed there: a quarter of the bytes, and no other rounding on the way to it."""
    uses, rank = list(value.uses()), rank_of(value)
    shape, value.shape = value.shape, _permuted(value, _last(rank))
    pair = _grid_pair(graph, value, uses[0].node) if len(uses) == 1 else []
    node, inside = _transpose(graph, pair[-1].outputs[0] if pair else value, _first(rank),
                              f"{value.name}_channels_first")
    inside.shape = shape
    for use in uses:
        use.node.replace_input_with(use.idx, inside)
    graph.insert_before(graph[0], [*pair, node])


def _grid_pair(graph: ir.Graph, value: ir.Value, reader: ir.Node) -> list[ir.Node]:
    """A copy of the QuantizeLinear that reads a value, and the DequantizeLinear back, where one scale is for all."""
    scale = constant(reader.inputs[1]) if reader.op_type == "QuantizeLinear" else None
    if scale is None or scale.size != 1:
        return []
    stored = ir.node("QuantizeLinear", [value, *reader.inputs[1:]], dict(reader.attributes),
                     name=_unused(graph, f"{value.name}_quantize"))
    real = ir.node("DequantizeLinear", [stored.outputs[0], *reader.inputs[1:]],
                   name=_unused(graph, f"{value.name}_dequantize"))
    for node, like, name in ((stored, reader.outputs[0], "on_grid"), (real, value, "rounded")):
        made = node.outputs[0]
        made.name, made.type, made.shape = _unused(graph, f"{value.name}_{name}"), like.type, value.shape
    return [stored, real]


def _transposed_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    name, value.name = value.name or "", _unused(graph, f"{value.name}_channels_first")
    node, outside = _transpose(graph, value, _last(rank_of(value)), name)
    outside.shape = _permuted(value, _last(rank_of(value)))
    graph.append(node)
    return outside


def _transpose(graph: ir.Graph, value: ir.Value, perm: Order, name: str) -> tuple[ir.Node, ir.Value]:
    node = ir.node("Transpose", [value], {"perm": list(perm)}, name=_unused(graph, f"{value.name}_layout"))
    made = node.outputs[0]
    made.name, made.type = _unused(graph, name), value.type
    return node, made


def _unused(graph: ir.Graph, name: str) -> str:
    taken = {value.name for node in graph for value in node.outputs} | {node.name for node in graph}
    taken |= {value.name for value in graph.inputs} | set(graph.initializers)
    while name in taken:
        name += "_"
    return name


def channels_first_shape(shape: Sequence[Any]) -> tuple[Any, ...]:
    """[N, spatial.., C] -> [N, C, spatial..]."""
    return tuple(shape[axis] for axis in _first(len(shape)))


def _permuted(value: ir.Value, perm: Order) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape([value.shape[axis] for axis in perm])


def name_channels_last(layout: str) -> str:
    """"NCHW" -> "NHWC"."""
    return "".join(layout[axis] for axis in _last(len(layout)))


def name_channels_first(layout: str) -> str:
    """The inverse of `name_channels_last`."""
    return "".join(layout[axis] for axis in _first(len(layout)))


def arrays_channels_last(arrays: Mapping[str, NDArray[Any]], names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Arrays in the source model's layout -> in that of the changed interface."""
    return {name: np.ascontiguousarray(array.transpose(_last(array.ndim))) if name in names else array
            for name, array in arrays.items()}


def arrays_channels_first(arrays: Mapping[str, NDArray[Any]], names: Collection[str]) -> dict[str, NDArray[Any]]:
    """The inverse of `arrays_channels_last`."""
    return {name: np.ascontiguousarray(array.transpose(_first(array.ndim))) if name in names else array
            for name, array in arrays.items()}
