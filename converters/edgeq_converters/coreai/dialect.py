"""The one file that knows Core AI's authoring dialect, which is private: coreai-core's public names reach most of its
operators, but neither 4-bit constants, nor bodies of If, nor the graph that operators are added to.

So the package is pinned to one release (pyproject.toml), and what a newer one renames is mended here.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.backend import About
from edgeq.errors import MissingExtra
from edgeq.pack import pack4
from edgeq.scheme import QuantParams, QuantType
from edgeq_converters.optable import CannotLower

_DIALECT: Final = "coreai._compiler.dialects.coreai"
_IR: Final = "coreai._compiler.ir"
FREE: Final = -1  # a size of a type of the package's
_SHARED_UP_TO: Final = 128  # bytes of constants that are written once, whoever reads them
FUNCTION: Final = "main"
CONDITION: Final = "if"  # of a `Call`, whose bodies' own come before it


@dataclass(frozen=True, slots=True, eq=False)
class Var:
    """A value. value: of the package. shape: None for a size that is known at run time only. data: of a constant, as it
    was given. four: whether four-bit integers are signed, None for all other numbers.
    """

    value: Any
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    data: NDArray[Any] | None = None
    four: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operator as it was added. like: the result's type where that is told. name, node: what it was made for, in the
    program and for messages: label and operator of an ONNX node.
    """

    operator: str
    arguments: tuple[Any, ...]
    words: Mapping[str, Any]
    results: tuple[Var, ...]
    like: tuple[tuple[int, ...], np.dtype[Any]] | None = None
    name: str = ""
    node: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """How a program came to be, in order."""

    inputs: dict[str, Var] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    outputs: dict[str, Var] = field(default_factory=dict)


def require_package() -> None:
    """Raises MissingExtra: coreai-core is not installed, or not for this system."""
    try:
        import coreai.authoring  # noqa: F401
    except ImportError:
        raise MissingExtra("Core AI conversion", "coreai") from None


