"""The shape of every value: the inputs have theirs, and the rest follows."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeq.dimensions import Shape, free_dimensions, keep_free, witnesses
from edgeq.errors import ModelError
from edgeq.graph import constant, initializer, label, shape, static
from edgeq.passes.control_flow import inline_constant_if
from edgeq.passes.fold import evaluate, fold_node
from edgeq.passes.interface import Tell, bind_inputs
from edgeq.passes.loops import infer_loop, infer_scan
from edgeq.passes.sample_shapes import infer_from_witnesses, specialized

_DATA_DEPENDENT: Final = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "StringSplit"})
_CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})
# The inputs that decide how large the result is, where onnx does not look at them although they are constants.
_DECIDED_BY: Final = MappingProxyType({"Compress": (1,), "MaxUnpool": (2,)})
_SHAPED_BY_INPUT: Final = frozenset({
    "Reshape", "Expand", "Slice", "Tile", "Pad", "Resize", "ConstantOfShape", "Range", "TopK", "OneHot", "Squeeze",
    "Unsqueeze", "Split",
})
_LIKE_INPUT: Final = frozenset({"GroupNormalization", "MeanVarianceNormalization"})  # the two that onnx does not infer
# What onnx infers of these where their size is computed: not even that. The rank follows from the operator.
_RANKS: Final = MappingProxyType({
    "BlackmanWindow": 1, "HammingWindow": 1, "HannWindow": 1, "MelWeightMatrix": 2, "StringNormalizer": 1,
    "ImageDecoder": 3,
})
_SHAPE_LIKE: Final = 1024  # elements of a constant that shape inference may want to see
_SHOWN: Final = 5  # values listed in a message before "and N more"


def fix_shapes(model: ir.Model, inputs: Mapping[str, Shape] = {}, *, tell: Tell | None = None,
               open_sizes: bool = False) -> None:
    """Give every value a shape and a dtype, in place.

    inputs: input name -> shape. A free first axis of which nothing is said becomes 1 (the batch), and a named dimension
    has one size everywhere. Without dimensions that are kept free, every shape is static: shape computations are folded
    on the way, and an If with a constant condition becomes its branch. With some, shapes hold their names, see
    `witnesses`. What comes out of operators of other domains may stay open.
    tell: see `bind_inputs`.
    open_sizes: so may what depends on the data, as how much NonZero finds; its rank is known all the same.

    Raises:
        ModelError: a name, rank or size in ``inputs`` does not fit; a dimension stays free; a shape cannot be inferred.
    """
    def infer(copy: ir.Model) -> None:
        _check(copy, _infer_all(copy), open_sizes=open_sizes)

    free = bind_inputs(model, inputs, tell)
    RemoveUnusedNodesPass()(model)
    if free:
        infer_from_witnesses(model, free, infer)
        return
    keep_free(model, {})
    failures = _infer_all(model)
    RemoveUnusedNodesPass()(model)
    _check(model, failures, open_sizes=open_sizes)
    _name_free_axes(model.graph)


def largest_run(model: ir.Model) -> ir.Model:
    """A model under the largest sizes of its free dimensions; itself where it has none."""
    free = free_dimensions(model)
    if not free:
        return model
    largest = specialized(model, witnesses(free)[0])
    fix_shapes(largest, open_sizes=True)
    return largest


def _infer_all(model: ir.Model) -> dict[ir.Node, str]:
    """-> why onnx infers nothing for some nodes."""
    failures: dict[ir.Node, str] = {}
    _sweep(model.graph, model.opset_imports, failures)
    while inline_constant_if(model):
        failures.clear()
        _sweep(model.graph, model.opset_imports, failures)
    return failures


def _sweep(graph: ir.Graph, opsets: Mapping[str, int], failures: dict[ir.Node, str]) -> None:
    """Infer or fold node by node, in order: when a node is reached, everything it reads is as known as it will be."""
    graph.sort()
    for node in list(graph):
        if node.domain != "":
            continue  # onnx has no inference for it; what the file declares stays
        try:
            _visit(node, opsets, failures)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            failures[node] = _reason(error)


def _visit(node: ir.Node, opsets: Mapping[str, int], failures: dict[ir.Node, str]) -> None:
    def sweep(body: ir.Graph) -> None:
        _sweep(body, opsets, failures)

    if node.op_type == "If":
        _infer_if(node, sweep)
        return
    if node.op_type == "Range":
        _scalar_inputs(node)
    for output in node.outputs:
        output.shape = None  # what the file declares may belong to other input shapes
    if node.op_type == "Loop":
        infer_loop(node, sweep)
    elif node.op_type == "Scan":
        infer_scan(node, sweep)
    elif node.op_type not in _CONTROL_FLOW and _types_known(node) and not fold_node(node):
        _infer(node, opsets)
        fold_node(node)  # now that the size of its result is known


def _scalar_inputs(node: ir.Node) -> None:
    """Constants of shape [1] as scalars: engines take either, onnx's inference does not."""
    for index, value in enumerate(node.inputs):
        data = constant(value)
        if value is not None and data is not None and data.shape == (1,) and node.graph is not None:
            node.replace_input_with(index, initializer(node.graph, f"{value.name}_scalar", data.reshape(())))


