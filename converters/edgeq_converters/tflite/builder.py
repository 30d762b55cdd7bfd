"""What op handlers build with: read a value in a layout, call a kernel, hand back the result.

Layout is a property of a value: it holds its tensor in one or several layouts, each made once. Which ones was chosen
before (layout_assignment.py); a handler asks for its own and may be written as if there were only one. A node runs
either on integers (`integer`: all its data carries int8 grids and an int8 kernel exists) or on float, where its inputs
are dequantized on demand. Handlers are written once for both.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import label, quant, shape
from edgeq.scheme import PerBlock, PerChannel, QuantParams, dequantize
from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.kernels import (
    FIXED_GRIDS,
    FLOAT32,
    INT4,
    INT8,
    INT16,
    KERNELS,
    SHORT,
    Grids,
    dtype_name,
    grid,
)
from edgeq_converters.tflite.layout import Layout, identity, last, moves_nothing, permute, steps, with_new_axes
from edgeq_converters.tflite.layout_form import Form
from edgeq_converters.tflite.program import Operator, Program, Tensor, Value

SMALL_CONSTANT: Final = 256  # elements; larger quantized constants of a float node stay integers behind a DEQUANTIZE
# Casts that lose nothing that a kernel could compute with, in the order tried when a kernel lacks a type.
WIDER: Final = {
    "i8": ("i16", "i32", "f32"), "u8": ("i16", "i32", "f32"), "i16": ("i32", "f32"), "u16": ("i32", "f32"),
    "bool": ("u8", "i8", "i32", "f32"), "u32": ("i64",), "i64": ("i32",), "i32": ("i64",), "f16": ("f32",),
    "f64": ("f32",),
}
INT64, UINT64 = np.dtype(np.int64), np.dtype(np.uint64)
# Kernels that compute the same bits from uint64 as from int64, and those for which the order of the two differs.
BITWISE_SAME: Final = frozenset((
    "ADD", "SUB", "MUL", "SUM", "REDUCE_PROD", "CUMSUM", "EQUAL", "NOT_EQUAL", "SELECT_V2", "TRANSPOSE", "SLICE",
    "STRIDED_SLICE", "PAD", "GATHER", "GATHER_ND", "TILE", "BROADCAST_TO", "REVERSE_V2", "CONCATENATION", "PACK",
    "SPACE_TO_DEPTH", "DEPTH_TO_SPACE",
))
ORDERING: Final = frozenset(("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "MAXIMUM", "MINIMUM", "REDUCE_MAX",
                             "REDUCE_MIN"))
# Into these no activation goes that reads their result, so that another name for it is harmless.
UNFUSED: Final = frozenset(("UNIDIRECTIONAL_SEQUENCE_LSTM",))
DTYPES: Final = {short: np.dtype(name) for name, short in SHORT.items() if name != "int4"}


class NeedsFloat(Exception):
    """Raised by a handler in integer mode: this form of the op has no int8 kernel. The text goes into the report."""


class Builder:
    """The state of one conversion.

    forms: how each node runs that works in several layouts, by the name of its first output. dynamic: float activations
    meeting integer weights may be quantized by the kernel, row by row at run time: several times faster, and no longer
    what the graph says to the last digits. resizable: the operators must be right for other sizes too, see
    resizable.py.
    """

    def __init__(self, forms: Mapping[str, Form], dynamic: bool = False, resizable: bool = False) -> None:
        self.forms, self.dynamic, self.resizable = forms, dynamic, resizable
        self.program = Program()
        self.node = ir.node("Identity", [], name="outputs")  # of what is no node's: an output that is an input
        self.integer = False
        self.producers: dict[Tensor, Operator] = {}
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], Tensor] = {}
        self._names: dict[str, int] = {}
        self._named: set[Tensor] = set()  # after the value that they hold

    # -- the node being lowered ------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the node's first output, in ONNX order."""
        return shape(self.node.outputs[0])

    @property
    def grid(self) -> QuantParams | None:
        """Grid of the node's first output in integer mode, else None."""
        return held_grid(self.node.outputs[0]) if self.integer else None

    def begin(self, node: ir.Node, integer: bool) -> None:
        self.node, self.integer = node, integer

    # -- constants -------------------------------------------------------------------------------
    def array(self, value: Value | None, what: str) -> NDArray[Any]:
        """The numbers of a value that must be known before the model runs: axes, pads, sizes, weights (dequantized)."""
        if value is None or value.data is None:
            raise CannotLower(f"its {what} are computed at run time, and LiteRT's kernels take them as constants")
        return value.data if value.grid is None else dequantize(value.data, value.grid)

    def numbers(self, value: Value | None, what: str) -> list[int]:
        """The same as a flat list of integers."""
        return [int(number) for number in self.array(value, what).ravel()]

    def constant(self, data: NDArray[Any], params: QuantParams | None = None, dtype: np.dtype[Any] | None = None,
                 name: str = "const") -> Tensor:
        """data: reals or the integers of `params`, in the tensor's own order. Equal constants without a grid share a
        tensor."""
        data = np.ascontiguousarray(data).reshape(data.shape)
        if params is not None:
            return Tensor(self._unique(name), data.shape, dtype or data.dtype, params, data)
        key = (data.tobytes(), data.dtype.str, data.shape)
        if data.size > SMALL_CONSTANT:
            return Tensor(self._unique(name), data.shape, data.dtype, None, data)
        if key not in self._constants:
            self._constants[key] = Tensor(self._unique(name), data.shape, data.dtype, None, data)
        return self._constants[key]

    def ints(self, numbers: Sequence[int] | NDArray[Any]) -> Tensor:
        """An int32 constant: the form in which kernels take axes, shapes and pads."""
        return self.constant(np.asarray(numbers, np.int32))

    def value(self, data: NDArray[Any] | float, name: str = "const") -> Value:
        """A constant of our own."""
        data = np.asarray(data, np.float32) if isinstance(data, float) else data
        return Value(name, data.shape, data.dtype, data=data)

    # -- reading ---------------------------------------------------------------------------------
    def read(self, value: Value, layout: Layout | None = None, *, integer: bool | None = None) -> Tensor:
        """The tensor of a value in a layout (default: ONNX order), on its grid in integer mode, else dequantized."""
        wanted = identity(value.rank) if layout is None else layout
        integer = self.integer if integer is None else integer
        if integer and value.grid is None and value.data is not None and value.dtype == FLOAT32:
            value = uniform_on_grid(value, 8 if self.grid is None else self.grid.type.bits)
        if value.grid is not None and not integer:
            return self._real(value, wanted)
        return self._stored(value, wanted)

    def _stored(self, value: Value, layout: Layout) -> Tensor:
        if layout in value.tensors:
            return value.tensors[layout]
        if value.data is not None and value.half:
            tensor = self.widened(self.constant(value.data.transpose(layout).astype(np.float16), name=value.name))
        elif value.data is not None:
            params = value.grid and _moved_axis(value.grid, layout)
            tensor = self.constant(value.data.transpose(layout), params, name=value.name)
        else:
            source, held = self._held(value, layout)
            tensor = self.transpose(held, steps(source, layout))
        value.tensors[layout] = tensor
        return tensor

    def _held(self, value: Value, layout: Layout) -> tuple[Layout, Tensor]:
        """The tensor to transpose from: one that only needs a RESHAPE where there is one, else the first."""
        if not value.tensors and value.pending is not None:
            made, tensor = value.pending()
            value.tensors[made] = tensor
        for held, tensor in value.tensors.items():
            if moves_nothing(tensor.shape, steps(held, layout)):
                return held, tensor
        return next(iter(value.tensors.items()))

    def _real(self, value: Value, layout: Layout) -> Tensor:
        if layout not in value.reals:
            assert value.grid is not None
            if value.data is not None and (value.size <= SMALL_CONSTANT or value.grid.type.bits > 8):
                value.reals[layout] = self.constant(dequantize(value.data, value.grid).transpose(layout))
            elif value.data is not None and isinstance(value.grid.type.granularity, PerBlock):
                value.reals[layout] = self._blocked(value, layout)
            else:
                value.reals[layout] = self.convert(self._stored(value, layout), None)
        return value.reals[layout]

    def _blocked(self, value: Value, layout: Layout) -> Tensor:
        """Weights in blocks -> float: one DEQUANTIZE with a block per row, which every resolver runs right, and a
        RESHAPE."""
        data, params, axis = block_rows(value)
        rows = self.constant(data, params, INT4 if params.type.bits == 4 else INT8, value.name)
        held = last(value.rank, axis)
        return self.transpose(self.reshape(self.convert(rows, None), permute(value.shape, held)), steps(held, layout))

    def aligned(self, value: Value, rank: int) -> Value:
        """The value with axes of size 1 in front, so that it broadcasts in any layout of `rank`."""
        added = rank - value.rank
        if added <= 0:
            return value
        wide = (1,) * added + value.shape
        if value.data is not None:
            grid = value.grid
            if grid is not None and isinstance(grid.type.granularity, PerChannel):
                return Value(value.name, wide, FLOAT32, data=dequantize(value.data, grid).reshape(wide))
            return Value(value.name, wide, value.dtype, grid, value.data.reshape(wide))
        source, held = self._held(value, identity(value.rank))
        layout = with_new_axes(source, range(added), rank)
        return Value(value.name, wide, value.dtype, value.grid,
                     tensors={layout: self.reshape(held, permute(wide, layout))})

    def common_layout(self, *values: Value) -> Layout:
        """The layout in which the node works (see layout_assignment.py), or the one that the first computed operand is
        held in where the operands are an inner part of a larger form."""
        form = self.forms.get(self.node.outputs[0].name or "")
        if form is not None and len(form.works) == values[0].rank:
            return form.works
        return next((self.held_layout(value) for value in values if value.data is None), identity(values[0].rank))

    def held_layout(self, value: Value) -> Layout:
        """A layout that a computed value is held in."""
        return self._held(value, identity(value.rank))[0]

    # -- kernels ---------------------------------------------------------------------------------
    def call(self, kernel: str, inputs: Sequence[Tensor | None], out: Sequence[int], *, dtype: Any = None,
             to: QuantParams | Literal["auto"] | None = "auto", **options: Any) -> Tensor:
        """One operator with one result. out: its shape as stored. to: its grid; "auto" follows the kernel's rule."""
        return self.call_many(kernel, inputs, [out], dtype=dtype, to=to, **options)[0]

    def call_many(self, kernel: str, inputs: Sequence[Tensor | None], outs: Sequence[Sequence[int]], *,
                  dtype: Any = None,
                  to: QuantParams | Literal["auto"] | None = "auto", **options: Any) -> list[Tensor]:
        """One operator with several results of the first data input's type (or `dtype`)."""
        row = KERNELS[kernel]
        positions = range(len(inputs)) if row.data is None else row.data
        data = [tensor for p in positions if (tensor := inputs[p]) is not None]
        name = dtype_name(data[0])
        if name not in row.dtypes | {"q8"}:  # q8 without a kernel is refused with its own reason below
            raise NeedsFloat(f"{kernel} has no int16 kernel") if name == "q16" else CannotLower(
                f"{kernel} does not take {data[0].dtype}")
        grid = self._result_grid(kernel, data[0]) if to == "auto" else to
        if row.grids is Grids.SAME and grid is not None and data[0].grid is not None:
            inputs = [self.convert(t, grid) if p in positions and t is not None else t for p, t in enumerate(inputs)]
        wanted = np.dtype(dtype) if dtype is not None else (data[0].dtype if grid is None else stored_dtype(grid))
        if name == "q16" and kernel in ("ADD", "SUB"):
            options["potScaleInt16"] = False  # the schema's default, powers of two as scales, is an older kernel's
        outputs = [Tensor(self._unique(self._inner_name(kernel)), tuple(out), wanted, grid) for out in outs]
        operator = Operator(kernel, list(inputs), outputs, dict(options), (label(self.node), self.node.op_type))
        self.program.operators.append(operator)
        self.producers.update(dict.fromkeys(outputs, operator))
        return outputs

    def _result_grid(self, kernel: str, data: Tensor) -> QuantParams | None:
        if data.grid is None or data.dtype not in (INT8, INT16):
            return None
        match KERNELS[kernel].grids:
            case Grids.SAME:
                return data.grid
            case Grids.FIXED:
                return FIXED_GRIDS[kernel, data.grid.type.bits]
            case Grids.FREE:
                return self.grid
            case Grids.NONE:
                raise NeedsFloat(f"{kernel} has no int8 kernel")

    def convert(self, tensor: Tensor, to: QuantParams | None) -> Tensor:
        """Quantize, dequantize or requantize, or nothing where the grids agree."""
        if tensor.grid is None:
            return tensor if to is None else self.call("QUANTIZE", [tensor], tensor.shape, to=to)
        if to is None:
            return self.call("DEQUANTIZE", [tensor], tensor.shape, dtype=FLOAT32, to=None)
        return tensor if tensor.grid.same_grid(to) else self.call("QUANTIZE", [tensor], tensor.shape, to=to)

    def stored_as(self, tensor: Tensor, grid: QuantParams) -> Tensor:
        """A tensor on a grid, its integers with the sign that this one says: QUANTIZE shifts uint8 and int8."""
        dtype = stored_dtype(grid)
        if tensor.dtype == dtype:
            return tensor
        return self.call("QUANTIZE", [tensor], tensor.shape, dtype=dtype, to=_plain(grid))

    def widened(self, tensor: Tensor) -> Tensor:
        """float16 -> float32. On a constant DEQUANTIZE runs once, when the model is loaded; XNNPACK takes it away."""
        return self.call("DEQUANTIZE", [tensor], tensor.shape, dtype=FLOAT32, to=None)

    def reshape(self, tensor: Tensor, out: Sequence[int]) -> Tensor:
        made = self.producers.get(tensor)
        if made is not None and made.kernel == "RESHAPE" and made.inputs[0] is not None and (
                source := self.producers.get(made.inputs[0])) is not None and source.kernel in UNFUSED:
            tensor = made.inputs[0]
        if tuple(out) == tensor.shape:
            return tensor
        return self.call("RESHAPE", [tensor, self.ints(out)], out, newShape=list(out))

    def transpose(self, tensor: Tensor, perm: Layout) -> Tensor:
        """TRANSPOSE, or a RESHAPE where only axes of size 1 move, or nothing."""
        out = permute(tensor.shape, perm)
        if perm == identity(tensor.rank):
            return tensor
        if moves_nothing(tensor.shape, perm):
            return self.reshape(tensor, out)
        return self.through("TRANSPOSE", [tensor, self.ints(perm)], out)

    def cast(self, tensor: Tensor, dtype: Any) -> Tensor:
        """The same numbers in another type; integers that do not fit keep their lowest bits."""
        wanted = np.dtype(dtype)
        if tensor.dtype == wanted:
            return tensor
        if tensor.dtype == UINT64 and wanted.kind == "f":
            return self._float_of_uint64(tensor, wanted)
        if tensor.dtype == UINT64:
            return self.cast(self.bits(tensor, INT64), wanted)
        if wanted == UINT64:
            return self.bits(self.cast(tensor, INT64), UINT64)
        return self.call("CAST", [tensor], tensor.shape, dtype=wanted, to=None)

    def _float_of_uint64(self, tensor: Tensor, wanted: np.dtype[Any]) -> Tensor:
        """low + 2 ** 32 * high."""
        pair = self.cast(self.bits(tensor, np.uint32, (*tensor.shape, 2)), FLOAT32)
        weighted = self.call("MUL", [pair, self.constant(np.array([1, 2.0**32], np.float32))], pair.shape)
        total = self.call("SUM", [weighted, self.ints([tensor.rank])], tensor.shape, keepDims=False)
        return self.cast(total, wanted)

    def bits(self, tensor: Tensor, dtype: Any, out: Sequence[int] | None = None) -> Tensor:
        """The same bits as numbers of another type; int64 [..] and uint32 [.., 2] have the same."""
        wanted, shape = np.dtype(dtype), tensor.shape if out is None else tuple(out)
        if tensor.dtype == wanted:
            return tensor
        if tensor.data is not None:
            return self.constant(np.ascontiguousarray(tensor.data).reshape(-1).view(wanted).reshape(shape))
        return self.call("BITCAST", [tensor], shape, dtype=wanted, to=None)

    def through(self, kernel: str, inputs: Sequence[Tensor | None], out: Sequence[int], *, dtype: Any = None,
                to: QuantParams | Literal["auto"] | None = "auto", **options: Any) -> Tensor:
        """`call`, in a wider type where the kernel lacks the operands' one; the result is cast back unless `dtype` is
        given."""
        row = KERNELS[kernel]
        positions = range(len(inputs)) if row.data is None else row.data
        first = inputs[positions[0]]
        assert first is not None
        name = dtype_name(first)
        if name in row.dtypes:
            return self.call(kernel, inputs, out, dtype=dtype, to=to, **options)
        if name in ("q8", "q16"):
            raise NeedsFloat(f"{kernel} has no int{name[1:]} kernel")
        if name == "u64":
            return self._through_int64(kernel, inputs, out, positions, dtype, options)
        wider = next((DTYPES[t] for t in WIDER.get(name, ()) if t in row.dtypes), None)
        if wider is None:
            raise CannotLower(f"{kernel} does not take {first.dtype}")
        cast = [self.cast(t, wider) if p in positions and t is not None else t for p, t in enumerate(inputs)]
        return self.restored(self.call(kernel, cast, out, dtype=dtype, to=to, **options), first, dtype)

    def _through_int64(self, kernel: str, inputs: Sequence[Tensor | None], out: Sequence[int], positions: Sequence[int],
                       dtype: Any, options: dict[str, Any]) -> Tensor:
        """uint64 by its bits: sums and products are the same; for an order the highest bit must be turned."""
        if kernel not in BITWISE_SAME and kernel not in ORDERING:
            raise CannotLower(f"{kernel} does not take uint64")
        flip = self.constant(np.array(np.iinfo(INT64).min, INT64))

        def turned(tensor: Tensor) -> Tensor:
            return self.call("SUB", [tensor, flip], tensor.shape) if kernel in ORDERING else tensor

        seen = [turned(self.bits(t, INT64)) if p in positions and t is not None else t for p, t in enumerate(inputs)]
        made = self.through(kernel, seen, out, dtype=dtype, **options)
        return made if dtype is not None else self.bits(turned(made), UINT64)

    def restored(self, result: Tensor, source: Tensor, dtype: Any) -> Tensor:
        """Undo the widening of `through`, unless the caller asked for a type of its own."""
        return result if dtype is not None else self.cast(result, source.dtype)

    # -- results ---------------------------------------------------------------------------------
    def result(self, tensor: Tensor, layout: Layout | None = None, output: int = 0) -> Value:
        """The node's output, given the tensor that holds it: brought to the grid and type that the graph says."""
        out = self.node.outputs[output]
        wanted = identity(len(shape(out))) if layout is None else layout
        if permute(shape(out), wanted) != tensor.shape:
            raise AssertionError(f"{self.node.op_type} wrote {tensor.shape} for {shape(out)} in layout {wanted}")
        tensor = self.convert(tensor, held_grid(out))
        dtype = np.dtype(out.dtype.numpy()) if out.dtype is not None else tensor.dtype
        if dtype not in DTYPES.values():  # carried by another one, see narrow.py
            dtype = tensor.dtype
        if tensor.grid is None:
            tensor = self.cast(tensor, dtype)
        self._name_after(tensor, out)
        return Value(out.name or "", shape(out), dtype, held_grid(out), tensors={wanted: tensor}, shared=is_shared(out))

    def _name_after(self, tensor: Tensor, value: ir.Value) -> None:
        """The tensor that first holds a value bears its name, so that users and the layer-by-layer check find it."""
        if tensor in self.producers and tensor not in self._named and value.name:
            self._named.add(tensor)
            tensor.name = value.name

    def later(self, make: Callable[[], tuple[Layout, Tensor]],
              scrambled: tuple[Callable[[], Tensor], NDArray[np.intp]]) -> Value:
        """The node's output, made when somebody reads it in ONNX order; see Value.scrambled."""
        out = self.node.outputs[0]
        dtype = np.dtype(out.dtype.numpy()) if out.dtype is not None else FLOAT32
        return Value(out.name or "", shape(out), dtype, held_grid(out), pending=make, scrambled=scrambled, shared=True)

    def known(self, data: NDArray[Any], output: int = 0) -> Value:
        """The node's output, when it can be computed now."""
        out = self.node.outputs[output]
        return Value(out.name or "", shape(out), data.dtype, data=np.ascontiguousarray(data).reshape(shape(out)))

    def holds_another(self, tensor: Tensor) -> None:
        """What was fused into its kernel made another value of it, whose name it bears from then on."""
        self._named.discard(tensor)

    def renamed(self, value: Value, tensors: dict[Layout, Tensor]) -> Value:
        """The node's output as another view of the same tensors, on the same grid."""
        out = self.node.outputs[0]
        return Value(out.name or "", shape(out), value.dtype, value.grid, tensors=tensors, shared=True)

    def _inner_name(self, kernel: str) -> str:
        """The name of a tensor that holds no value of the graph: no value has one like it."""
        return f"{self.node.outputs[0].name}/{kernel.lower()}" if hasattr(self, "node") else kernel.lower()

    def _unique(self, name: str) -> str:
        """Names need not be unique for the runtime, but they are for its users."""
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}_{count}" if count else name


