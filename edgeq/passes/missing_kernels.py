"""Forms for which onnxruntime, the reference of every check, has no kernel, in others that mean the same."""
from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from edgeq.passes.rewrite import nodes_of, replace

_T: Final = ir.DataType
# No kernel: https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md
_WIDER: Final[Mapping[str, Mapping[ir.DataType, ir.DataType]]] = MappingProxyType({
    **dict.fromkeys(("Max", "Min"), MappingProxyType({_T.INT16: _T.INT32, _T.UINT16: _T.INT32})),
    "BitShift": MappingProxyType({_T.UINT16: _T.UINT32}),
})


def wide_integers(model: ir.Model) -> int:
    """Operators without a kernel for a narrow integer type compute in a wider one -> how many.

        x int16 -> Max -> y     =>     x -> Cast(int32) -> Max -> Cast(int16) -> y

    Pow with an unsigned exponent takes it in the type of its base.
    """
    return sum(_widen(node) for node in nodes_of(model, *_WIDER)) + sum(_power(node) for node in nodes_of(model, "Pow"))


def _widen(node: ir.Node) -> bool:
    kind = node.outputs[0].dtype
    wider = _WIDER[node.op_type].get(kind) if kind is not None else None
    if wider is None or kind is None or node.graph is None:
        return False
    inputs = [_cast(node, index, wider) for index in range(len(node.inputs))]
    inner = ir.node(node.op_type, inputs, name=f"{node.name}_wide")
    for given in node.attributes.values():
        inner.attributes[given.name] = given
    value = inner.outputs[0]
    value.name, value.shape, value.type = inner.name, node.outputs[0].shape, ir.TensorType(wider)
    node.graph.insert_before(node, inner)
    replace(node, "Cast", [value], to=int(kind))
    return True


def whole_indices(model: ir.Model) -> int:
    """The indices of a OneHot that are no integers become some -> how many.

        x float -> OneHot -> y     =>     x -> Cast(int64) -> OneHot -> y

    So the standard has it: https://onnx.ai/onnx/operators/onnx__OneHot.html. onnxruntime compared floats before 1.32.
    """
    count = 0
    for node in nodes_of(model, "OneHot"):
        indices = node.inputs[0]
        if indices is not None and indices.dtype is not None and not indices.dtype.is_integer():
            node.replace_input_with(0, _cast(node, 0, _T.INT64))
            count += 1
    return count


def _power(node: ir.Node) -> bool:
    base, exponent = node.inputs[0], node.inputs[1]
    if base is None or exponent is None or base.dtype not in (_T.FLOAT, _T.DOUBLE):
        return False
    if exponent.dtype not in (_T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64):
        return False
    node.replace_input_with(1, _cast(node, 1, base.dtype))
    return True


def _cast(node: ir.Node, index: int, to: ir.DataType) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    assert node.graph is not None
    made = ir.node("Cast", [value], attributes={"to": int(to)}, name=f"{node.name}_{index}_cast")
    made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = made.name, value.shape, ir.TensorType(to)
    node.graph.insert_before(node, made)
    return made.outputs[0]
