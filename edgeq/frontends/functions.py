"""Operators that ONNX defines as functions of other operators: their bodies in the place of their nodes."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass, ShapeInferencePass

from edgeq.graph import all_nodes
from edgeq.ops import RANDOM

Choice = Callable[[ir.Node], bool]
PREVIEW: Final = "ai.onnx.preview"  # operators on trial: none has a kernel, all have bodies
_EXPANDED: Final = "edgeq.expanded"


def expand(model: ir.Model, chosen: Choice) -> set[str]:
    """Replace every chosen node that has a function body by that body, in place -> the operators that were replaced.

        x -> Swish -> y     =>     x -> Sigmoid -> Mul -> y
                                   x --------------^

    Bodies may hold chosen nodes again. A node without a body stays. Some bodies depend on the types of the inputs, so
    the types must be known; onnx's own inference adds those that a body brings.
    """
    done: set[str] = set()
    version = model.opset_imports[""]
    while True:
        # No two engines draw the random numbers of a body alike.
        called = [node for node in all_nodes(model.graph) if chosen(node) and node.op_type not in RANDOM]
        bodies = [(node, body) for node in called if (body := _body(node, version)) is not None]
        if not bodies:
            return done
        for number, (node, body) in enumerate(bodies):
            done.add(node.op_type)
            _call(model, node, body, f"{node.op_type}_{number}", version)
        InlinePass()(model)
        model.opset_imports.pop(_EXPANDED, None)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        ShapeInferencePass(check_type=False, strict_mode=False)(model)


def _body(node: ir.Node, version: int) -> onnx.FunctionProto | None:
    """The function that a node stands for, computing every output that the node has."""
    if node.domain not in ("", PREVIEW):
        return None
    version = version if node.domain == "" else 1
    if not onnx.defs.has(node.op_type, version, node.domain):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)  # onnx's stubs lack what functions have
    _fill_defaults(node, schema)
    text = b""
    if schema.has_function:
        text = schema.get_function_with_opset_version(schema.function_opset_versions[-1])
    elif schema.has_context_dependent_function:
        text = schema.get_context_dependent_function_with_opset_version(
            schema.context_dependent_function_opset_versions[-1], ir.to_proto(node).SerializeToString(),
            [_type_proto(value) for value in node.inputs])
    body = onnx.FunctionProto.FromString(text)
    return body if text and _complete(body, node) else None


def _fill_defaults(node: ir.Node, schema: Any) -> None:
    """A body refers to every attribute by name, also to those that the node leaves at their defaults."""
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.from_proto(attribute.default_value)


def _complete(body: onnx.FunctionProto, node: ir.Node) -> bool:
    """Make the body's outputs fit the node's; False where it does not compute one that is read.

    A body made for one node leaves out what the node leaves out; outputs in between need a stand-in that nobody reads.
    """
    del body.output[len(node.outputs):]
    computed = {name for inner in body.node for name in inner.output}
    for name, output in zip(body.output, node.outputs, strict=True):
        if name in computed:
            continue
        if output.uses() or output.is_graph_output():
            return False
        body.node.append(onnx.helper.make_node("Identity", [body.input[0]], [name]))
    return True


def _type_proto(value: ir.Value | None) -> bytes:
    proto = onnx.TypeProto()
    if value is not None:
        if value.type is not None:
            ir.serde.serialize_type_into(proto, value.type)
        if value.shape is not None:
            ir.serde.serialize_shape_into(proto, value.shape)
    return bytes(proto.SerializeToString())


def _call(model: ir.Model, node: ir.Node, body: onnx.FunctionProto, name: str, version: int) -> None:
    """Turn a node into a call of its own copy of the body, for the inliner."""
    function = ir.from_proto(body)
    assert isinstance(function, ir.Function)
    function.domain, function.name = _EXPANDED, name
    for held in (function.attributes, node.attributes):
        for key in [key for key, value in held.items() if value.type == ir.AttributeType.GRAPH]:
            del held[key]  # the body, made for this node, contains it
    function.opset_imports.clear()
    function.opset_imports[""] = version
    model.opset_imports[_EXPANDED] = 1
    model.functions[function.identifier()] = function
    node.domain, node.op_type, node.overload = function.domain, name, function.overload
