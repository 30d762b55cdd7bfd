"""The builder of a Core AI program: MIL's ops as compositions of Core AI's (`vocabulary`)."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.backend import EmitOptions
from edgeq.graph import label
from edgeq.scheme import QuantParams
from edgeq_converters.coreai.dialect import Program, Var
from edgeq_converters.mil import builder as mil
from edgeq_converters.mil.builder import Constant, Kind, Operand, Precision, Raw, Weight
from edgeq_converters.optable import CannotLower

KINDS: Final[Mapping[str, Kind]] = {"f": "float", "i": "int", "u": "int", "b": "bool"}  # of a numpy dtype


@dataclass(frozen=True, slots=True)
class Compositions:
    """What is made of the dialect's operators; given, because it is written with this builder.

    words: MIL op -> itself in Core AI's operators. packed: a constant whose integers stay in the file, None for others.
    on_grid: see `mil.Builder`.
    """

    words: Mapping[str, Callable[..., Any]]
    packed: Callable[[Builder, Constant], Var | None]
    on_grid: Callable[[Builder, Var, QuantParams], Var]


class Builder(mil.Builder):
    """Values have ONNX's integer types, and floats the program's precision, in any rank."""

    engine: ClassVar[str] = "Core AI"

    def __init__(self, options: EmitOptions, precision: Precision, program: Program, made: Compositions):
        super().__init__(options, precision)
        self.program, self._made = program, made
        self._vars: dict[tuple[int, str], tuple[Constant, Var]] = {}

    # ------------------------------------------------------------------ ops
    def op(self, name: str, /, **arguments: Any) -> Any:
        word = self._made.words.get(name)
        if word is None:
            raise CannotLower(f"Core AI has nothing for MIL's {name}")
        with self._scope():
            return word(self, **{key: value for key, value in arguments.items() if value is not None})

    def call(self, operator: str, *arguments: Any, **words: Any) -> Any:
        """An operator of the dialect itself; see `Program.call`."""
        return self.program.call(operator, *arguments, **words)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        if self.node is None:
            yield
            return
        with self.program.named(self.node.outputs[0].name or self.node.op_type, (label(self.node), self.node.op_type)):
            yield

    # ------------------------------------------------------------------ operands
    def var(self, operand: Operand) -> Var:
        if isinstance(operand, Var):
            return operand
        key = id(operand), self.dtype.__name__
        if key not in self._vars:
            with self._scope():
                self._vars[key] = operand, self._written(operand)
        return self._vars[key][1]

    def _written(self, constant: Constant) -> Var:
        packed = self._made.packed(self, constant)
        return self.program.constant(self.stored(constant.real)) if packed is None else packed

    def stored(self, data: NDArray[Any]) -> NDArray[Any]:
        """data as the program holds it: floats in its precision, 4-bit integers a byte each, others as they are."""
        if data.dtype.kind == "f":
            return self.rounded(data)
        if data.dtype.name in ("int4", "uint4"):
            return data.astype(np.int8 if data.dtype.name == "int4" else np.uint8)
        if data.dtype.kind not in KINDS:
            raise CannotLower(f"Core AI has no {data.dtype} tensors")
        return data

    def tensor(self, value: Any, like: np.dtype[Any] | None = None) -> Var:
        """An argument of an op as a Var. like: the type that numbers and constants take."""
        if isinstance(value, Var):
            return value
        if isinstance(value, Raw):
            return self.program.constant(np.asarray(value.data))
        if isinstance(value, Constant) and (like is None or value.params is not None):
            return self.var(value)
        data = value.real if isinstance(value, Constant) else np.asarray(value)
        if like is not None and (data.dtype.kind in "iu") == (like.kind in "iu"):
            data = self.stored(data) if like.kind == "f" else data
            return self.program.constant(data.astype(like))
        return self.program.constant(self.stored(data) if data.dtype.kind == "f" else data)

    def matched(self, *values: Any) -> list[Var]:
        """Arguments in one type: constants take that of what is computed; of two computed ones, the wider."""
        computed = [value for value in values if isinstance(value, Var | Raw)]
        types = [value.dtype if isinstance(value, Var) else np.asarray(value.data).dtype for value in computed]
        like = np.result_type(*types) if types else None
        made = [self.tensor(value, like) for value in values]
        wanted = like if like is not None else np.result_type(*(var.dtype for var in made))
        return [self.to(var, wanted) for var in made]

    def to(self, operand: Operand, dtype: np.dtype[Any] | type[np.generic]) -> Var:
        """In a type of numpy. Integers that do not fit saturate."""
        x, wanted = self.var(operand), np.dtype(dtype)
        if x.dtype == wanted:
            return x
        with self._scope():
            found: Var = self.program.call("cast", x, wanted.type)
            return found

    # ------------------------------------------------------------------ of mil.Builder
    def weight(self, constant: Constant, output_axis: int) -> Weight:
        return Weight(self.var(constant))

    def on_grid(self, operand: Operand, grid: QuantParams) -> Var:
        with self._scope():
            return self._made.on_grid(self, self.var(operand), grid)

    def kind(self, operand: Operand) -> Kind:
        if isinstance(operand, Constant):
            name = "float32" if operand.params is not None else operand.data.dtype.name
            return "int" if "int" in name else "bool" if name == "bool" else "float"
        return KINDS[operand.dtype.kind]

    def float_bits(self, operand: Operand) -> int:
        return int(operand.dtype.itemsize) * 8 if operand.dtype.kind == "f" else 0

    def cast(self, operand: Operand, kind: Literal["float", "int", "bool", "fp32", "fp16", "int32"]) -> Var:
        named: Mapping[str, type[np.generic]] = {
            "float": self.dtype, "int": np.int32, "bool": np.bool_, "fp32": np.float32, "fp16": np.float16,
            "int32": np.int32}
        return self.to(operand, named[kind])

    @contextmanager
    def inner_block(self) -> Iterator[None]:
        outside = dict(self._vars), dict(self._converted)
        try:
            with self.program.inner_block():
                yield
        finally:
            self._vars, self._converted = outside

    def broadcast(self, operand: Operand, shape: Sequence[int]) -> Operand:
        if isinstance(operand, Constant):
            return super().broadcast(operand, shape)
        x = self.var(operand)
        if tuple(x.shape) == tuple(shape):
            return x
        with self._scope():
            return self.call("broadcast_to", x, np.array(shape, np.uint32))

    def stored_type(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The type in which a program holds values of ONNX's type."""
        return self.stored(np.empty(0, dtype)).dtype
