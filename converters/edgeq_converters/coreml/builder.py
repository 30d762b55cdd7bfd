"""The builder of a MIL program with coremltools. One builder per conversion."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.backend import EmitOptions
from edgeq.graph import label
from edgeq.scheme import QuantParams
from edgeq_converters.coreml.axes import merged, permutations
from edgeq_converters.mil import builder as mil
from edgeq_converters.mil.builder import Constant, Kind, Operand, Precision, Raw, Var, Weight
from edgeq_converters.optable import CannotLower

MAX_RANK: Final = 5  # https://github.com/apple/coremltools/issues/2536
# coremltools renames these: converters/mil/mil/passes/defs/preprocess.py, NameSanitizer
RESERVED: Final = frozenset({
    "any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state", "bf16",
    "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
})

VERBATIM: Final = frozenset({"name", "_true_fn", "_false_fn"})  # arguments of an op that are not tensors


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


@dataclass(frozen=True, slots=True)
class Storage:
    """packed: of a constant, None where it is written as plain numbers. weight, on_grid: see `mil.Builder`."""

    packed: Callable[[Builder, Constant], Var | None]
    weight: Callable[[Builder, Constant, int], Weight]
    on_grid: Callable[[Builder, Operand, QuantParams], Operand]


class Builder(mil.Builder):
    """Adds MIL ops to the program in the making. `var` of a coremltools value is itself: its class carries no types.

    storage: how constants on a grid are stored; given, because what stores them writes with this builder.
    """

    engine: ClassVar[str] = "Core ML"

    def __init__(self, options: EmitOptions, precision: Precision, storage: Storage):
        import coremltools.converters.mil as mil_builder

        super().__init__(options, precision)
        self._mb = mil_builder.Builder
        self._storage = storage
        self.nodes: dict[str, tuple[str, str]] = {}  # name of an op -> the node that it was made for
        self.packed4: set[bytes] = set()  # 4-bit weights, each content once, as the written file must hold them
        self.grids: dict[str, tuple[Var, np.float32, Any]] = {}  # a value on a grid -> int8, scale, zero point
        self._consts: dict[Any, Var] = {}
        self._vars: dict[tuple[int, str], tuple[Constant, Var]] = {}
        self._taken: dict[str, int] = {}

    # ------------------------------------------------------------------ ops
    def op(self, name: str, /, **arguments: Any) -> Any:
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

    def converted(self, operand: Operand) -> Operand:
        if isinstance(operand, Merged):
            return Merged(self.converted(operand.var), operand.shape)
        return super().converted(operand)

    def weight(self, constant: Constant, output_axis: int) -> Weight:
        return self._storage.weight(self, constant, output_axis)

    def on_grid(self, operand: Operand, grid: QuantParams) -> Operand:
        if isinstance(operand, Merged):
            return Merged(self._storage.on_grid(self, operand.var, grid), operand.shape)
        return self._storage.on_grid(self, operand, grid)

    def _written(self, constant: Constant) -> Var:
        packed = self._storage.packed(self, constant)
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

    @contextmanager
    def inner_block(self) -> Iterator[None]:
        outside = dict(self._vars), dict(self._consts), dict(self._converted)
        try:
            yield
        finally:
            self._vars, self._consts, self._converted = outside

    def kind(self, operand: Operand) -> Kind:
        if isinstance(operand, Constant):
            name = "float" if operand.params is not None else operand.data.dtype.name
        else:
            from coremltools.converters.mil.mil import types

            name = types.builtin_to_string(operand.dtype)
        return "bool" if name == "bool" else "int" if "int" in name else "float"

    def float_bits(self, operand: Operand) -> int:
        from coremltools.converters.mil.mil import types

        return {"fp16": 16, "fp32": 32}.get(types.builtin_to_string(operand.dtype), 0)

    # ------------------------------------------------------------------ small compositions
    def cast(self, operand: Operand, kind: Literal["float", "int", "bool", "fp32", "fp16", "int32"]) -> Var:
        dtype = {"float": "fp16" if self.dtype is np.float16 else "fp32", "int": "int32"}.get(kind, kind)
        return self.op("cast", x=self.var(operand), dtype=dtype)

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
        """Also above rank 5, a few axes after the other."""
        if isinstance(operand, Constant) or len(perm) <= MAX_RANK or list(perm) == list(range(len(perm))):
            return super().transpose(operand, perm)
        x = operand
        for step in permutations(operand.shape, perm, MAX_RANK):
            x = self.op("transpose", x=self.reshape(x, step.shape), perm=list(step.perm))
        return self.reshape(x, [operand.shape[axis] for axis in perm])

    def broadcast(self, operand: Operand, shape: Sequence[int]) -> Operand:
        """Also above rank 5."""
        if isinstance(operand, Constant) or len(shape) <= MAX_RANK:
            return super().broadcast(operand, shape)
        have = (1,) * (len(shape) - self.rank(operand)) + self.shape(operand)
        return self._broadcast_in_runs(self.reshape(operand, have), have, shape)

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


def is_var(value: Any) -> bool:
    return hasattr(value, "op") and hasattr(value, "sym_type")


def sanitise(name: str) -> str:
    """A name that Core ML keeps as it is: letters, digits, underscores, a letter first, no word of MIL's own."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    safe = safe if safe[:1].isalpha() else f"v{safe}"
    return f"{safe}_" if safe in RESERVED else safe
