"""One file for all sizes: what the programs for a few sizes have in common, and where they differ, how it follows.

Every handler lowers for sizes that are numbers. The same graph is lowered under a few witness sizes (see
edgeq.dimensions.witnesses); operators and weights are then the same, and what differs is the shapes of tensors, which
kernels compute anew after `ResizeInputTensor`, and constants that name a size:

    RESHAPE(x, [1, 16, 32])   RESHAPE(x, [1, 15, 32])   RESHAPE(x, [1, 10, 32])     =>     RESHAPE(x, [1, -1, 32])

Two sizes in one constant are read from the shape of a tensor at run time (SHAPE). Anything else that differs is
refused, with the node that it was made for.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq.dimensions import Sizes
from edgeq.errors import Problem, UnsupportedModel
from edgeq_converters.tflite.program import Operator, Program, Tensor
from edgeq_runtime.dimensions import Free, Range

Column: TypeAlias = tuple[int, ...]  # a number under each witness
Arrays: TypeAlias = Sequence[NDArray[Any]]  # a constant under each witness

REST: Final = -1  # RESHAPE: what is left over; SLICE: to the end
LONGEST: Final = 64  # numbers of a constant that may be sizes
INT32: Final = np.dtype(np.int32)
INT32_TYPE: Final = 2  # TensorType of the schema


class Differs(Exception):
    """The programs differ in what no kernel computes from a size; the text says in what."""


@dataclass(frozen=True, slots=True)
class Size:
    """A size at run time: factor * (an axis of a tensor) + offset."""

    tensor: Tensor
    axis: int
    factor: int = 1
    offset: int = 0


def resizable(programs: Sequence[Program], seen: Sequence[Sizes], free: Mapping[str, Free]) -> Program:
    """The programs of one graph under the sizes `seen` -> the program for every size that the limits allow.

    The first has the largest sizes. Its tensors become those of the result, with their free axes marked.

    Raises:
        UnsupportedModel: nodes whose form depends on a size.
    """
    return _Unification(programs, seen, free).run()


@dataclass
class _Unification:
    programs: Sequence[Program]
    seen: Sequence[Sizes]
    free: Mapping[str, Free]
    columns: dict[Tensor, list[Column]] = field(default_factory=dict)  # of computed tensors, one an axis
    made: list[Operator] = field(default_factory=list)
    vectors: dict[Any, Tensor] = field(default_factory=dict)

    def run(self) -> Program:
        first = self.programs[0]
        for name, tensor in first.inputs.items():
            self._know([tensor, *(other.inputs[name] for other in self.programs[1:])])
        problems = []
        for operators in zip(*(program.operators for program in self.programs), strict=False):
            try:
                self._unify(operators)
            except Differs as error:
                problems.append(self._problem(operators[0], str(error)))
                break  # what follows may differ for this reason alone
        if not problems and len({len(program.operators) for program in self.programs}) > 1:
            longest = max((program.operators for program in self.programs), key=len)
            problems.append(self._problem(longest[len(self.made)], "it becomes more operators for a larger size"))
        if problems:
            raise UnsupportedModel("tflite", problems)
        for tensor, columns in self.columns.items():
            tensor.free = tuple(axis for axis, column in enumerate(columns) if len(set(column)) > 1)
        return Program(self.made, first.inputs, first.outputs)

    def _problem(self, operator: Operator, reason: str) -> Problem:
        names = " and ".join(f"'{name}'" for name in self.free)
        node, op = operator.node or (operator.outputs[0].name, operator.kernel)
        return Problem(node, op, f"{reason}, so it needs {names} at conversion", "give a number for it with --input")

    def _know(self, tensors: Sequence[Tensor]) -> None:
        if len({tensor.rank for tensor in tensors}) > 1:
            raise Differs("its result has another rank for another size")
        self.columns[tensors[0]] = list(zip(*(tensor.shape for tensor in tensors), strict=True))

    # -- operators ---------------------------------------------------------------------------------------------------
    def _unify(self, operators: Sequence[Operator]) -> None:
        first = operators[0]
        if any(not _alike(first, other) for other in operators[1:]):
            raise Differs("it becomes other operators for another size")
        operator = replace(first, inputs=list(first.inputs), options=dict(first.options))
        for index, tensors in enumerate(zip(*(operator.inputs for operator in operators), strict=True)):
            given = [tensor for tensor in tensors if tensor is not None]
            arrays = [tensor.data for tensor in given if tensor.data is not None]
            if arrays and not _equal(arrays):
                operator.inputs[index] = self._constant(operator, index, given[0], arrays)
        self.made.append(operator)
        for results in zip(*(operator.outputs for operator in operators), strict=True):
            self._know(results)

    def _constant(self, operator: Operator, index: int, tensor: Tensor, arrays: Arrays) -> Tensor:
        """A constant that is another one for another size."""
        if tensor.dtype.kind == "i" and tensor.grid is None and tensor.data is not None and (
                tensor.data.size <= LONGEST and len({array.shape for array in arrays}) == 1):
            columns = list(zip(*(map(int, array.ravel()) for array in arrays), strict=True))
            return self._open_end(operator, index, columns) or self._numbers(operator, columns, tensor.shape)
        if len({array.ndim for array in arrays}) > 1 or len({array.shape for array in arrays}) == 1:
            raise Differs("it holds other numbers for another size")
        sizes = list(zip(*(array.shape for array in arrays), strict=True))
        shape = self._numbers(operator, sizes, (tensor.rank,))
        if len(np.unique(np.concatenate([array.ravel() for array in arrays]))) == 1:
            one = replace(tensor, shape=(1,) * tensor.rank, data=arrays[0][(slice(0, 1),) * tensor.rank])
            return self._sized(operator, "BROADCAST_TO", [one, shape], tensor, sizes)
        ends = all(isinstance(limit, Range) and limit.high is None for limit in self.free.values())
        if ends or any(not np.array_equal(arrays[0][tuple(map(slice, array.shape))], array) for array in arrays):
            raise Differs("it holds other numbers for another size" if not ends else
                          "it holds a table whose length has no limit")
        return self._sized(operator, "SLICE", [tensor, _vector([0] * tensor.rank), shape], tensor, sizes)

    def _sized(self, operator: Operator, kernel: str, inputs: list[Tensor], like: Tensor,
               sizes: list[Column]) -> Tensor:
        """What replaces a constant: on its grid, and as large as a run makes it."""
        result = self._call(operator, kernel, inputs, like.shape, like.dtype)
        result.grid, self.columns[result] = like.grid, sizes
        return result

    def _open_end(self, operator: Operator, index: int, columns: list[Column]) -> Tensor | None:
        """RESHAPE and SLICE have a word for one size, or for those that reach to the end."""
        varying = [k for k, column in enumerate(columns) if len(set(column)) > 1]
        source = self.columns.get(operator.inputs[0]) if operator.inputs[0] is not None else None
        if (operator.kernel, index) == ("RESHAPE", 1):
            operator.options.pop("newShape", None)
            said = len(varying) == 1
        elif (operator.kernel, index) == ("SLICE", 2) and source is not None and operator.inputs[1] is not None:
            begin = operator.inputs[1].data
            said = begin is not None and all(
                tuple(int(begin[k]) + size for size in columns[k]) == source[k] for k in varying)
        else:
            return None
        return _vector([REST if k in varying else column[0] for k, column in enumerate(columns)]) if said else None

    # -- sizes at run time -------------------------------------------------------------------------------------------
    def _numbers(self, operator: Operator, columns: Sequence[Column], shape: tuple[int, ...]) -> Tensor:
        """int32 of this shape, each number read from a tensor where it varies."""
        key = (tuple(columns), shape)
        if key not in self.vectors:
            parts: list[Tensor] = []
            for column in columns:
                size = self._size(operator, column)
                parts.append(_vector([size]) if isinstance(size, int) else self._scaled(operator, size))
            vector = parts[0] if len(parts) == 1 else self._call(
                operator, "CONCATENATION", parts, (len(parts),), axis=0)
            if shape != (len(parts),):
                vector = self._call(operator, "RESHAPE", [vector, _vector(shape)], shape)
            self.vectors[key] = vector
        return self.vectors[key]

    def _size(self, operator: Operator, column: Column) -> int | Size:
        if len(set(column)) == 1:
            return column[0]
        axes = [(tensor, axis, there) for tensor, sizes in self.columns.items() for axis, there in enumerate(sizes)]
        for tensor, axis, there in axes:
            if there == column:
                return Size(tensor, axis)
        for tensor, axis, there in axes:
            factor, offset = _line(there, column)
            if factor:
                return Size(tensor, axis, factor, offset)
        raise Differs("it holds a number that follows from no size alone")

    def _scaled(self, operator: Operator, size: Size) -> Tensor:
        if size not in self.vectors:
            rank = size.tensor.rank
            if size.tensor not in self.vectors:
                self.vectors[size.tensor] = self._call(operator, "SHAPE", [size.tensor], (rank,),
                                                       outType=INT32_TYPE)
            made = self._call(operator, "SLICE", [self.vectors[size.tensor], _vector([size.axis]), _vector([1])], (1,))
            for kernel, number, neutral in (("MUL", size.factor, 1), ("ADD", size.offset, 0)):
                if number != neutral:
                    made = self._call(operator, kernel, [made, _vector([number])], (1,))
            self.vectors[size] = made
        return self.vectors[size]

    def _call(self, operator: Operator, kernel: str, inputs: list[Tensor], shape: tuple[int, ...],
              dtype: np.dtype[Any] = INT32, **options: Any) -> Tensor:
        """An operator in front of ``operator``."""
        result = Tensor(f"{operator.outputs[0].name}/{kernel.lower()}_{len(self.made)}", shape, dtype)
        self.made.append(Operator(kernel, list(inputs), [result], options, operator.node))
        return result


def _alike(one: Operator, other: Operator) -> bool:
    """Whether two operators differ in sizes only."""
    def options(operator: Operator) -> dict[str, Any]:
        return {key: value for key, value in operator.options.items() if key != "newShape"}

    def kinds(tensors: Iterable[Tensor | None]) -> list[tuple[Any, ...] | None]:
        return [None if t is None else (t.rank, t.dtype, t.data is None) for t in tensors]

    return (one.kernel == other.kernel and options(one) == options(other) and kinds(one.inputs) == kinds(other.inputs)
            and kinds(one.outputs) == kinds(other.outputs))


def _equal(arrays: Arrays) -> bool:
    return all(array is arrays[0] or np.array_equal(array, arrays[0]) for array in arrays[1:])


def _vector(numbers: Sequence[int]) -> Tensor:
    data = np.asarray(numbers, INT32)
    return Tensor("sizes", data.shape, INT32, None, data)


def _line(given: Column, wanted: Column) -> tuple[int, int]:
    """The whole numbers with wanted == factor * given + offset everywhere; (0, 0) where there are none."""
    for one, other in combinations(range(len(given)), 2):
        run, rise = given[other] - given[one], wanted[other] - wanted[one]
        if run and rise % run == 0:
            factor = rise // run
            offset = wanted[one] - factor * given[one]
            fits = all(factor * g + offset == w for g, w in zip(given, wanted, strict=True))
            return (factor, offset) if fits else (0, 0)
    return 0, 0