class Program:
    """A program with one function in the making, and its constants. trace: kept if `traced`."""

    def __init__(self, *, traced: bool = False) -> None:
        authoring = import_module("coreai.authoring")
        self._dialect = import_module(_DIALECT)
        self._ir = import_module(_IR)
        self._spec, self._info = authoring.TensorType, authoring.DebugInfo
        self._module = authoring.Module.create()
        self._graph: Any = None
        self._shared: dict[Any, Any] = {}
        self._count = 0
        self._name, self._node = "", ("", "")
        self._traced, self.trace = traced, Trace()

    # ------------------------------------------------------------------ the function
    @contextmanager
    def function(self, inputs: Mapping[str, tuple[Sequence[int | None], np.dtype[Any]]],
                 ) -> Iterator[dict[str, Var]]:
        """The function's body, open for operators -> its inputs by name.

        Raises:
            CannotLower: at the end, the package refuses the program.
        """
        build = import_module("coreai.authoring.graph_builder").GraphOp
        try:
            with self._module, self._info.metadata_only(["edge"]).activate():
                types = [self._type(shape, dtype) for shape, dtype in inputs.values()]
                self._graph = build(FUNCTION, types, [], input_names=list(inputs), result_names=[])
                with self._graph.block:
                    self.trace.inputs.update({name: self._wrapped(value, name) for name, value in zip(
                        inputs, self._graph.arguments, strict=True)})
                    yield self.trace.inputs
        except RuntimeError as error:
            raise CannotLower(f"Core AI's compiler refuses the program: {_words(error)}") from error

    def give(self, outputs: Mapping[str, Var]) -> None:
        """Name the function's results. A program without any ends the process that loads it."""
        self.trace.outputs.update(outputs)
        self._graph.outputs_spec = [(name, var.value) for name, var in outputs.items()]

    def save(self, path: Path, about: About) -> None:
        """Write an .aimodel folder, without the time of day, so that equal models are equal bytes."""

        def describe(metadata: Any) -> None:
            metadata.creation_date = 0.0
            metadata.author, metadata.license = about.author, about.licence
            metadata.model_description = about.description
            for key, value in (("version", about.version), ("labels", list(about.labels))):
                if value:
                    metadata.set_custom(key, value)

        authoring = import_module("coreai.authoring")
        authoring.AIProgram(self._module).save_asset(path).update_metadata(describe)
        file = path / "metadata.json"  # whose keys the package writes in any order
        file.write_text(json.dumps(json.loads(file.read_text()), indent=2, sort_keys=True) + "\n")

    # ------------------------------------------------------------------ operators
    @contextmanager
    def named(self, name: str, node: tuple[str, str]) -> Iterator[None]:
        """Operators added inside carry a name, which the written program keeps. node: see `Call`."""
        outside, (self._name, self._node) = (self._name, self._node), (name, node)
        try:
            with self._info.metadata_only([name]).activate():
                yield
        finally:
            self._name, self._node = outside

    def call(self, operator: str, *arguments: Any, **words: Any) -> Any:
        """Add one operator of the dialect -> its Var, or a tuple of them. numpy arrays become constants.

        Raises:
            CannotLower: Core AI refuses it, in its own words.
        """
        return self._called(None, operator, arguments, words)

    def typed(self, operator: str, shape: Sequence[int | None], dtype: np.dtype[Any], *arguments: Any, **words: Any,
              ) -> Var:
        """As `call`, of an operator whose result's type must be told."""
        found: Var = self._called((tuple(shape), dtype), operator, arguments, words)
        return found

    def _called(self, like: Any, operator: str, arguments: tuple[Any, ...], words: Mapping[str, Any]) -> Any:
        given = [*([] if like is None else [self._type(*like)]), *map(self._value, arguments)]
        named = {key: self._value(argument) for key, argument in words.items()}
        try:
            found = getattr(self._dialect, operator)(*given, **named)
            many = isinstance(found, Sequence) or type(found).__name__ == "OpResultList"
            results = list(found) if many else [getattr(found, "result", found)]
            results[0].owner.verify()
        except (self._ir.MLIRError, ValueError, TypeError, RuntimeError) as error:
            raise CannotLower(f"Core AI's {operator} refuses it: {_words(error)}") from None
        wrapped = tuple(self._wrapped(result, f"{operator}_{self._next()}") for result in results)
        self._remember(Call(operator, arguments, words, wrapped, like, self._name, self._node))
        return wrapped if many else wrapped[0]

    def _remember(self, call: Call) -> None:
        if self._traced:
            self.trace.calls.append(call)

    def resized(self, var: Var, shape: Sequence[int | None]) -> Var:
        """A result whose sizes are known better than the dialect infers them."""
        var.value.set_type(self._type(shape, var.dtype))
        return replace(var, shape=tuple(shape))

    def word(self, kind: str, word: str) -> Any:
        """A word of the dialect, such as a scatter mode."""
        return self._ir.Attribute.parse(f"#coreai.{kind}<{word}>")

    def condition(self, condition: Var, then_body: Callable[[], Sequence[Var]], else_body: Callable[[], Sequence[Var]],
                  like: Sequence[tuple[Sequence[int], np.dtype[Any]]]) -> tuple[Var, ...]:
        """If. like: shape and dtype of each result."""
        types = [self._type(shape, dtype) for shape, dtype in like]
        found, builders = self._dialect.if_(results=types, condition=condition.value)
        for block, body in zip(builders, (then_body, else_body), strict=True):
            with block:
                self._dialect.yield_([var.value for var in body()])
        results = [found] if len(types) == 1 else list(found)
        wrapped = tuple(self._wrapped(result, f"if_{self._next()}") for result in results)
        self._remember(Call(CONDITION, (condition,), {}, wrapped, None, self._name, self._node))
        return wrapped

    @contextmanager
    def inner_block(self) -> Iterator[None]:
        """Constants written inside are not visible after it."""
        outside = dict(self._shared)
        try:
            yield
        finally:
            self._shared = outside

    # ------------------------------------------------------------------ constants
    def constant(self, data: NDArray[Any]) -> Var:
        data = np.asarray(data)
        return replace(self._wrapped(self._value(data), f"constant_{self._next()}"),
                       data=data if self._traced else None)

    def constant4(self, codes: NDArray[Any], *, signed: bool) -> Var:
        """4-bit integers, two to a byte. The package's own constants of ml_dtypes' types hold other numbers."""
        element = import_module("coreai.authoring")
        kind = element.int4 if signed else element.uint4
        value = self._resource(pack4(codes.astype(np.int8)), self._spec(codes.shape, kind)._to_mlir())
        return Var(value, f"constant4_{self._next()}", tuple(codes.shape), np.dtype(np.int8 if signed else np.uint8),
                   codes if self._traced else None, signed)

    def _resource(self, data: NDArray[Any], kind: Any) -> Any:
        """A large constant under a name of ours: the package draws one at random, and files would never be equal."""
        attribute = self._ir.DenseResourceElementsAttr.get_from_buffer(data, f"weights_{self._next()}", kind)
        return self._dialect.ConstantOp(value=attribute).result

    # ------------------------------------------------------------------ inside
    def _value(self, argument: Any) -> Any:
        if isinstance(argument, Var):
            return argument.value
        if isinstance(argument, list) and any(isinstance(item, Var) for item in argument):
            return [self._value(item) for item in argument]
        if not isinstance(argument, np.ndarray | np.generic):
            return argument
        data = np.array(argument, order="C")
        if data.nbytes > _SHARED_UP_TO:
            return self._resource(data.view(np.uint8) if data.dtype == np.bool_ else data,
                                  self._type(data.shape, data.dtype))
        key = data.dtype.str, data.shape, data.tobytes()
        if key not in self._shared:
            self._shared[key] = self._dialect.constant(data)
        return self._shared[key]

    def _type(self, shape: Sequence[int | None], dtype: np.dtype[Any]) -> Any:
        return self._spec(tuple(FREE if dim is None else dim for dim in shape), dtype)._to_mlir()

    def _wrapped(self, value: Any, name: str) -> Var:
        kind = self._spec._from_mlir(value.type)
        shape = tuple(dim if dim >= 0 else None for dim in kind.shape)
        return Var(value, name, shape, np.dtype(kind.dtype.numpy))

    def _next(self) -> int:
        self._count += 1
        return self._count


