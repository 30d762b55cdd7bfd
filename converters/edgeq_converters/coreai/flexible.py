"""One program for all sizes, see edgeq_converters.unify: what was added for a few sizes is added once more, with sizes
that are free where those differ.

    reshape(x, [1, 16, 32])   reshape(x, [1, 15, 32])   reshape(x, [1, 10, 32])     =>     reshape(x, [1, T, 32])

T is read from the shape of an input or another value at run time.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeq_converters.coreai.dialect import CONDITION, Call, Program, Trace, Var
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

COMPRESSED: Final = frozenset({"blockwise_shift_scale", "lut_to_dense"})
REST: Final = -1
OTHER: Final = "it becomes other operators for another size"


def flexible(target: str, traces: Sequence[Trace], free: Mapping[str, Free]) -> Program:
    """traces: of one graph under the witness sizes.

    Raises:
        UnsupportedModel: a node whose form depends on a size.
    """
    program = Program()
    sizes = {name: columns(trace.inputs[name].shape for trace in traces)  # type: ignore[misc]
             for name in traces[0].inputs}
    with program.function({name: (_free(sizes[name]), var.dtype) for name, var in traces[0].inputs.items()}) as given:
        made = _Replay(program, free)
        for name, var in given.items():
            made.new[traces[0].inputs[name]] = var
            made.known[var] = sizes[name]
        side_by_side(target, [trace.calls for trace in traces], made.unify, lambda call: call.node, free)
        program.give({name: made.argument([trace.outputs[name] for trace in traces]) for name in traces[0].outputs})
    return program


def _free(sizes: Sequence[Column]) -> tuple[int | None, ...]:
    return tuple(None if varies(column) else column[0] for column in sizes)


class _Replay:
    """new: a value of the first trace -> the one of the program. known: sizes under each witness. cut: of compressed
    tables that are longer than what is read.
    """

    def __init__(self, program: Program, free: Mapping[str, Free]):
        self.program, self.free = program, free
        self.new: dict[Var, Var] = {}
        self.known: dict[Var, list[Column]] = {}
        self.cut: dict[Var, list[Column]] = {}
        self.vectors: dict[Any, Var] = {}  # what was computed from sizes so far

    def unify(self, calls: Sequence[Call]) -> None:
        first = calls[0]
        if len({(call.operator, len(call.arguments), tuple(call.words), len(call.results)) for call in calls}) > 1:
            raise Differs(OTHER)
        if first.operator == CONDITION:
            raise Differs("bodies of If are written for fixed sizes")
        compressed = first.operator in COMPRESSED
        sizes = [columns(var.shape for var in each)
                 for each in zip(*(call.results for call in calls), strict=True)]
        with self.program.named(first.name, first.node):
            places = list(zip(*(call.arguments for call in calls), strict=True))
            if first.operator == "reshape":
                given = [self.argument(places[0]), self._left_over(places[1])]
            else:
                given = list(map(self._longest if compressed else self.argument, places))
            words = {key: self.argument([call.words[key] for call in calls]) for key in first.words}
            if first.like is None:
                found = self.program.call(first.operator, *given, **words)
            else:
                found = self.program.typed(first.operator, _free(sizes[0]), first.like[1], *given, **words)
        results = found if isinstance(found, tuple) else (found,)
        for old, new, along in zip(first.results, results, sizes, strict=True):
            if compressed:
                self.new[old] = new
                if any(map(varies, along)):
                    self.cut[old] = along
            else:
                self.new[old] = new = self.program.resized(new, _free(along))
                self.known[new] = along

    def _left_over(self, shapes: Arrays) -> Any:
        """A shape in which one number varies is what is left over: it may be the product of several sizes."""
        varying = np.any([shape != shapes[0] for shape in shapes], axis=0)
        if np.count_nonzero(varying) != 1:
            return self.argument(shapes)
        return np.where(varying, REST, shapes[0]).astype(shapes[0].dtype)

    def argument(self, values: Sequence[Any]) -> Any:
        """What the calls were given in one place -> what the new one is given."""
        first = values[0]
        if isinstance(first, list):
            if len({len(value) for value in values}) > 1:
                raise Differs(OTHER)
            return [self.argument(each) for each in zip(*values, strict=True)]
        if isinstance(first, Var) and first.data is None:
            if any(not isinstance(value, Var) or value.data is not None for value in values):
                raise Differs(OTHER)
            return self._sliced(self.new[first], self.cut[first]) if first in self.cut else self.new[first]
        if not isinstance(first, Var | np.ndarray | np.generic):
            if any(value != first for value in values):
                raise Differs(OTHER)
            return first
        arrays = [np.asarray(value.data if isinstance(value, Var) else value) for value in values]
        return self._same(first) if equal(arrays) else self._replaced(arrays)

    def _same(self, given: Any) -> Any:
        """A constant of the first trace."""
        if not isinstance(given, Var) or given.data is None:
            return given
        if given not in self.new:
            self.new[given] = self.program.constant(given.data) if given.four is None else self.program.constant4(
                given.data, signed=given.four)
        return self.new[given]

    def _longest(self, values: Sequence[Any]) -> Any:
        """A compressed table stays as long as the longest, and is cut where it is read."""
        arrays = [np.asarray(value.data if isinstance(value, Var) else value) for value in values]
        if not equal(arrays):
            table(arrays, self.free)
        return self._same(values[0])

    def _replaced(self, arrays: Arrays) -> Var:
        """A constant that is another one for another size."""
        kind = arrays[0].dtype
        numbers = as_sizes([array.astype(np.int64) if kind.kind == "u" else array for array in arrays])
        if numbers is not None:
            return self._numbers(numbers, arrays[0].shape, kind)
        sizes = columns(array.shape for array in arrays)
        if table(arrays, self.free) == "cut":
            return self._sliced(self.program.constant(arrays[0]), sizes)
        number, wanted = arrays[0].reshape(-1)[0], self._numbers(sizes, (len(sizes),), np.dtype(np.uint32))
        return self.program.resized(self.program.call("broadcast_to", number, wanted), _free(sizes))

    def _sliced(self, var: Var, sizes: Sequence[Column]) -> Var:
        rank, whole = len(sizes), np.dtype(np.int32)
        found = self.program.call("slice_", var, np.zeros(rank, whole), self._numbers(sizes, (rank,), whole),
                                  np.ones(rank, whole))
        return self.program.resized(found, _free(sizes))

    def _numbers(self, numbers: Sequence[Column], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Var:
        """Of this shape, each number read from the shape of a value where it varies."""
        key = tuple(numbers), shape, dtype
        if key not in self.vectors:
            parts = [self._size(followed(column, self.known)) for column in numbers]
            vector = parts[0] if len(parts) == 1 else self.program.call("concat", np.int32(0), parts)
            if shape != (len(parts),):
                vector = self.program.call("reshape", vector, np.array(shape, np.int32))
            self.vectors[key] = vector if dtype == np.int32 else self.program.call("cast", vector, dtype.type)
        return self.vectors[key]

    def _size(self, size: int | Size[Var]) -> Any:
        """int32 [1]"""
        if isinstance(size, int):
            return np.array([size], np.int32)
        call, axis = self.program.call, np.array([size.axis], np.int32)
        made: Var = call("slice_", call("get_shape", size.value), axis, axis + np.int32(1), np.ones(1, np.int32))
        made = call("cast", made, np.int32)
        if size.factor != 1:
            made = call("broadcasting_mul", made, np.int32(size.factor))
        return made if not size.offset else call("broadcasting_add", made, np.int32(size.offset))
