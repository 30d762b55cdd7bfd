"""What op handlers write a MIL program with: operands, constants, casts. One builder per conversion."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.backend import EmitOptions
from edgeq.graph import NodeNote, label
from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantParams, dequantize
from edgeq_converters.coreml.axes import merged, permutations
from edgeq_converters.optable import CannotLower

Precision = Literal["float16", "float32"]
Var: TypeAlias = Any  # coremltools.converters.mil.mil.Var: coremltools carries no types
Operand: TypeAlias = Any  # a Var, a Constant, or a Merged

MAX_RANK: Final = 5  # https://github.com/apple/coremltools/issues/2536
FLOAT16_MAX: Final = 65504.0
# Numbers beyond float16 are masks: 3e4 still drives a softmax to zero, and the sum of two is finite, so that a row of
# nothing but masks is no inf - inf. coremltools 9.0 itself makes -inf of them, then NaN
# (fixed in https://github.com/apple/coremltools/pull/2669).
MASK: Final = 3e4
# coremltools renames these: converters/mil/mil/passes/defs/preprocess.py, NameSanitizer
RESERVED: Final = frozenset({
    "any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state", "bf16",
    "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
})

VERBATIM: Final = frozenset({"name", "_true_fn", "_false_fn"})  # arguments of an op that are not tensors


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
class Merged:
    """A computed value of more axes than Core ML has, `shape`, held by a Var of fewer: the same elements in order."""

    var: Var
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return str(self.var.name)

    @property
    def dtype(self) -> Any:
        return self.var.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """An argument that is written with exactly its own dtype."""

    data: Any


class Builder:
    """Adds MIL ops to the program in the making.

    packed: how a constant on a grid is stored, None where as plain numbers; given, because what stores it writes with
    this builder. precision: of the program. dtype: what floats are computed in now. node: the ONNX node that is being
    lowered.
    """

    def __init__(self, options: EmitOptions, precision: Precision,
                 packed: Callable[[Builder, Constant], Var | None]):
        import coremltools.converters.mil as mil

        self._mb = mil.Builder
        self._packed = packed
        self.options = options
        self.precision: Precision = precision
        self.dtype: type[np.floating[Any]] = np.float16 if precision == "float16" else np.float32
        self.program_dtype = self.dtype
        self.in_float32: set[ir.Node] = set()  # nodes that compute in float32 although the program does not
        self.node: ir.Node | None = None
        self.nodes: dict[str, tuple[str, str]] = {}  # name of an op -> the node that it was made for
        self.float_nodes: dict[ir.Node, NodeNote] = {}  # whose results have a grid that this system cannot round to
        self.packed4: set[bytes] = set()  # 4-bit weights, each content once, as the written file must hold them
        self.lower_block: Callable[[ir.Graph], list[Var]] | None = None  # bodies of If and Loop
        self.singles: dict[str, Var] = {}  # an input rounded to float16 -> the input itself
        self.grids: dict[str, tuple[Var, np.float32, Any]] = {}  # a value on a grid -> int8, scale, zero point
        self._consts: dict[Any, Var] = {}
        self._vars: dict[tuple[int, str], tuple[Constant, Var]] = {}
        self._converted: dict[tuple[str, str], Var] = {}  # a value in the other float type
        self._taken: dict[str, int] = {}

    # ------------------------------------------------------------------ ops
    def op(self, name: str, /, **arguments: Any) -> Any:
        """Add one op -> its Var, or its tuple of Vars. Constants and numbers are written in the program's precision.

        Raises:
            CannotLower: coremltools refuses the op, in its own words.
        """
        given = {key: value if key in VERBATIM else self._argument(key, value)
                 for key, value in arguments.items() if value is not None}
        given.setdefault("name", self.unique(f"{self._scope()}_{name}"))
        if self.node is not None:
            self.nodes[given["name"]] = label(self.node), self.node.op_type
        try:
            return getattr(self._mb, name)(**given)
        except (ValueError, TypeError, NotImplementedError, AssertionError, IndexError) as error:
            raise CannotLower(f"Core ML's {name} refuses it: {error}") from None

    def unique(self, name: str) -> str:
        """A name that no op of this program has yet, from letters, digits and underscores."""
        safe = sanitise(name)
        count = self._taken.get(safe, 0)
        self._taken[safe] = count + 1
        return self.unique(f"{safe}_{count}") if count else safe

    def _scope(self) -> str:
        if self.node is None:
            return "edge"
        return self.node.outputs[0].name or self.node.op_type

    def _argument(self, key: str, value: Any) -> Any:
        if isinstance(value, Constant | Merged):
            return self.var(value)
        if is_var(value):
            return value
        if isinstance(value, tuple | list) and any(isinstance(item, Constant | Merged) or is_var(item)
                                                   for item in value):
            return [self.var(item) for item in value]
        if isinstance(value, Raw):
            return self._shared(key, value.data)
        if isinstance(value, float):
            return self._shared(key, self.rounded(np.asarray(value))[()])
        if isinstance(value, np.ndarray | np.generic | tuple | list):
            return self._shared(key, self._stored(np.asarray(value)))
        return self._shared(key, value)

    def _shared(self, key: str, value: Any) -> Var:
        """A const op; equal ones are written once. A program has thousands of strides and paddings, few of them new."""
        content: Any = (type(value), value)
        if isinstance(value, np.ndarray | np.generic):
            content = (str(value.dtype), str(value.dtype.metadata), value.shape, np.ascontiguousarray(value).tobytes())
        known = self._consts.get(content)
        if known is None:
            known = self._consts[content] = self._mb.const(val=value, name=self.unique(key))
        return known

    # ------------------------------------------------------------------ operands
    def var(self, operand: Operand) -> Var:
        """The Var of an operand; a Constant is written once, however many nodes read it.

        Raises:
            CannotLower: it has more axes than Core ML.
        """
        if len(operand.shape) > MAX_RANK:
            raise CannotLower(f"rank {len(operand.shape)}; Core ML ends at {MAX_RANK}")
        if not isinstance(operand, Constant):
            return operand
        key = id(operand), self.dtype.__name__
        known = self._vars.get(key)
        if known is None:
            known = self._vars[key] = (operand, self._written(operand))
        return known[1]

    @contextmanager
    def computing_in(self, dtype: type[np.floating[Any]]) -> Iterator[None]:
        """Floats are computed in another type inside; see `edgeq_converters.coreml.precision`."""
        outside, self.dtype = self.dtype, dtype
        try:
            yield
        finally:
            self.dtype = outside

    def converted(self, operand: Operand) -> Operand:
        """A float operand in the type that is computed in now; cast once, however many nodes read it."""
        if operand is None or isinstance(operand, Constant) or float_bits(operand) in (0, np.finfo(self.dtype).bits):
            return operand
        if isinstance(operand, Merged):
            return Merged(self.converted(operand.var), operand.shape)
        if self.dtype is np.float32 and operand.name in self.singles:
            return self.singles[operand.name]
        key = operand.name, self.dtype.__name__
        if key not in self._converted:
            self._converted[key] = self.cast(operand, "float")
        return self._converted[key]

    def _written(self, constant: Constant) -> Var:
        packed = self._packed(self, constant)
        if packed is not None:
            return packed
        return self._shared("weight", self._stored(np.array(constant.real, order="C")))

    def _stored(self, data: NDArray[Any]) -> NDArray[Any]:
        """data as Core ML holds it: floats in the program's precision, every integer as int32, bool."""
        if data.dtype in (np.bool_, np.int32) or data.dtype.kind in "USO":
            return data
        if data.dtype.kind == "f":
            return self.rounded(data)
        if data.dtype.kind in "iu":
            limits = np.iinfo(np.int32)  # a Slice to INT64_MAX means "to the end"
            return np.clip(data.astype(np.int64), limits.min, limits.max).astype(np.int32)
        if data.dtype.name in ("int4", "uint4"):
            return data.astype(np.int32)
        raise CannotLower(f"Core ML has no {data.dtype} tensors")

    def rounded(self, data: NDArray[Any]) -> NDArray[Any]:
        """Floats in the program's precision; nothing becomes infinite, nor 0 that was not."""
        if self.dtype is np.float32:
            return data.astype(np.float32)
        beyond = np.abs(data) > FLOAT16_MAX
        rounded = np.where(beyond, np.sign(data) * MASK, data).astype(np.float16)
        tiniest = np.finfo(np.float16).smallest_subnormal  # an epsilon that rounds to 0 would divide by 0
        lost = (rounded == 0) & (data != 0)
        return np.asarray(np.where(lost, np.sign(data) * tiniest, rounded), np.float16)

    @contextmanager
    def inner_block(self) -> Iterator[None]:
        """Constants written inside a body of If or Loop are not visible after it."""
        outside = dict(self._vars), dict(self._consts), dict(self._converted)
        try:
            yield
        finally:
            self._vars, self._consts, self._converted = outside

    def known(self, operand: Operand) -> NDArray[Any] | None:
        """The data of an operand known at conversion, else None."""
        return operand.real if isinstance(operand, Constant) else None

    def need(self, operand: Operand, what: str) -> NDArray[Any]:
        """The data of an operand that Core ML wants to know at conversion."""
        data = self.known(operand)
        if data is None:
            raise CannotLower(f"{what} is computed at run time; Core ML needs it at conversion")
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

    def kind(self, operand: Operand) -> Literal["float", "int", "bool"]:
        """What sort of numbers an operand holds."""
        if isinstance(operand, Constant):
            name = "float" if operand.params is not None else operand.data.dtype.name
        else:
            from coremltools.converters.mil.mil import types

            name = types.builtin_to_string(operand.dtype)
        return "bool" if name == "bool" else "int" if "int" in name else "float"

    def onnx_type(self, index: int, *, output: bool = False) -> ir.DataType | None:
        """The ONNX type of an input or output of the node being lowered; Core ML knows fewer integer types."""
        assert self.node is not None
        value = (self.node.outputs if output else self.node.inputs)[index]
        return None if value is None else value.dtype

    # ------------------------------------------------------------------ small compositions
    def cast(self, operand: Operand, kind: Literal["float", "int", "bool", "fp32", "fp16", "int32"]) -> Var:
        """The operand as the program's float, int32 or bool (or exactly the type named)."""
        dtype = {"float": "fp16" if self.dtype is np.float16 else "fp32", "int": "int32"}.get(kind, kind)
        return self.op("cast", x=self.var(operand), dtype=dtype)

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
        """Reshape, also from and to ranks that MIL's reshape does not have: 0, and above 5."""
        shape = tuple(int(dim) for dim in shape)
        if isinstance(operand, Constant) and operand.params is None:
            return Constant(operand.data.reshape(shape))
        x = operand.var if isinstance(operand, Merged) else self.var(operand)
        if len(shape) > MAX_RANK:
            return Merged(x, shape)
        if tuple(x.shape) == shape:
            return x
        if self.rank(x) == 0:
            x = self.op("expand_dims", x=x, axes=[0])
        if not shape:
            return self.op("squeeze", x=x, axes=list(range(self.rank(x))))
        return x if tuple(x.shape) == shape else self.op("reshape", x=x, shape=np.array(shape, np.int32))

    def transpose(self, operand: Operand, perm: Sequence[int]) -> Operand:
        if list(perm) == list(range(len(perm))):
            return operand
        if isinstance(operand, Constant):
            return operand.transposed(perm)
        if len(perm) <= MAX_RANK:
            return self.op("transpose", x=operand, perm=list(perm))
        x = operand
        for step in permutations(operand.shape, perm, MAX_RANK):
            x = self.op("transpose", x=self.reshape(x, step.shape), perm=list(step.perm))
        return self.reshape(x, [operand.shape[axis] for axis in perm])

    def broadcast(self, operand: Operand, shape: Sequence[int]) -> Operand:
        """Expand to `shape` (ONNX's and numpy's rule)."""
        have = (1,) * (len(shape) - self.rank(operand)) + self.shape(operand)
        x = self.reshape(operand, have)
        if isinstance(x, Constant):
            return Constant(np.broadcast_to(x.data, tuple(shape)))
        if len(shape) > MAX_RANK:
            return self._broadcast_in_runs(x, have, shape)
        reps = [want // dim if dim == 1 else 1 for want, dim in zip(shape, have, strict=True)]
        return x if set(reps) <= {1} else self.op("tile", x=x, reps=np.array(reps, np.int32))

    def _broadcast_in_runs(self, x: Operand, have: Sequence[int], shape: Sequence[int]) -> Operand:
        """One run of neighbouring axes at a time, whatever the rank."""
        now = list(have)
        for grows, axes in merged(shape, [dim == 1 for dim in have]):
            if grows:
                first, last = axes[0], axes[-1] + 1
                sizes = prod(now[:first]), 1, prod(now[last:])
                x = self.op("tile", x=self.reshape(x, sizes), reps=np.array([1, prod(shape[first:last]), 1], np.int32))
                now[first:last] = shape[first:last]
        return self.reshape(x, shape)

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
        """A number in exactly the float type of x (a float32 island inside a float16 program has its own)."""
        if float_bits(x) == 32:
            return np.float32(value)
        return self.rounded(np.asarray(value))[()]


def float_bits(var: Var) -> int:
    """16 or 32 of a float, 0 of other numbers."""
    from coremltools.converters.mil.mil import types

    return {"fp16": 16, "fp32": 32}.get(types.builtin_to_string(var.dtype), 0)


def is_var(value: Any) -> bool:
    return hasattr(value, "op") and hasattr(value, "sym_type")


def sanitise(name: str) -> str:
    """A name that Core ML keeps as it is: letters, digits, underscores, a letter first, no word of MIL's own."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    safe = safe if safe[:1].isalpha() else f"v{safe}"
    return f"{safe}_" if safe in RESERVED else safe
