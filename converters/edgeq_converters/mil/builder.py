"""What op handlers write a program with, whoever runs it: operands, constants, casts, and ops by the names of MIL.

MIL, coremltools' language of programs, is the vocabulary that the handlers of Core ML and Core AI share:
https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.backend import EmitOptions
from edgeq.graph import NodeNote
from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantParams, dequantize
from edgeq_converters.optable import CannotLower

Precision = Literal["float16", "float32"]
Kind = Literal["float", "int", "bool"]
Var: TypeAlias = Any  # a computed value, of the engine's own class: has a shape and a name
Operand: TypeAlias = Any  # a Var, a Constant, or what else a builder holds values in

FLOAT16_MAX: Final = 65504.0
# Numbers beyond float16 are masks: 3e4 still drives a softmax to zero, and the sum of two is finite, so that a row of
# nothing but masks is no inf - inf. coremltools 9.0 itself makes -inf of them, then NaN
# (fixed in https://github.com/apple/coremltools/pull/2669).
MASK: Final = 3e4


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """Data known at conversion, in ONNX's dtype; with `params` the integers of a grid."""

    data: NDArray[Any]
    params: QuantParams | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def real(self) -> NDArray[Any]:
        """The numbers that the data stands for, same shape."""
        return self.data if self.params is None else dequantize(self.data, self.params)

    def transposed(self, perm: Sequence[int]) -> Constant:
        """The same numbers with permuted axes, still on their grid."""
        data = np.ascontiguousarray(self.data.transpose(perm))
        if self.params is None:
            return Constant(data)
        kind, scale, zero_point = self.params.type, self.params.scale, self.params.zero_point
        match kind.granularity:
            case PerTensor():
                return Constant(data, self.params)
            case PerChannel(axis):
                granularity: PerChannel | PerBlock = PerChannel(list(perm).index(axis % data.ndim))
            case PerBlock(size, axis):
                granularity = PerBlock(size, list(perm).index(axis % data.ndim))
                scale, zero_point = scale.transpose(perm), zero_point.transpose(perm)
        return Constant(data, QuantParams(replace(kind, granularity=granularity), scale, zero_point))


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """An argument that is written with exactly its own dtype."""

    data: Any


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """var: what the op reads. multiplier [C]: factors of the op's output channels that are not in var, or None."""

    var: Var
    multiplier: NDArray[np.float32] | None = None


