"""What came after opset 21: operators that are functions are expanded, attributes with the old meaning are dropped."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass

from edgeq.frontends.upgrades import CannotAdapt, Step
from edgeq.graph import attribute


def _only_default(name: str, default: Any) -> Callable[[ir.Node], None]:
    def adapt(node: ir.Node) -> None:
        if attribute(node, name, default) != default:
            raise CannotAdapt(f"{name}={attribute(node, name)!r} has no equivalent")
        node.attributes.pop(name, None)
    return adapt


DOWNGRADES: Final[tuple[Step, ...]] = (
    Step("Cast", 24, _only_default("round_mode", "up")),
    Step("CastLike", 24, _only_default("round_mode", "up")),
    Step("DequantizeLinear", 23, _only_default("output_dtype", 0)),
    Step("QuantizeLinear", 23, _only_default("precision", 0)),
    Step("Range", 27, _only_default("stash_type", 1)),
    Step("SpaceToDepth", 28, _only_default("mode", "DCR")),
)


def expand_functions(model: ir.Model, version: int) -> None:
    """Replace every node whose operator came after ``version`` by the function body that ONNX gives for it, in place.

        x -> Swish -> y     =>     x -> Sigmoid -> Mul -> y
                                   x --------------^

    An operator without a body stays, and is refused with the others that opset ``version`` does not have.
    """
    given = model.opset_imports[""]
    if not any(_is_new(node, version) for node in ir.traversal.RecursiveGraphIterator(model.graph)):
        return
    ShapeInferencePass(check_type=False, strict_mode=False)(model)  # some bodies depend on the types of the inputs
    while True:
        called = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _is_new(node, version)]
        bodies = [(node, _body(node, given)) for node in called]
        for number, (node, body) in enumerate(bodies):
            if body is not None:
                _call(model, node, body, f"{node.op_type}_{number}", given)
        if all(body is None for _, body in bodies):
            return
        InlinePass()(model)


def _is_new(node: ir.Node, version: int) -> bool:
    return node.domain == "" and not onnx.defs.has(node.op_type, version, "")


def _body(node: ir.Node, version: int) -> onnx.FunctionProto | None:
    if not onnx.defs.has(node.op_type, version, ""):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")  # onnx's stubs lack the members of functions
    text = b""
    if schema.has_function:
        text = schema.get_function_with_opset_version(schema.function_opset_versions[-1])
    elif schema.has_context_dependent_function:
        types = [_type_proto(value) for value in node.inputs]
        text = schema.get_context_dependent_function_with_opset_version(
            schema.context_dependent_function_opset_versions[-1], ir.to_proto(node).SerializeToString(), types)
    body = onnx.FunctionProto.FromString(text)
    del body.output[len(node.outputs):]  # a body made for one node does not compute the outputs that the node lacks
    computed = {name for inner in body.node for name in inner.output}
    return body if text and computed.issuperset(body.output) else None


def _type_proto(value: ir.Value | None) -> bytes:
    proto = onnx.TypeProto()
    if value is not None:
        if value.type is not None:
            ir.serde.serialize_type_into(proto, value.type)
        if value.shape is not None:
            ir.serde.serialize_shape_into(proto, value.shape)
    return proto.SerializeToString()


def _call(model: ir.Model, node: ir.Node, body: onnx.FunctionProto, name: str, version: int) -> None:
    """Turn a node into a call of its own copy of the body, for the inliner."""
    function = ir.from_proto(body)
    assert isinstance(function, ir.Function)
    function.domain, function.name = "edgeq.expanded", name
    function.opset_imports.clear()
    function.opset_imports[""] = version
    model.opset_imports["edgeq.expanded"] = 1
    model.functions[function.identifier()] = function
    node.domain, node.op_type, node.overload = function.domain, name, function.overload
