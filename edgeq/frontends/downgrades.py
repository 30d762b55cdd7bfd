"""What came after opset 21: operators that are functions are expanded, the others are written in older ones."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgeq.frontends.functions import PREVIEW, expand
from edgeq.frontends.upgrades import CannotAdapt, Step
from edgeq.graph import all_nodes, attribute, static

_T: Final = ir.DataType
_INTEGER_BITS: Final = {
    _T.BOOL: 8, _T.INT8: 8, _T.UINT8: 8, _T.INT16: 16, _T.UINT16: 16, _T.INT32: 32, _T.UINT32: 32, _T.INT64: 64,
    _T.UINT64: 64,
}


def expand_functions(model: ir.Model, version: int) -> None:
    """Replace every node that opset ``version`` does not have, or not for these types, by its function body, in place.

    An operator without a body stays, and is adapted by the rows below or refused with the others.
    """
    # Which forms are allowed depends on the types, and so do some bodies.
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    expand(model, lambda node: _is_new(node, version))
    if not any(node.domain == PREVIEW for node in all_nodes(model.graph)):
        model.opset_imports.pop(PREVIEW, None)


def _is_new(node: ir.Node, version: int) -> bool:
    if node.domain == PREVIEW:
        return True
    return node.domain == "" and (not onnx.defs.has(node.op_type, version, "") or not _takes_types(node, version))


def _takes_types(node: ir.Node, version: int) -> bool:
    schema = onnx.defs.get_schema(node.op_type, version, "")
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    for value, formal in zip(node.inputs, schema.inputs, strict=False):
        if value is not None and isinstance(value.type, ir.TensorType):
            name = f"tensor({onnx.TensorProto.DataType.Name(int(value.type.dtype)).lower()})"
            if formal.type_str in allowed and name not in allowed[formal.type_str]:
                return False
    return True


def _only_default(name: str, default: Any) -> Callable[[ir.Node], None]:
    def adapt(node: ir.Node) -> None:
        if attribute(node, name, default) != default:
            raise CannotAdapt(f"{name}={attribute(node, name)!r} has no equivalent")
        node.attributes.pop(name, None)
    return adapt


class Writer:
    """Nodes in front of one that they are to replace. Types and shapes are inferred when all of the model is done."""

    def __init__(self, node: ir.Node):
        assert node.graph is not None
        self.node, self.graph = node, node.graph

    def __call__(self, op: str, *inputs: ir.Value | None, dtype: ir.DataType | None = None, **attributes: Any
                 ) -> ir.Value:
        made = ir.node(op, inputs, attributes=attributes or None)
        self.graph.insert_before(self.node, made)
        if dtype is not None:
            made.outputs[0].type = ir.TensorType(dtype)
        return made.outputs[0]

    def constant(self, data: Any, dtype: Any = np.int64) -> ir.Value:
        return self("Constant", value=ir.tensor(np.asarray(data, dtype)))

    def cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        return self("Cast", value, dtype=to, to=int(to))

    def finish(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> None:
        """The last node takes the place of the one that is replaced: it is that node, under another operator."""
        node = self.node
        node.op_type = op
        node.attributes.clear()
        for name, value in attributes.items():
            node.attributes[name] = ir.convenience.convert_attribute(name, value)
        node.resize_inputs(len(inputs))
        for index, given in enumerate(inputs):
            node.replace_input_with(index, given)


def _data(node: ir.Node) -> tuple[ir.Value, ir.DataType, tuple[int, ...]]:
    """The first input, its dtype and its shape."""
    value, shape = node.inputs[0], static(node.inputs[0])
    if value is None or value.dtype is None or shape is None:
        raise CannotAdapt("the shape or type of its input is not known; fix the shapes with --input")
    return value, value.dtype, shape


def _constant_of(node: ir.Node, index: int) -> np.ndarray[Any, Any] | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return None
    if value.const_value is None:
        raise CannotAdapt(f"its input '{value.name}' is computed")
    return value.const_value.numpy()


def _cum_prod(node: ir.Node) -> None:
    """Running products by doubling: after step k every element holds the product of the 2^k before it and itself.

        y = x;  y = y * shifted(y, 1);  y = y * shifted(y, 2);  y = y * shifted(y, 4); ...   with ones shifted in

    Hillis and Steele, Data parallel algorithms, https://doi.org/10.1145/7902.7903
    """
    value, dtype, shape = _data(node)
    axis_data = _constant_of(node, 1)
    assert axis_data is not None
    axis = int(axis_data.reshape(())) % len(shape)
    size, backwards = shape[axis], bool(attribute(node, "reverse", 0))
    exclusive = bool(attribute(node, "exclusive", 0))
    write = Writer(node)

    def shifted(of: ir.Value, by: int) -> ir.Value:
        ones = write.constant(np.ones([by if k == axis else d for k, d in enumerate(shape)]), dtype.numpy())
        begin, end = (by, size) if backwards else (0, size - by)
        kept = write("Slice", of, write.constant([begin]), write.constant([end]), write.constant([axis]))
        return write("Concat", *((kept, ones) if backwards else (ones, kept)), axis=axis)

    value = shifted(value, 1) if exclusive else value
    step = 1
    while step < size:
        value = write("Mul", value, shifted(value, step))
        step *= 2
    write.finish("Identity", value)


def _bit_cast(node: ir.Node) -> None:
    """Integers of one width have the same bits; a Cast between them keeps them."""
    value, to = node.inputs[0], _T(attribute(node, "to"))
    source = None if value is None else value.dtype
    if source not in _INTEGER_BITS or to not in _INTEGER_BITS or _INTEGER_BITS[source] != _INTEGER_BITS[to]:
        raise CannotAdapt(f"opset 21 has no way to read the bits of {source} as {to}")
    Writer(node).finish("Cast", value, to=int(to))


def _tensor_scatter(node: ir.Node) -> None:
    """past [B,..,S,..], update [B,..,s,..] at axis, indices [B]   =>   ScatterElements along that axis."""
    past, _, shape = _data(node)
    update, sizes = node.inputs[1], static(node.inputs[1])
    if update is None or sizes is None:
        raise CannotAdapt("the shape of its update is not known; fix the shapes with --input")
    axis = int(attribute(node, "axis", -2)) % len(shape)
    write = Writer(node)
    along = [-1 if k == axis else 1 for k in range(len(shape))]
    positions = write.constant(np.arange(sizes[axis]).reshape(along))
    start = node.inputs[2] if len(node.inputs) > 2 else None
    if start is not None:
        per_sample = write("Reshape", start, write.constant([-1] + [1] * (len(shape) - 1)))
        positions = write("Add", positions, per_sample)
    if attribute(node, "mode", "linear") == "circular":
        positions = write("Mod", positions, write.constant(shape[axis]))
    everywhere = write("Expand", positions, write.constant(sizes))
    write.finish("ScatterElements", past, everywhere, update, axis=axis)


def _modulo(node: ir.Node) -> None:
    """Of floats, since opset 28 with the sign of the divisor too: fmod, plus the divisor where the signs differ."""
    if attribute(node, "fmod", 0) or node.inputs[0] is None or node.inputs[0].dtype not in (
            _T.FLOAT, _T.FLOAT16, _T.DOUBLE):
        return
    x, divisor, dtype = node.inputs[0], node.inputs[1], node.inputs[0].dtype
    write = Writer(node)
    zero = write.constant(0, dtype.numpy())
    rest = write("Mod", x, divisor, fmod=1)
    differs = write("Xor", write("Less", rest, zero), write("Less", divisor, zero))
    wrong = write("And", differs, write("Not", write("Equal", rest, zero)))
    write.finish("Where", wrong, write("Add", rest, divisor), rest)


def _space_to_depth(node: ir.Node) -> None:
    """mode CRD: [N,C,H,W] -> [N,C,H/b,b,W/b,b] -> [N,C,b,b,H/b,W/b] -> [N,C*b*b,H/b,W/b]."""
    if attribute(node, "mode", "DCR") != "CRD":
        node.attributes.pop("mode", None)
        return
    value, _, (n, c, h, w) = _data(node)
    b = int(attribute(node, "blocksize"))
    write = Writer(node)
    split = write("Reshape", value, write.constant([n, c, h // b, b, w // b, b]))
    blocks = write("Transpose", split, perm=[0, 1, 3, 5, 2, 4])
    write.finish("Reshape", blocks, write.constant([n, c * b * b, h // b, w // b]))


def _bit_shift(node: ir.Node) -> None:
    """Of signed integers, since opset 28: left as a product with a power of two, right as a division that rounds down.

    A shift by the width or more, or by a negative number, leaves only the sign.
    """
    x, by = node.inputs[:2]
    bits = _INTEGER_BITS.get(x.dtype) if x is not None and x.dtype is not None else None
    if x is None or by is None or x.dtype is None or bits is None or not x.dtype.is_signed():
        return
    write, dtype = Writer(node), x.dtype
    wide = _T.INT64 if bits == 64 else _T.INT32  # products wrap around, as the bits do
    size, kind = wide.bitwidth, wide.numpy()
    right = attribute(node, "direction") == "RIGHT"
    # A power that the sign bit holds is no divisor; what is left of a shift to the right by so much is the sign anyway.
    top = min(bits, size - 1) if right else bits
    powers = write.constant(np.left_shift(np.ones(top, kind), np.arange(top, dtype=kind)), kind)
    value, amount = write.cast(x, wide), write.cast(by, wide)
    inside = write("And", write("GreaterOrEqual", amount, write.constant(0, kind)),
                   write("Less", amount, write.constant(top, kind)))
    power = write("Gather", powers, write("Where", inside, amount, write.constant(0, kind)), axis=0)
    if right:
        moved = write("Div", write("Sub", value, write("Mod", value, power)), power)
        negative = write("Less", value, write.constant(0, kind))
        outside = write("Where", negative, write.constant(-1, kind), write.constant(0, kind))
    else:
        moved, outside = write("Mul", value, power), write.constant(0, kind)
    write.finish("Cast", write("Where", inside, moved, outside), to=int(dtype))


DOWNGRADES: Final[tuple[Step, ...]] = (
    Step("Cast", 24, _only_default("round_mode", "up")),
    Step("CastLike", 24, _only_default("round_mode", "up")),
    Step("DequantizeLinear", 23, _only_default("output_dtype", 0)),
    Step("QuantizeLinear", 23, _only_default("precision", 0)),
    Step("TensorScatter", 24, _tensor_scatter),
    Step("CumProd", 26, _cum_prod),
    Step("BitCast", 26, _bit_cast),
    Step("Range", 27, _only_default("stash_type", 1)),
    Step("SpaceToDepth", 28, _space_to_depth),
    Step("Mod", 28, _modulo),
    Step("BitShift", 28, _bit_shift),
)