class Builder(ABC):
    """Adds ops to the program in the making.

    engine: its name, for messages. precision: of the program. dtype: what floats are computed in now. node: the ONNX
    node that is being lowered.
    """

    engine: ClassVar[str]

    def __init__(self, options: EmitOptions, precision: Precision):
        self.options = options
        self.precision: Precision = precision
        self.dtype: type[np.floating[Any]] = np.float16 if precision == "float16" else np.float32
        self.program_dtype = self.dtype
        self.in_float32: set[ir.Node] = set()  # nodes that compute in float32 although the program does not
        self.node: ir.Node | None = None
        self.float_nodes: dict[ir.Node, NodeNote] = {}  # whose results have a grid that this system cannot round to
        self.lower_block: Callable[[ir.Graph], list[Var]] | None = None  # bodies of If and Loop
        self.singles: dict[str, Var] = {}  # an input rounded to float16 -> the input itself
        self._converted: dict[tuple[str, str], Var] = {}  # a value in the other float type

    # ------------------------------------------------------------------ of the engine
    @abstractmethod
    def op(self, name: str, /, **arguments: Any) -> Any:
        """Add one op of MIL -> its Var, or its tuple of Vars. Constants and numbers are written in the program's
        precision.

        Raises:
            CannotLower: the engine refuses the op, in its own words.
        """

    @abstractmethod
    def var(self, operand: Operand) -> Var:
        """The Var of an operand; a Constant is written once, however many nodes read it."""

    @abstractmethod
    def weight(self, constant: Constant, output_axis: int) -> Weight:
        """A weight whose axis `output_axis` is the channel axis of the op's output."""

    @abstractmethod
    def kind(self, operand: Operand) -> Kind:
        """What sort of numbers an operand holds."""

    @abstractmethod
    def float_bits(self, operand: Operand) -> int:
        """16 or 32 of a float, 0 of other numbers."""

    @abstractmethod
    def cast(self, operand: Operand, kind: Literal["float", "int", "bool", "fp32", "fp16", "int32"]) -> Var:
        """The operand as the program's float, an integer or bool (or exactly the type named)."""

    @abstractmethod
    def inner_block(self) -> Any:
        """A context: constants written inside a body of If or Loop are not visible after it."""

    @abstractmethod
    def on_grid(self, operand: Operand, grid: QuantParams) -> Operand:
        """Round to a grid: quantize and dequantize."""

    # ------------------------------------------------------------------ precision
    @contextmanager
    def computing_in(self, dtype: type[np.floating[Any]]) -> Iterator[None]:
        """Floats are computed in another type inside; see `edgeq_converters.mil.precision`."""
        outside, self.dtype = self.dtype, dtype
        try:
            yield
        finally:
            self.dtype = outside

    def converted(self, operand: Operand) -> Operand:
        """A float operand in the type that is computed in now; cast once, however many nodes read it."""
        if operand is None or isinstance(operand, Constant) or self.float_bits(operand) in (
                0, np.finfo(self.dtype).bits):
            return operand
        if self.dtype is np.float32 and operand.name in self.singles:
            return self.singles[operand.name]
        key = operand.name, self.dtype.__name__
        if key not in self._converted:
            self._converted[key] = self.cast(operand, "float")
        return self._converted[key]

    def rounded(self, data: NDArray[Any]) -> NDArray[Any]:
        """Floats in the program's precision; nothing becomes infinite, nor 0 that was not."""
        if self.dtype is np.float32:
            return data.astype(np.float32)
        beyond = np.abs(data) > FLOAT16_MAX
        rounded = np.where(beyond, np.sign(data) * MASK, data).astype(np.float16)
        tiniest = np.finfo(np.float16).smallest_subnormal  # an epsilon that rounds to 0 would divide by 0
        lost = (rounded == 0) & (data != 0)
        return np.asarray(np.where(lost, np.sign(data) * tiniest, rounded), np.float16)

    # ------------------------------------------------------------------ operands
    def known(self, operand: Operand) -> NDArray[Any] | None:
        """The data of an operand known at conversion, else None."""
        return operand.real if isinstance(operand, Constant) else None

    def need(self, operand: Operand, what: str) -> NDArray[Any]:
        """The data of an operand that the engine wants to know at conversion."""
        data = self.known(operand)
        if data is None:
            raise CannotLower(f"{what} is computed at run time; {self.engine} needs it at conversion")
        return data

    def ints(self, operand: Operand, what: str) -> list[int]:
        return [int(value) for value in self.need(operand, what).ravel()]

    def shape(self, operand: Operand) -> tuple[int, ...]:
        if isinstance(operand, Constant):
            return operand.shape
        if not all(isinstance(dim, int | np.integer) for dim in operand.shape):
            raise CannotLower("an input's shape is known only at run time")
        return tuple(int(dim) for dim in operand.shape)

    def rank(self, operand: Operand) -> int:
        return len(operand.shape)

    def onnx_type(self, index: int, *, output: bool = False) -> ir.DataType | None:
        """The ONNX type of an input or output of the node being lowered; the engine may know fewer integer types."""
        assert self.node is not None
        value = (self.node.outputs if output else self.node.inputs)[index]
        return None if value is None else value.dtype

    # ------------------------------------------------------------------ small compositions
    def as_float(self, operand: Operand) -> Operand:
        return operand if self.kind(operand) == "float" else self.cast(operand, "float")

    def as_int(self, operand: Operand) -> Operand:
        return operand if self.kind(operand) == "int" else self.cast(operand, "int")

    def through_float(self, operand: Operand, apply: Callable[[Var], Var]) -> Var:
        """Apply an op that only floats have. float32 holds integers exactly up to 2^24."""
        kind = self.kind(operand)
        if kind == "float":
            return apply(self.var(operand))
        return self.cast(apply(self.cast(operand, "fp32")), kind)

    def through_int(self, operand: Operand, apply: Callable[[Var], Var]) -> Var:
        """Apply an op that numbers have and bool lacks."""
        if self.kind(operand) != "bool":
            return apply(self.var(operand))
        return self.cast(apply(self.cast(operand, "int")), "bool")

    def reshape(self, operand: Operand, shape: Sequence[int]) -> Operand:
        shape = tuple(int(dim) for dim in shape)
        if isinstance(operand, Constant) and operand.params is None:
            return Constant(operand.data.reshape(shape))
        x = self.var(operand)
        return x if tuple(x.shape) == shape else self.op("reshape", x=x, shape=np.array(shape, np.int32))

    def transpose(self, operand: Operand, perm: Sequence[int]) -> Operand:
        if list(perm) == list(range(len(perm))):
            return operand
        if isinstance(operand, Constant):
            return operand.transposed(perm)
        return self.op("transpose", x=operand, perm=list(perm))

    def broadcast(self, operand: Operand, shape: Sequence[int]) -> Operand:
        """Expand to `shape` (ONNX's and numpy's rule)."""
        have = (1,) * (len(shape) - self.rank(operand)) + self.shape(operand)
        x = self.reshape(operand, have)
        if isinstance(x, Constant):
            return Constant(np.broadcast_to(x.data, tuple(shape)))
        reps = [want // dim if dim == 1 else 1 for want, dim in zip(shape, have, strict=True)]
        return x if set(reps) <= {1} else self.op("tile", x=x, reps=np.array(reps, np.int32))

    def gather(self, x: Operand, indices: NDArray[Any], axis: int) -> Var:
        """Elements at constant, non-negative indices along one axis."""
        return self.through_int(x, lambda v: self.op("gather", x=v, indices=indices.astype(np.int32), axis=axis))

    def slice(self, x: Operand, begin: Sequence[int], end: Sequence[int], stride: Sequence[int] | None = None) -> Var:
        """x[begin:end:stride], all axes, already counted from the front."""
        return self.op("slice_by_index", x=self.var(x), begin=np.array(begin, np.int32), end=np.array(end, np.int32),
                       stride=None if stride is None else np.array(stride, np.int32))

    def pad(self, x: Operand, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Operand:
        """Constant padding, (before, after) per axis."""
        if not any(before or after for before, after in pads):
            return x
        flat = np.array(pads, np.int32).ravel()
        return self.through_float(x, lambda v: self.op(
            "pad", x=v, pad=flat, mode="constant", constant_val=self._like(v, value)))

    def _like(self, x: Var, value: float) -> Any:
        """A number in exactly the float type of x (a float32 part of a float16 program has its own)."""
        if self.float_bits(x) == 32:
            return np.float32(value)
        return self.rounded(np.asarray(value))[()]