def _infer_if(node: ir.Node, sweep: Callable[[ir.Graph], None]) -> None:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    for branch in branches:
        sweep(branch)
    for output, *results in zip(node.outputs, *(branch.outputs for branch in branches), strict=True):
        output.shape = results[0].shape if all(result.shape == results[0].shape for result in results) else None
        output.type = results[0].type or output.type


def _types_known(node: ir.Node) -> bool:
    return all(value is None or isinstance(value.type, ir.TensorType) for value in node.inputs)


def _inputs_known(node: ir.Node) -> bool:
    return all(value is None or _known(value) for value in node.inputs)


def _known(value: ir.Value) -> bool:
    return value.dtype is not None and static(value) is not None


def _infer(node: ir.Node, opsets: Mapping[str, int]) -> None:
    """onnx's own inference of one node; the values of small constants take part (target shapes, axes, pads)."""
    if node.op_type in _LIKE_INPUT:
        assert node.inputs[0] is not None
        node.outputs[0].shape, node.outputs[0].type = node.inputs[0].shape, node.inputs[0].type
        return
    if node.op_type == "STFT" and "onesided" not in node.attributes:
        node.attributes["onesided"] = ir.AttrInt64("onesided", 1)  # onnx 1.23 infers two sides where it is left out
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None or value.name is None:
            continue
        types[value.name] = _type(value)
        if value.const_value is not None and not value.is_graph_input() and value.const_value.size <= _SHAPE_LIKE:
            data[value.name] = ir.to_proto(value.const_value)
    schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
    found = onnx.shape_inference.infer_node_outputs(
        schema, ir.to_proto(node), types, data, opset_imports=[onnx.helper.make_opsetid("", opsets[""])])
    for output in node.outputs:
        proto = found.get(str(output.name))
        if proto is not None:
            output.type = ir.serde.deserialize_type_proto_for_type(proto) or output.type
            output.shape = ir.serde.deserialize_type_proto_for_shape(proto)
    if node.outputs[0].shape is None and node.op_type in _RANKS:
        node.outputs[0].shape = ir.Shape([None] * _RANKS[node.op_type])
    _infer_by_value(node)


def _infer_by_value(node: ir.Node) -> None:
    """The size of a result that constant inputs decide: what comes out of zeros is as large as what comes of data."""
    deciding = _DECIDED_BY.get(node.op_type)
    if deciding is None or _known(node.outputs[0]) or not _inputs_known(node):
        return
    feeds = {}
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if index in deciding and constant(value) is None:
            return
        assert value.dtype is not None
        data = constant(value)
        feeds[str(value.name)] = np.zeros(shape(value), value.dtype.numpy()) if data is None else data
    results = evaluate(node, feeds)
    if results is not None:
        for output, result in zip(node.outputs, results, strict=True):
            output.shape = ir.Shape(result.shape)


def _type(value: ir.Value) -> onnx.TypeProto:
    assert value.dtype is not None
    dims = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    return onnx.helper.make_tensor_type_proto(int(value.dtype), dims)


def _reason(error: Exception) -> str:
    """"[ShapeInferenceError] (op_type:Conv, node name: a): text" -> text."""
    lines = str(error).strip().splitlines()
    return lines[0].rsplit("): ", 1)[-1].removeprefix("[ShapeInferenceError] ") if lines else type(error).__name__


def _check(model: ir.Model, failures: Mapping[ir.Node, str], *, open_sizes: bool) -> None:
    """Report the nodes where shapes end, not everything after them."""
    ends = [node for node in model.graph if node.domain == "" and _is_end(node)]
    if open_sizes and all(value.dtype is not None and value.shape is not None for value in model.graph.outputs):
        ends = [node for node in ends if node in failures]
    if not ends:
        return
    lines = [f"  - {node.op_type} '{label(node)}': {_why(node, failures)}" for node in ends[:_SHOWN]]
    if len(ends) > _SHOWN:
        lines.append(f"  and {len(ends) - _SHOWN} more")
    raise ModelError("cannot infer a fixed shape of what these nodes compute:\n" + "\n".join(lines))


def _is_end(node: ir.Node) -> bool:
    return _inputs_known(node) and not all(_known(value) for value in node.outputs if value.name)


def _name_free_axes(graph: ir.Graph) -> None:
    """Every free axis of an output gets a name of its own: equal names would promise equal sizes."""
    for output in graph.outputs:
        if output.shape is not None:
            output.shape = ir.Shape([d if isinstance(d, int) or d.value else f"{output.name}_{axis}"
                                     for axis, d in enumerate(output.shape)])


def _why(node: ir.Node, failures: Mapping[ir.Node, str]) -> str:
    if node.op_type in _DATA_DEPENDENT:
        return "how much it finds depends on the data; cut the model before it and do this step in the application"
    if node.op_type in _CONTROL_FLOW:
        return "what its body is run with, or how often, depends on the data"
    computed = [str(value.name) for value in node.inputs[1:] if value is not None and value.const_value is None]
    if node.op_type in _SHAPED_BY_INPUT and computed:
        return f"its result has a shape computed at run time ({', '.join(computed)})"
    return failures.get(node, "onnx does not infer it")
