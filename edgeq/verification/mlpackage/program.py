"""A loaded program, and the loop that runs it."""
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgeq.errors import EdgeqError, InputError, Problem, UnsupportedModel, VerificationError
from edgeq.verification.mlpackage.optable import CannotRun, Handler
from edgeq.verification.mlpackage.types import BY_NAME, Array, TensorType, admits, round_to_float16

Precision = Literal["float16", "float32"]
TARGET = "the Core ML interpreter"


@dataclass(frozen=True, slots=True)
class Reference:
    """An operand that another op computes. Others are constants (arrays, Python scalars) or tuples of operands."""

    name: str


@dataclass(frozen=True, slots=True)
class Output:
    """``type`` is None for values that are no tensors (lists)."""

    name: str
    type: TensorType | None


@dataclass(frozen=True, slots=True)
class Step:
    op: str
    name: str
    handler: Handler
    inputs: Mapping[str, Any]
    outputs: tuple[Output, ...]
    blocks: tuple[Block, ...] = ()
    spent: tuple[str, ...] = ()
    """Values that no later step needs."""


@dataclass(frozen=True, slots=True)
class Block:
    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: ``dtype`` is numpy's name; None in ``shape`` where any size will do."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


State = dict[str, Array]


@dataclass(frozen=True)
class Program:
    """One function of a package. ``run`` is safe to call from several threads, each with a state of its own."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    unsupported: tuple[str, ...]
    """What cannot be run here: 'op' or 'op: reason', each once."""
    _block: Block = field(repr=False)
    _problems: tuple[Problem, ...] = field(repr=False)
    _opset: int = field(repr=False)
    _rounding: bool = field(repr=False)
    compressed: tuple[tuple[Step, Array], ...] = field(default=(), repr=False)
    """The ops that stand for compressed constants, with the constant that other ops read in their place."""

    classes: tuple[str, ...] = ()
    """Of a classifier, in the order of its probabilities."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every op that is run, bodies of control flow included, in order."""
        return tuple(_all_steps(self._block))

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names that ``keep`` understands, in the order of computation."""
        return tuple(output.name for step in self._block.steps for output in step.outputs)

    @property
    def constants(self) -> dict[tuple[str, str], Array]:
        """The arrays that ops get from the file, by (name of the op, its input), decompressed; floats as float32."""
        return {(step.name, name): operand for step in _all_steps(self._block) for name, operand in step.inputs.items()
                if isinstance(operand, np.ndarray)}

    def make_state(self) -> State:
        """A fresh state: zeros."""
        return {spec.name: np.zeros([size or 1 for size in spec.shape], BY_NAME[spec.dtype].carrier)
                for spec in self.states}

    def run(self, inputs: Mapping[str, Array], state: State | None = None, keep: Collection[str] = ()) -> dict[str,
            Array]:
        """Compute the outputs -> by name, each of the declared dtype; with the values named in ``keep`` after them.

        Args:
            inputs: one array per input; a float array is converted to the input's float type.
            state: from ``make_state``; it is updated. Without one, the program starts from zeros.
            keep: names of intermediate values to return as well (float16 values as float32).

        Raises:
            InputError: an input of a wrong name, shape or kind, or an unknown name in ``keep``.
            UnsupportedModel: the program has ops that cannot be run.
            VerificationError: an op failed, or computed another shape than the program declares.
        """
        if self._problems:
            raise UnsupportedModel(TARGET, self._problems)
        unknown = sorted(set(keep) - set(self.value_names))
        if unknown:
            raise InputError(f"no such value in the program: {', '.join(unknown)}")
        values: dict[str, Any] = self._accept(inputs)
        values |= {spec.name: spec.name for spec in self.states}
        run = _Run(self._opset, self._rounding, self.make_state() if state is None else state)
        kept: dict[str, Array] = {}
        with np.errstate(all="ignore"):  # infinities and NaNs are results here, and the caller's business
            results = run.block(self._block, values, kept, frozenset(keep))
        outputs = {spec.name: _typed(value, spec.dtype) for spec, value in zip(self.outputs, results, strict=True)}
        return outputs | kept

    def _accept(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        wanted = {spec.name for spec in self.inputs}
        if set(inputs) != wanted:
            raise InputError(f"the program takes {sorted(wanted)}, but was given {sorted(inputs)}")
        return {spec.name: self._accept_one(spec, np.asarray(inputs[spec.name])) for spec in self.inputs}

    def _accept_one(self, spec: TensorSpec, value: Array) -> Array:
        if not admits(spec.shape, value.shape):
            raise InputError(f"input '{spec.name}' has the shape {value.shape}, but the program takes {spec.shape}")
        if not np.can_cast(value.dtype, spec.dtype, "same_kind"):
            raise InputError(f"input '{spec.name}' is {value.dtype}, but the program takes {spec.dtype}")
        if spec.dtype != "float16":
            converted = value.astype(spec.dtype, copy=False)
            if value.dtype.kind in "iu" and not np.array_equal(converted, value):
                raise InputError(f"input '{spec.name}' has values that {spec.dtype} cannot hold")
            return converted
        with np.errstate(over="ignore"):
            return value.astype(np.float16).astype(np.float32) if self._rounding else value.astype(np.float32)


def _typed(value: Any, dtype: str) -> Array:
    return np.asarray(value).astype(dtype)


def _all_steps(block: Block) -> Iterator[Step]:
    for step in block.steps:
        yield step
        for inner in step.blocks:
            yield from _all_steps(inner)


class _Run:
    """One execution."""

    def __init__(self, opset: int, rounding: bool, state: State):
        self.opset, self.rounding, self.state = opset, rounding, state

    def block(self, block: Block, values: dict[str, Any], kept: dict[str, Array] | None = None,
              keep: frozenset[str] = frozenset()) -> tuple[Any, ...]:
        """The outputs of a block. ``values`` holds what it can see, and is used up."""
        for step in block.steps:
            for output, value in zip(step.outputs, self._outputs(step, values), strict=True):
                values[output.name] = value
                if kept is not None and output.name in keep:
                    kept[output.name] = np.array(value)
            for name in step.spent:
                values.pop(name, None)
        return tuple(_resolve(operand, values) for operand in block.outputs)

    def _outputs(self, step: Step, values: dict[str, Any]) -> list[Any]:
        """Run one op -> its outputs in their declared types.

        Raises:
            VerificationError: the op failed, or computed another shape than declared.
        """
        where = f"{step.op} '{step.name}'"
        try:
            results = self._call(step, values)
        except EdgeqError:
            raise
        except CannotRun as error:
            raise VerificationError(f"{where}: {error}") from None
        except Exception as error:
            raise VerificationError(f"{where} cannot be computed: {error}") from error
        if len(results) != len(step.outputs):
            raise VerificationError(f"{where} has {len(results)} outputs, but the program declares {len(step.outputs)}")
        rounding = self.rounding and not step.handler.exact
        return [convert(result, output.type, rounding, f"{where}, output '{output.name}'")
                for result, output in zip(results, step.outputs, strict=True)]

    def _call(self, step: Step, values: dict[str, Any]) -> tuple[Any, ...]:
        arguments = {name: _resolve(operand, values) for name, operand in step.inputs.items()}
        provided = {"opset": self.opset, "scope": _Scope(self, step, values)}
        result = step.handler.function(**arguments, **{name: provided[name] for name in step.handler.provided})
        return result if isinstance(result, tuple) else (result,)


class _Scope:
    """What an op with blocks or state may reach (ops.control.Scope)."""

    def __init__(self, run: _Run, step: Step, values: dict[str, Any]):
        self._run, self._step, self._values = run, step, values

    @property
    def state(self) -> State:
        return self._run.state

    def run_block(self, number: int, *arguments: Any) -> tuple[Any, ...]:
        block = self._step.blocks[number]
        return self._run.block(block, self._values | dict(zip(block.inputs, arguments, strict=True)))


def _resolve(operand: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(operand, Reference):
        return values[operand.name]
    return tuple(_resolve(part, values) for part in operand) if isinstance(operand, tuple) else operand


def convert(result: Any, type: TensorType | None, rounding: bool, where: str) -> Any:
    """An op's result -> in the carrier of its declared type; if that is float16 and ``rounding``, rounded to it.

    Raises:
        VerificationError: the shape is not the declared one.
    """
    if type is None:
        return result
    value = np.asarray(result)
    if not type.admits(value.shape):
        raise VerificationError(f"{where} has shape {list(value.shape)}, but the program declares {type}")
    if value.dtype != type.element.carrier:
        value = value.astype(type.element.carrier)
    return round_to_float16(value) if rounding and type.element.name == "float16" else value