def held_grid(value: ir.Value) -> QuantParams | None:
    """A value's grid as the kernels store it: int8, or int16 around 0. On another one a computed value stays float."""
    params = quant(value)
    if params is None or (value.const_value is None and not has_kernels(params)):
        return None
    return _plain(params.as_signed())


def has_kernels(grid: QuantParams) -> bool:
    """Whether kernels compute activations on a grid."""
    return grid.type.bits == 8 or (grid.type.bits == 16 and not grid.as_signed().zero_point.any())


def _plain(grid: QuantParams) -> QuantParams:
    """Symmetric or not says how a quantizer chose a grid; for equality of activations' grids only the numbers count."""
    return replace(grid, type=replace(grid.type, symmetric=False)) if grid.type.bits in (8, 16) else grid


def stored_dtype(grid: QuantParams) -> np.dtype[Any]:
    """Of the integers of a grid of 8 or 16 bits in the file."""
    return np.dtype(f"{'' if grid.type.signed else 'u'}int{grid.type.bits}")


def is_shared(value: ir.Value) -> bool:
    return value.is_graph_output() or len(list(value.uses())) != 1


def uniform_on_grid(value: Value, bits: int = 8) -> Value:
    """A float constant whose elements are all equal, on a grid of 8 or 16 bits that holds that number exactly.

    Raises:
        NeedsFloat: the elements differ, so a grid would round them.
    """
    assert value.data is not None
    first = float(value.data.flat[0]) if value.data.size else 0.0
    if not value.data.size or not np.isfinite(first) or not np.all(value.data == first):
        raise NeedsFloat(f"its constant '{value.name}' carries no grid")
    largest = 2 ** (bits - 1) - 1
    on = grid(abs(first) / largest if first else 1.0, bits=bits)
    stored = np.full(value.shape, largest * np.sign(first), stored_dtype(on))
    return replace(value, grid=on, data=stored, tensors={}, reals={})


