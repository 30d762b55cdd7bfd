"""One file for all sizes: what the programs for a few sizes have in common, see edgeq_converters.unify.

Kernels compute shapes anew after `ResizeInputTensor`; what else names a size is replaced:

    RESHAPE(x, [1, 16, 32])   RESHAPE(x, [1, 15, 32])   RESHAPE(x, [1, 10, 32])     =>     RESHAPE(x, [1, -1, 32])

Two sizes in one constant are read from the shape of a tensor at run time (SHAPE). The file declares the largest sizes,
so that an interpreter can be prepared for them at once.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from edgeq_converters.tflite.program import Operator, Program, Tensor
from edgeq_converters.unify import (
    Arrays,
    Column,
    Differs,
    Size,
    as_sizes,
    columns,
    equal,
    followed,
    side_by_side,
    table,
    varies,
)
from edgeq_runtime.dimensions import Free

REST: Final = -1  # RESHAPE: what is left over; SLICE: to the end
INT32: Final = np.dtype(np.int32)
INT32_TYPE: Final = 2  # TensorType of the schema


def resizable(programs: Sequence[Program], free: Mapping[str, Free]) -> Program:
    """The programs of one graph under the witness sizes -> the program for every size that the limits allow.

    The tensors of the first become those of the result, with their free axes marked.

    Raises:
        UnsupportedModel: a node whose form depends on a size.
    """
    return _Unification(programs, free).run()


@dataclass
class _Unification:
    programs: Sequence[Program]
    free: Mapping[str, Free]
    known: dict[Tensor, list[Column]] = field(default_factory=dict)  # of computed tensors
    made: list[Operator] = field(default_factory=list)
    vectors: dict[Any, Tensor] = field(default_factory=dict)  # what was computed from sizes so far

    def run(self) -> Program:
        first = self.programs[0]
        for name, tensor in first.inputs.items():
            self.known[tensor] = columns(program.inputs[name].shape for program in self.programs)
        side_by_side("tflite", [program.operators for program in self.programs], self._unify, _node, self.free)
        for tensor, sizes in self.known.items():
            tensor.free = tuple(axis for axis, column in enumerate(sizes) if varies(column))
        return Program(self.made, first.inputs, first.outputs)

    def _unify(self, operators: Sequence[Operator]) -> None:
        first = operators[0]
        if any(not _alike(first, other) for other in operators[1:]):
            raise Differs("it becomes other operators for another size")
        operator = replace(first, inputs=list(first.inputs), options=dict(first.options))
        for index, tensors in enumerate(zip(*(operator.inputs for operator in operators), strict=True)):
            given = [tensor for tensor in tensors if tensor is not None]
            arrays = [tensor.data for tensor in given if tensor.data is not None]
            if arrays and not equal(arrays):
                operator.inputs[index] = self._constant(operator, index, given[0], arrays)
        self.made.append(operator)
        for results in zip(*(operator.outputs for operator in operators), strict=True):
            self.known[results[0]] = columns(tensor.shape for tensor in results)

    def _constant(self, operator: Operator, index: int, tensor: Tensor, arrays: Arrays) -> Tensor:
        """A constant that is another one for another size."""
        numbers = as_sizes(arrays) if tensor.grid is None else None
        if numbers is not None:
            return self._open_end(operator, index, numbers) or self._numbers(operator, numbers, tensor.shape)
        how, sizes = table(arrays, self.free), columns(array.shape for array in arrays)
        shape = self._numbers(operator, sizes, (tensor.rank,))
        if how == "cut":
            kernel, inputs = "SLICE", [tensor, _vector([0] * tensor.rank), shape]
        else:
            one = arrays[0][(slice(0, 1),) * tensor.rank]
            kernel, inputs = "BROADCAST_TO", [replace(tensor, shape=one.shape, data=one), shape]
        result = self._call(operator, kernel, inputs, tensor.shape, tensor.dtype)
        result.grid, self.known[result] = tensor.grid, sizes
        return result

    def _open_end(self, operator: Operator, index: int, numbers: list[Column]) -> Tensor | None:
        """RESHAPE and SLICE have a word for one size, or for those that reach to the end."""
        varying = [k for k, column in enumerate(numbers) if varies(column)]
        data, begin = operator.inputs[0], operator.inputs[1]
        if (operator.kernel, index) == ("RESHAPE", 1):
            operator.options.pop("newShape", None)
            said = len(varying) == 1
        elif (operator.kernel, index) == ("SLICE", 2) and data in self.known and begin is not None:
            start = begin.data
            said = start is not None and all(
                tuple(int(start[k]) + size for size in numbers[k]) == self.known[data][k] for k in varying)
        else:
            return None
        return _vector([REST if k in varying else column[0] for k, column in enumerate(numbers)]) if said else None

    # -- sizes at run time -------------------------------------------------------------------------------------------
    def _numbers(self, operator: Operator, numbers: Sequence[Column], shape: tuple[int, ...]) -> Tensor:
        """int32 of this shape, each number read from a tensor where it varies."""
        key = (tuple(numbers), shape)
        if key not in self.vectors:
            found = [followed(column, self.known) for column in numbers]
            parts = [_vector([size]) if isinstance(size, int) else self._size(operator, size) for size in found]
            vector = parts[0]
            if len(parts) > 1:
                vector = self._call(operator, "CONCATENATION", parts, (len(parts),), axis=0)
            if shape != (len(parts),):
                vector = self._call(operator, "RESHAPE", [vector, _vector(shape)], shape)
            self.vectors[key] = vector
        return self.vectors[key]

    def _size(self, operator: Operator, size: Size[Tensor]) -> Tensor:
        if size not in self.vectors:
            if size.value not in self.vectors:
                self.vectors[size.value] = self._call(operator, "SHAPE", [size.value], (size.value.rank,),
                                                      outType=INT32_TYPE)
            made = self._call(operator, "SLICE", [self.vectors[size.value], _vector([size.axis]), _vector([1])], (1,))
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


def _node(operator: Operator) -> tuple[str, str]:
    return operator.node or (operator.outputs[0].name, operator.kernel)


def _alike(one: Operator, other: Operator) -> bool:
    """Whether two operators differ in sizes only."""
    def options(operator: Operator) -> dict[str, Any]:
        return {key: value for key, value in operator.options.items() if key != "newShape"}

    def kinds(tensors: Iterable[Tensor | None]) -> list[tuple[Any, ...] | None]:
        return [None if t is None else (t.rank, t.dtype, t.data is None) for t in tensors]

    return (one.kernel == other.kernel and options(one) == options(other) and kinds(one.inputs) == kinds(other.inputs)
            and kinds(one.outputs) == kinds(other.outputs))


def _vector(numbers: Sequence[int]) -> Tensor:
    data = np.asarray(numbers, INT32)
    return Tensor("sizes", data.shape, INT32, None, data)
