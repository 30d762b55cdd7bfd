"""Number formats that engines lack: bfloat16 is computed in float32; 8-bit floats and 4-bit integers stay inside.

The interface of a loaded network holds only what numpy has: an input or output of another format is given and returned
in a wider one that holds every value of it.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import OPSET, all_nodes, attribute, label
from edgeq.ops import TAKING

_T: Final = ir.DataType
# Replaced everywhere: no kernel of opset 21 takes them, and the wider format holds every value.
WIDER: Final[Mapping[ir.DataType, ir.DataType]] = MappingProxyType({
    _T.BFLOAT16: _T.FLOAT, _T.FLOAT4E2M1: _T.FLOAT, _T.FLOAT8E8M0: _T.FLOAT, _T.INT2: _T.INT8, _T.UINT2: _T.UINT8,
})
# Replaced where callers see them.
AT_THE_INTERFACE: Final[Mapping[ir.DataType, ir.DataType]] = MappingProxyType({
    **dict.fromkeys((_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ), _T.FLOAT),
    _T.INT4: _T.INT8, _T.UINT4: _T.UINT8,
})
_NAMES_A_TYPE: Final = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")


def plain_types(model: ir.Model) -> None:
    """Widen the formats of `WIDER`, and those of `AT_THE_INTERFACE` where callers see them, in place.

        x bfloat16 -> Relu -> y bfloat16     =>     x float -> Relu -> Cast(bfloat16) -> Cast(float) -> y float

    A Cast to bfloat16 still rounds to it, and so does an output of that type.

    Raises:
        UnsupportedModel: nodes that compute 2-bit integers, 4-bit floats or powers of two, all of them.
    """
    if not _found(model):
        return
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    _plain_cast_like(model)
    _refuse_producers(model)
    outputs = [value for value in model.graph.outputs if value.dtype == _T.BFLOAT16]
    for node in list(all_nodes(model.graph)):
        _widen_attributes(node)
    for value in _values(model):
        if value.dtype in WIDER:
            _widen(value)
    for value in outputs:
        _cast_output(model.graph, value, _T.BFLOAT16, _T.FLOAT)
    _plain_interface(model.graph)


def long_indices(model: ir.Model) -> int:
    """int32 where an operator takes int64 alone becomes int64, in place -> how many Casts that took.

        i int32 -> ScatterND     =>     i -> Cast(int64) -> ScatterND

    torch's exporter writes such graphs (of index_put and istft), which no engine loads: ScatterND, GatherND, Expand and
    others take tensor(int64), where ScatterElements takes both: https://onnx.ai/onnx/operators/onnx__ScatterND.html
    """
    cast: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}
    for node in [node for node in all_nodes(model.graph) if node.domain == ""]:
        for index in _long_inputs(node.op_type):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is None or value.dtype != _T.INT32 or not isinstance(node.graph, ir.Graph):
                continue
            if (node.graph, value) not in cast:
                made = ir.node("Cast", [value], attributes={"to": int(_T.INT64)}, name=f"{value.name}_int64")
                wide = made.outputs[0]
                wide.name, wide.shape, wide.type = made.name, value.shape, ir.TensorType(_T.INT64)
                node.graph.insert_before(node, made)
                cast[node.graph, value] = wide
            node.replace_input_with(index, cast[node.graph, value])
    return len(cast)


@lru_cache(maxsize=256)
def _long_inputs(op_type: str) -> tuple[int, ...]:
    """The inputs of an operator that take int64 and nothing else."""
    if not onnx.defs.has(op_type, OPSET, ""):
        return ()
    formal = onnx.defs.get_schema(op_type, OPSET, "").inputs
    return tuple(index for index, given in enumerate(formal) if set(given.types) == {"tensor(int64)"})


def _found(model: ir.Model) -> bool:
    unusual = {*WIDER, *AT_THE_INTERFACE}
    return any(value.dtype in unusual for value in _values(model)) or any(
        attribute(node, name) in [int(kind) for kind in WIDER] for node in all_nodes(model.graph)
        for name in _NAMES_A_TYPE)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
    for node in all_nodes(model.graph):
        yield from node.outputs


def _plain_cast_like(model: ir.Model) -> None:
    for node in list(all_nodes(model.graph)):
        like = node.inputs[1] if node.op_type == "CastLike" and node.domain == "" else None
        if like is not None and like.dtype is not None:
            node.op_type = "Cast"
            node.resize_inputs(1)
            node.attributes["to"] = ir.AttrInt64("to", int(like.dtype))


def _refuse_producers(model: ir.Model) -> None:
    """Bfloat16 can be had by a Cast; the other formats of `WIDER` only pass through."""
    problems = [
        Problem(label(node), node.op_type, f"it rounds to {value.dtype}, a type that ONNX has since opset 23 only")
        for node in all_nodes(model.graph) for value in node.outputs
        if value.dtype in WIDER and value.dtype != _T.BFLOAT16 and node.op_type not in TAKING]
    problems += [
        Problem(label(node), node.op_type, f"it reads {value.dtype}, a type that ONNX has since opset 23 only")
        for node in all_nodes(model.graph) if node.op_type == "DequantizeLinear"
        for value in node.inputs if value is not None and value.dtype in (_T.FLOAT4E2M1, _T.FLOAT8E8M0)]
    if problems:
        raise UnsupportedModel(f"ONNX opset {OPSET}", problems)


def _widen_attributes(node: ir.Node) -> None:
    if node.op_type == "Cast" and attribute(node, "to") == _T.BFLOAT16:
        _cast_twice(node)
        return
    for name, given in list(node.attributes.items()):
        if name in _NAMES_A_TYPE and given.type == ir.AttributeType.INT and given.value in WIDER:
            node.attributes[name] = ir.AttrInt64(name, int(WIDER[_T(given.value)]))
        elif given.type == ir.AttributeType.TENSOR and given.value.dtype in WIDER:
            node.attributes[name] = ir.AttrTensor(name, _widened(given.value))


def _cast_twice(node: ir.Node) -> None:
    """Cast(bfloat16) -> y     =>     Cast(bfloat16) -> Cast(float) -> y: the readers read float, rounded as before."""
    back = ir.node("Cast", [node.outputs[0]], attributes={"to": int(_T.FLOAT)}, name=f"{label(node)}_back")
    _follow(node.outputs[0], back, _T.BFLOAT16, _T.FLOAT)


def _follow(value: ir.Value, node: ir.Node, inner: ir.DataType, outer: ir.DataType) -> None:
    """Readers of ``value`` read what ``node`` makes of it, under the same name."""
    producer, new = value.producer(), node.outputs[0]
    assert producer is not None
    assert producer.graph is not None
    new.name, new.shape, new.type = value.name, value.shape, ir.TensorType(outer)
    value.name, value.type = f"{value.name}_{inner.short_name()}", ir.TensorType(inner)
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    producer.graph.insert_after(producer, node)


def _widen(value: ir.Value) -> None:
    assert value.dtype is not None
    if value.const_value is not None:
        value.const_value = _widened(value.const_value)
    producer = value.producer()
    if not (producer is not None and producer.op_type == "Cast" and attribute(producer, "to") == _T.BFLOAT16):
        value.type = ir.TensorType(WIDER[value.dtype])


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same numbers in the wider format, computed when they are read: a large model is not held twice."""
    wider = WIDER[tensor.dtype]
    return ir.LazyTensor(lambda: ir.tensor(tensor.numpy().astype(wider.numpy()), name=tensor.name), dtype=wider,
                         shape=ir.Shape(tuple(tensor.shape.numpy())), name=tensor.name)