def _words(error: Exception) -> str:
    """What a refusal says, without the places in Python files that it names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "see current operation" not in line]
    text = (told or lines or [type(error).__name__])[0]
    return text.rpartition(">>: ")[2].removeprefix("error: ") or text


# ---------------------------------------------------------------------- of a written program
@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Where a value lies in a written program. place: of the operator in the function. grid: what it is rounded to."""

    place: int
    grid: QuantParams | None = None


def inner_values(path: Path) -> dict[str, Stored]:
    """By the names that operators carry, the last of each; where it is quantized, its integers."""
    found: dict[str, Stored] = {}
    info = import_module("coreai.authoring").DebugInfo
    program = _loaded(path)  # which holds what is read of it
    for place, operator in enumerate(_function(program).entry_block.operations):
        kind, results = operator.operation.name, operator.operation.results
        if kind in ("coreai.constant", "coreai.output", "coreai.dequantize") or len(results) != 1:
            continue
        names = [entry.name for entry in info._from_mlir(operator.operation.location)._metadata]
        name = next((name for name in names if name != "op_id"), "")
        if kind == "coreai.quantize":
            found[name] = Stored(place, _grid(operator.operation))
        elif name not in found or found[name].grid is None:
            found[name] = Stored(place)
    return found


def with_outputs(path: Path, copy: Path, places: Sequence[int]) -> dict[int, str]:
    """Write a program anew with further outputs -> the name of each."""
    authoring = import_module("coreai.authoring")
    program = _loaded(path)
    function = _function(program)
    operators = list(function.entry_block.operations)
    names = {place: f"edgeq_inner_{place}" for place in places}
    with program._module._mlir_module.context, operators[0].location:
        function.outputs_spec = [*function.outputs_spec, *((name, operators[place].operation.results[0])
                                                           for place, name in names.items())]
        authoring.AIProgram(program._module).save_asset(copy)
    return names


def _loaded(path: Path) -> Any:
    return import_module("coreai.authoring").AIModelAsset.load(path).program


def _function(program: Any) -> Any:
    return program._get_graph(FUNCTION)


def _grid(quantize: Any) -> QuantParams | None:
    """None where the scales are several, or not constant."""
    scale, zero_point = (_number(quantize.operands[index]) for index in (1, 2))
    if scale is None or zero_point is None:
        return None
    kind = QuantType(8, signed=zero_point.dtype.kind == "i", symmetric=False)
    return QuantParams(kind, scale.astype(np.float32).reshape(()), zero_point.astype(np.int32).reshape(()))


def _number(value: Any) -> NDArray[Any] | None:
    """Of a constant with one element."""
    from_value = import_module("coreai.authoring.constant").constant_value
    facade = import_module("coreai.authoring.operation").Value
    try:
        data = from_value(facade._from_mlir(value))
    except ValueError:
        return None
    return np.asarray(data) if np.size(data) == 1 else None