def block_rows(value: Value) -> tuple[NDArray[Any], QuantParams, int]:
    """Weights in blocks along one axis -> (integers [blocks, size], their grid per row, that axis).

    Raises:
        CannotLower: the last block is not full.
    """
    assert value.data is not None
    assert value.grid is not None
    granularity = value.grid.type.granularity
    assert isinstance(granularity, PerBlock)
    axis = granularity.axis % value.rank
    if value.shape[axis] % granularity.size:
        raise CannotLower(f"weights in blocks of {granularity.size} along an axis of {value.shape[axis]}")
    kind = replace(value.grid.type, granularity=PerChannel(0))
    scale = np.moveaxis(value.grid.scale, axis, -1).reshape(-1)
    zero_point = np.moveaxis(value.grid.zero_point, axis, -1).reshape(-1)
    return np.moveaxis(value.data, axis, -1).reshape(-1, granularity.size), QuantParams(kind, scale, zero_point), axis


def _moved_axis(params: QuantParams, layout: Layout) -> QuantParams:
    """The same grid for the transposed constant."""
    granularity = params.type.granularity
    if not isinstance(granularity, PerChannel):
        return params
    axis = layout.index(granularity.axis % len(layout))
    return replace(params, type=replace(params.type, granularity=PerChannel(axis)))