def _plain_interface(graph: ir.Graph) -> None:
    for value in list(graph.inputs):
        if (kind := value.dtype) in AT_THE_INTERFACE and kind is not None and value.name not in graph.initializers:
            _cast_input(graph, value, AT_THE_INTERFACE[kind])
    for value in list(graph.outputs):
        if (kind := value.dtype) in AT_THE_INTERFACE and kind is not None:
            _cast_output(graph, value, kind, AT_THE_INTERFACE[kind])


def _cast_input(graph: ir.Graph, value: ir.Value, outer: ir.DataType) -> None:
    """x of a narrow type -> readers     =>     x of a wider type -> Cast -> readers"""
    inner = value.dtype
    assert inner is not None
    value.type = ir.TensorType(outer)
    cast = ir.node("Cast", [value], attributes={"to": int(inner)}, name=f"{value.name}_cast")
    narrow = cast.outputs[0]
    narrow.name, narrow.shape, narrow.type = f"{value.name}_{inner.short_name()}", value.shape, ir.TensorType(inner)
    value.replace_all_uses_with(narrow, replace_graph_outputs=True)
    cast.replace_input_with(0, value)
    if len(graph):
        graph.insert_before(graph[0], cast)
    else:
        graph.append(cast)


def _cast_output(graph: ir.Graph, value: ir.Value, inner: ir.DataType, outer: ir.DataType) -> None:
    """-> y of a narrow type     =>     -> Cast -> y of a wider type, rounded to the narrow one on the way."""
    producer = value.producer()
    if producer is None:
        return  # an input or constant that is an output too: as wide as its type is now
    if producer.op_type == "Cast" and inner == _T.BFLOAT16 and attribute(producer, "to") == _T.FLOAT:
        before = producer.inputs[0]
        if before is not None and before.dtype == inner:
            return  # rounded by a Cast of the model's own
    back = ir.node("Cast", [value], attributes={"to": int(outer)}, name=f"{value.name}_wide")
    _follow(value, back, inner, outer)
    if value.dtype == inner and inner == _T.BFLOAT16:
        value.type = ir.TensorType(outer)
        narrow = ir.node("Cast", [value], attributes={"to": int(inner)}, name=f"{value.name}_round")
        narrow.outputs[0].name, narrow.outputs[0].type = f"{value.name}_rounded", ir.TensorType(inner)
        narrow.outputs[0].shape = value.shape
        graph.insert_before(back, narrow)
        back.replace_input_with(0, narrow.outputs[0])
