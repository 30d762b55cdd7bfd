"""From the protobuf of a package to a Program: constants read and decompressed, every op bound to its handler."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import BundleError, Problem, UnsupportedModel
from edgeq.verification.mlpackage import schema
from edgeq.verification.mlpackage.ops import REFUSED, all_ops
from edgeq.verification.mlpackage.optable import CannotRun, Handler
from edgeq.verification.mlpackage.program import (
    TARGET,
    Block,
    Output,
    Precision,
    Program,
    Reference,
    Step,
    TensorSpec,
    convert,
)
from edgeq.verification.mlpackage.storage import BlobFiles, find_model, from_bytes, read_protobuf
from edgeq.verification.mlpackage.types import BY_CODE, Array, TensorType

_NAME = "name"


def open_package(path: Path, *, precision: Precision = "float16", allow_unsupported: bool = False) -> Program:
    """Read the written files of an .mlpackage.

    Args:
        path: the folder `something.mlpackage`.
        precision: "float16" rounds every value that the program types as float16 after the op that computes it;
            "float32" leaves computed values in float32 (constants are what the file holds either way).
        allow_unsupported: open the package even if it cannot be run, to list ``unsupported``.

    Raises:
        BundleError: files that are missing, damaged, or no ML program.
        UnsupportedModel: ops that the interpreter does not know, all of them.
        MissingExtra: coremltools, which holds the schema of the files, is not installed.
    """
    path = Path(path)
    model_path = find_model(path)
    model = read_protobuf(model_path, schema.new_model())
    if model.WhichOneof("Type") != "mlProgram":
        raise BundleError(f"{path} holds a {model.WhichOneof('Type') or 'damaged model'}, not an ML program")
    functions = model.mlProgram.functions
    name = model.description.defaultFunctionName or "main"
    if name not in functions:
        raise BundleError(f"{path} has no function '{name}', only {sorted(functions)}")
    program = _Loader(BlobFiles(path, model_path)).load(functions[name], precision == "float16")
    if program._problems and not allow_unsupported:
        raise UnsupportedModel(TARGET, program._problems)
    return program


class _Loader:
    """Loads one function."""

    def __init__(self, files: BlobFiles):
        self._files = files
        self._table = all_ops()
        self._problems: list[Problem] = []
        self._types: dict[str, TensorType | None] = {}
        self._compressed: list[tuple[Step, Array]] = []
        self._classified: set[str] = set()
        self.classes: tuple[str, ...] = ()

    def load(self, function: Any, rounding: bool) -> Program:
        opset = _opset_number(function.opset)
        if function.opset not in function.block_specializations:
            raise BundleError(f"the program has no code for its own opset {function.opset}")
        inputs = [item for item in function.inputs if item.type.WhichOneof("type") == "tensorType"]
        states = [item for item in function.inputs if item.type.WhichOneof("type") == "stateType"]
        for item in inputs:
            self._types[item.name] = _type(item.type)
        spec = function.block_specializations[function.opset]
        block = self._block(spec, {item.name: Reference(item.name) for item in function.inputs})
        problems = tuple(self._problems)
        return Program(
            inputs=tuple(_spec(item.name, _type(item.type)) for item in inputs),
            outputs=tuple(_spec(name, self._types.get(name)) for name in spec.outputs if name not in self._classified),
            states=tuple(_spec(item.name, _type(item.type.stateType.wrappedType)) for item in states),
            unsupported=tuple(dict.fromkeys(f"{p.op}: {p.reason}" if p.reason != _UNKNOWN else p.op for p in problems)),
            _block=_with_lifetimes(block), _problems=problems, _opset=opset, _rounding=rounding,
            compressed=tuple(self._compressed), classes=self.classes)

    def _block(self, spec: Any, visible: Mapping[str, Any]) -> Block:
        """``visible``: operand by name, of everything outside the block."""
        operands = dict(visible)
        for item in spec.inputs:
            operands[item.name] = Reference(item.name)
            self._types[item.name] = _type(item.type)
        steps = []
        for operation in spec.operations:
            outputs = tuple(Output(item.name, _type(item.type)) for item in operation.outputs)
            self._types |= {output.name: output.type for output in outputs}
            if operation.type == "const":
                operands[outputs[0].name] = self._value(operation.attributes["val"])
                continue
            if operation.type == "classify":  # a label and a dictionary of what another output holds as numbers
                self._classified |= {output.name for output in outputs}
                self.classes = self._value(operation.inputs["classes"].arguments[0].value)
                continue
            step = self._step(operation, outputs, operands)
            if step is not None and operation.type.startswith("constexpr_"):
                operands |= self._decompressed(step)
                continue
            operands |= {output.name: Reference(output.name) for output in outputs}
            if step is not None:
                steps.append(step)
        outputs_of_block = tuple(operands.get(name, Reference(name)) for name in spec.outputs
                                 if name not in self._classified)
        return Block(tuple(item.name for item in spec.inputs), tuple(steps), outputs_of_block)

    def _step(self, operation: Any, outputs: tuple[Output, ...], operands: Mapping[str, Any]) -> Step | None:
        """The op with its handler; None, and a problem noted, if it has none."""
        inputs = {key: self._value(value) for key, value in operation.attributes.items() if key != _NAME}
        inputs |= {key: self._operand(argument, operands) for key, argument in operation.inputs.items()}
        name = self._label(operation, outputs)
        blocks = tuple(self._block(block, operands) for block in operation.blocks)
        handler = self._table.get(operation.type)
        reason = REFUSED.get(operation.type, _UNKNOWN) if handler is None else _mismatch(handler, inputs)
        if handler is None or reason:
            self._problems.append(Problem(name, operation.type, reason))
            return None
        return Step(operation.type, name, handler, inputs, outputs, blocks)

    def _decompressed(self, step: Step) -> dict[str, Any]:
        """The outputs of a constexpr op: constants, so they are rounded to their type whatever the precision."""
        where = f"{step.op} '{step.name}'"
        try:
            results = step.handler.function(**step.inputs)
        except (CannotRun, ValueError, IndexError, TypeError) as error:
            raise BundleError(f"{where} cannot be decompressed: {error}") from error
        values = results if isinstance(results, tuple) else (results,)
        with np.errstate(over="ignore"):
            found = {output.name: convert(value, output.type, not step.handler.exact,
                                          f"{where}, output '{output.name}'")
                     for output, value in zip(step.outputs, values, strict=True)}
        self._compressed += [(step, value) for value in found.values()]
        return found

    def _label(self, operation: Any, outputs: tuple[Output, ...]) -> str:
        if _NAME in operation.attributes:
            return str(self._value(operation.attributes[_NAME]))
        return outputs[0].name if outputs else ""

    def _operand(self, argument: Any, operands: Mapping[str, Any]) -> Any:
        parts = []
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                parts.append(self._value(binding.value))
            elif binding.name in operands:
                parts.append(operands[binding.name])
            else:
                raise BundleError(f"the program uses '{binding.name}' before it is computed")
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _value(self, value: Any) -> Any:
        """A constant of the file -> a numpy array; a Python scalar if it has rank 0; a tuple for a list."""
        immediate = value.immediateValue
        collection = value.WhichOneof("value") == "immediateValue" and immediate.WhichOneof("value")
        if collection in ("list", "tuple"):
            return tuple(self._value(part) for part in getattr(immediate, collection).values)
        type = _type(value.type)
        if type is None:
            raise BundleError(f"a constant of kind {value.type.WhichOneof('type')}")
        array = self._tensor(value, type)
        return array.item() if array.ndim == 0 else array

    def _tensor(self, value: Any, type: TensorType) -> Array:
        if value.WhichOneof("value") == "blobFileValue":
            return self._files.read(value.blobFileValue.fileName, value.blobFileValue.offset, type)
        tensor = value.immediateValue.tensor
        kind = tensor.WhichOneof("value")
        if kind == "bytes":
            return from_bytes(np.frombuffer(tensor.bytes.values, np.uint8), type)
        values = list(getattr(tensor, kind).values) if kind else []
        return np.array(values, type.element.carrier).reshape([size or 0 for size in type.shape])


_UNKNOWN = "no such operator here"


def _mismatch(handler: Handler, inputs: Mapping[str, Any]) -> str:
    """Why the handler cannot take these inputs, or ''."""
    unknown = sorted(set(inputs) - handler.inputs)
    missing = sorted(handler.required - set(inputs))
    if unknown:
        return f"the input {', '.join(unknown)} is not known here"
    return f"the input {', '.join(missing)} is missing" if missing else ""


def _opset_number(opset: str) -> int:
    """'CoreML7' -> 7."""
    match = re.fullmatch(r"CoreML(\d+)", opset)
    if match is None:
        raise BundleError(f"an unknown opset '{opset}'")
    return int(match[1])


def _type(type: Any) -> TensorType | None:
    """A tensor's type; None for lists and dictionaries."""
    if type.WhichOneof("type") != "tensorType":
        return None
    tensor = type.tensorType
    if tensor.dataType not in BY_CODE:
        raise BundleError(f"an element type that is not known here (code {tensor.dataType})")
    known = [size.WhichOneof("dimension") == "constant" for size in tensor.dimensions]
    sizes = (int(size.constant.size) if fixed else None for size, fixed in zip(tensor.dimensions, known, strict=True))
    return TensorType(BY_CODE[tensor.dataType], tuple(sizes))


