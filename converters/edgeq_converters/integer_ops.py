"""Number formats and integer arithmetic written in float operators, where no grid of a value can stand for them."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.frontends.downgrades import Writer
from edgeq.graph import attribute, constant, is_constant, static
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of

_T: Final = ir.DataType
_EXACT: Final = 2**24  # integers up to here are exact in float32
# Significant bits (with the hidden one), exponent of the smallest normal number, largest number; infinity exists.
_FLOATS: Final[Mapping[ir.DataType, tuple[int, int, float, bool]]] = MappingProxyType({
    _T.BFLOAT16: (8, -126, 3.3895313892515355e38, True),
    _T.FLOAT8E4M3FN: (4, -6, 448.0, False),
    _T.FLOAT8E4M3FNUZ: (4, -7, 240.0, False),
    _T.FLOAT8E5M2: (3, -14, 57344.0, True),
    _T.FLOAT8E5M2FNUZ: (3, -15, 57344.0, False),
})
_HALF: Final = 16
# The largest product of two numbers of 8 bits less a zero point: whole, of one and a half, of two halves.
_LARGEST: Final = (255 * 255, 255 * _HALF, _HALF * _HALF)
_PACKED: Final = frozenset({_T.INT4, _T.UINT4})


def plain_numbers(model: ir.Model, handled: Collection[str] = ()) -> int:
    """Write in float operators what neither a grid nor a type of an engine expresses, in place -> how many nodes.

        q (an input) -> DQ(s, z) -> y     =>     q -> Cast(float) -> Sub(z) -> Mul(s) -> y
        x -> Q(s, z) -> q (an output)     =>     x -> Div(s) -> Round -> Add(z) -> Clip -> Cast -> q

    handled: the ops that the engine has; long products of integers are left to it then.
    Pairs of QuantizeLinear and DequantizeLinear, and weights behind a DequantizeLinear, stay: those are grids.
    """
    count = sum(_narrow_input(node) for node in list(model.graph) if node.op_type == "Cast")
    count += sum(_round_trip(node) for node in list(model.graph) if node.op_type == "Cast")
    count += sum(_quantize(node) for node in list(model.graph) if node.op_type == QUANTIZE and not _is_pair(node))
    count += sum(_dequantize(node) for node in list(model.graph) if node.op_type == DEQUANTIZE and not _is_grid(node))
    return count + sum(_integer_product(node, handled) for node in list(model.graph) if node.op_type in _PRODUCTS)


def _narrow_input(node: ir.Node) -> bool:
    """An input of packed integers, given as int8, holds four bits, as the source model promises: nothing is cut."""
    value, narrow = node.inputs[0], node.outputs[0]
    if value is None or not value.is_graph_input() or narrow.is_graph_output():
        return False
    if narrow.dtype not in _PACKED or value.dtype not in (_T.INT8, _T.UINT8):
        return False
    narrow.replace_all_uses_with(value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True


def _round_trip(node: ir.Node) -> bool:
    """x -> Cast(float8) -> Cast(T) -> y: x rounded to the narrow format, as T."""
    value, narrow = node.inputs[0], node.outputs[0]
    kind = _FLOATS.get(_T(attribute(node, "to")))
    readers = [use.node for use in narrow.uses()]
    if kind is None or value is None or not readers or narrow.is_graph_output() or any(
            reader.op_type != "Cast" for reader in readers):
        return False
    write = Writer(node)
    rounded = _rounded(write, write.cast(value, _T.FLOAT), kind, saturate=bool(attribute(node, "saturate", 1)),
                       narrow=_T(attribute(node, "to")))
    for reader in readers:
        reader.replace_input_with(0, rounded)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True


def _rounded(write: Writer, x: ir.Value, kind: tuple[int, int, float, bool], *, saturate: bool, narrow: ir.DataType,
             ) -> ir.Value:
    """x rounded to a float format of few bits, ties to even.

    Normal numbers by Veltkamp's splitting (T. J. Dekker, A floating-point technique for extending the available
    precision, https://doi.org/10.1007/BF01397083), subnormal ones by adding and subtracting a number whose last bit is
    theirs.
    """
    bits, exponent, largest, infinite = kind

    def number(value: float) -> ir.Value:
        return write.constant(value, np.float32)

    inside = write("Clip", x, number(-2.0 * largest if narrow != _T.BFLOAT16 else -largest),
                   number(2.0 * largest if narrow != _T.BFLOAT16 else largest))
    if narrow == _T.BFLOAT16:  # its exponents are those of float32: a scale keeps the product finite
        inside = write("Mul", inside, number(2.0**-20))
    scaled = write("Mul", inside, number(2.0**(24 - bits) + 1))
    normal = write("Sub", scaled, write("Sub", scaled, inside))
    if narrow == _T.BFLOAT16:
        normal = write("Mul", normal, number(2.0**20))
        return write("Where", write("IsNaN", x), x, write("Where", write("IsInf", x), x, normal))
    magic = number(1.5 * 2.0**(23 + exponent - bits + 1))
    tiny = write("Sub", write("Add", inside, magic), magic)
    result = write("Where", write("Less", write("Abs", x), number(2.0**exponent)), tiny, normal)
    beyond = number(largest)
    over, size = write("Greater", write("Abs", result), beyond), write("Abs", x)
    sign = write("Where", write("Less", x, number(0.0)), number(-1.0), number(1.0))
    if saturate:
        limit = write("Mul", sign, beyond)
    else:
        limit = write("Mul", sign, number(np.inf)) if infinite else number(np.nan)
    result = write("Where", over, limit, result)
    if not saturate and not infinite:
        result = write("Where", write("Equal", size, number(np.inf)), number(np.nan), result)
    return write("Where", write("IsNaN", x), x, result)


def _is_pair(node: ir.Node) -> bool:
    """True for a QuantizeLinear whose integers only DequantizeLinear nodes of the same grid read."""
    grid, stored = grid_of(node), node.outputs[0]
    readers = [use.node for use in stored.uses()]
    return grid is not None and not stored.is_graph_output() and all(
        reader.op_type == DEQUANTIZE and grid.same_grid(grid_of(reader)) for reader in readers)


def _is_grid(node: ir.Node) -> bool:
    """True for a DequantizeLinear of weights, or of what a QuantizeLinear wrote."""
    stored = node.inputs[0]
    producer = stored.producer() if stored is not None else None
    return grid_of(node) is not None and (is_constant(stored) or (
        producer is not None and producer.op_type == QUANTIZE))


def _quantize(node: ir.Node) -> bool:
    x, stored = node.inputs[0], node.outputs[0]
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    kind = zero_point.dtype if zero_point is not None else _T(attribute(node, "output_dtype", 0) or int(_T.UINT8))
    write = Writer(node)
    scale, zero = _spread(write, node, node.inputs[1]), _spread(write, node, zero_point)
    if x is None or scale is None or kind is None or (zero_point is not None and zero is None):
        return False
    ratio = write("Div", write.cast(x, _T.FLOAT), scale)
    if kind in _FLOATS:
        write.finish("Identity", _rounded(write, ratio, _FLOATS[kind], saturate=bool(attribute(node, "saturate", 1)),
                                          narrow=kind))
        stored.type = ir.TensorType(_T.FLOAT)
        _drop_casts(stored)
        return True
    low, high = kind.min, kind.max
    rounded = write("Round", ratio)
    shifted = write("Add", rounded, zero) if zero is not None else rounded
    clipped = write("Clip", shifted, write.constant(low, np.float32), write.constant(high, np.float32))
    wide = {_T.INT4: _T.INT8, _T.UINT4: _T.UINT8}.get(kind, kind)
    write.finish("Cast", clipped, to=int(wide))
    stored.type = ir.TensorType(wide)
    if wide != kind:
        _drop_casts(stored)
    return True


def _drop_casts(stored: ir.Value) -> None:
    """The Cast that widened a narrow output has nothing left to do; it stays as one to the same type."""
    stored.shape = None


def _dequantize(node: ir.Node) -> bool:
    stored, real = node.inputs[0], node.outputs[0]
    if stored is None:
        return False
    write = Writer(node)
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    scale, zero = _spread(write, node, node.inputs[1]), _spread(write, node, zero_point)
    if scale is None or (zero_point is not None and zero is None):
        return False
    number = write.cast(stored, _T.FLOAT)
    if zero is not None:
        number = write("Sub", number, zero)
    assert node.inputs[1] is not None
    out = node.inputs[1].dtype or _T.FLOAT
    write.finish("Cast", write("Mul", number, scale), to=int(out))
    real.type = ir.TensorType(out)
    return True


def _spread(write: Writer, node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """A scale or zero point as float32 that broadcasts against the data; None where it is absent or cannot."""
    if value is None:
        return None
    data, x = constant(value), node.inputs[0]
    if data is None:
        return write.cast(value, _T.FLOAT) if value.shape is not None and len(value.shape) == 0 else None
    numbers, shape = data.astype(np.float32), static(x)
    if shape is None:
        return write.constant(numbers, np.float32) if numbers.ndim == 0 else None
    return write.constant(_aligned(numbers, shape, int(attribute(node, "axis", 1)),
                                   int(attribute(node, "block_size", 0))), np.float32)


def _aligned(numbers: NDArray[Any], shape: tuple[int, ...], axis: int, block: int) -> NDArray[Any]:
    if numbers.size == 1:
        return numbers.reshape(())
    axis %= len(shape)
    if block:
        return np.repeat(numbers, block, axis)[tuple(slice(0, d) for d in shape)]
    return numbers.reshape([-1 if k == axis else 1 for k in range(len(shape))])


_PRODUCTS: Final = frozenset({"MatMulInteger", "ConvInteger"})


def _integer_product(node: ir.Node, handled: Collection[str]) -> bool:
    """MatMulInteger or ConvInteger as the float operator, where every sum is exact in float32; a longer one in parts.

        a @ b     =>     a @ low + 16 * (a @ high), with b = low + 16 * high
    """
    a, b = node.inputs[:2]
    shape = static(b)
    if a is None or b is None or shape is None:
        return False
    terms = shape[-2] if node.op_type == "MatMulInteger" and len(shape) > 1 else int(np.prod(shape[1:]))
    split = next((number for number, largest in enumerate(_LARGEST) if terms * largest < _EXACT), None)
    if split is None or (split and node.op_type in handled):
        return False
    if any(value is not None and constant(value) is None and value.shape not in (ir.Shape(()), ir.Shape((1,)))
           for value in node.inputs[2:4]):
        return False
    write = Writer(node)
    factors = []
    for number, value in enumerate((a, b)):
        given = node.inputs[2 + number] if len(node.inputs) > 2 + number else None
        real = write.cast(value, _T.FLOAT)
        if given is not None:
            zero = constant(given)
            real = write("Sub", real, write.cast(given, _T.FLOAT) if zero is None else write.constant(
                _zero_points(node, zero, number, shape), np.float32))
        factors.append(real)
    attributes = {name: given.value for name, given in node.attributes.items()}
    op = "MatMul" if node.op_type == "MatMulInteger" else "Conv"
    first = _halves(write, factors[0]) if split > 1 else [factors[0]]
    second = _halves(write, factors[1]) if split else [factors[1]]
    total: ir.Value | None = None
    for i, left in enumerate(first):
        for j, right in enumerate(second):
            part = write.cast(write("Round", write(op, left, right, **attributes)), _T.INT32)
            if i + j:
                part = write("Mul", part, write.constant(_HALF ** (i + j), np.int32))
            total = part if total is None else write("Add", total, part)
    write.finish("Identity", total)
    return True


def _halves(write: Writer, number: ir.Value) -> list[ir.Value]:
    """Integers from -255 to 255 as [low, high]: low from 0 to 15, high from -16 to 15, number = low + 16 * high."""
    half = write.constant(_HALF, np.float32)
    high = write("Floor", write("Div", number, half))
    return [write("Sub", number, write("Mul", high, half)), high]


def _zero_points(node: ir.Node, zero: NDArray[Any], number: int, shape: Sequence[int]) -> NDArray[Any]:
    """One for the tensor; or one per row of A, per column of B, per output channel of a convolution's weights."""
    if zero.size == 1:
        return zero.reshape(())
    if node.op_type == "ConvInteger":
        return zero.reshape([-1] + [1] * (len(shape) - 1))
    return zero.reshape(-1, 1) if number == 0 and zero.ndim == 1 else zero