def _spec(name: str, type: TensorType | None) -> TensorSpec:
    if type is None:
        raise BundleError(f"'{name}' is not a tensor")
    return TensorSpec(name, type.element.name, type.shape)


def _with_lifetimes(block: Block) -> Block:
    """The block whose steps name the values that are not needed after them, so that memory is given back."""
    last: dict[str, int] = {}
    for number, step in enumerate(block.steps):
        last |= dict.fromkeys((output.name for output in step.outputs), number)
        last |= dict.fromkeys(_used(step), number)
    kept = set(_references(block.outputs))
    spent: dict[int, list[str]] = {}
    for name, number in last.items():
        if name not in kept:
            spent.setdefault(number, []).append(name)
    steps = tuple(replace(step, spent=tuple(spent.get(number, ()))) for number, step in enumerate(block.steps))
    return replace(block, steps=steps)


def _used(step: Step) -> Iterator[str]:
    yield from _references(step.inputs.values())
    for block in step.blocks:
        yield from _references(block.outputs)
        for inner in block.steps:
            yield from _used(inner)


def _references(operands: Iterable[Any]) -> Iterator[str]:
    for operand in operands:
        if isinstance(operand, Reference):
            yield operand.name
        elif isinstance(operand, tuple):
            yield from _references(operand)
