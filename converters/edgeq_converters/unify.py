"""One program for all sizes, read from the programs for a few: what backends share.

Every handler lowers for sizes that are numbers. A graph with free dimensions is lowered under a few witness sizes (see
edgeq.dimensions.witnesses); operators and weights are then the same, and what differs is the shapes of values, and
constants that name a size. Each of these is followed back to the axis of a value that it is read from at run time;
anything else that differs is refused, with the node that it was made for.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import Problem, UnsupportedModel
from edgeq_runtime.dimensions import Free, Range

V = TypeVar("V", bound=Hashable)
Made = TypeVar("Made")
Column: TypeAlias = tuple[int, ...]  # a number under each witness; the first has the largest sizes
Arrays: TypeAlias = Sequence[NDArray[Any]]  # a constant under each witness

LONGEST: Final = 64  # numbers of a constant that may be sizes


class Differs(Exception):
    """The programs differ in what no size explains; the text says in what."""


@dataclass(frozen=True, slots=True)
class Size(Generic[V]):
    """A size at run time: factor * (an axis of a value) + offset."""

    value: V
    axis: int
    factor: int = 1
    offset: int = 0


def columns(shapes: Iterable[Sequence[int]]) -> list[Column]:
    """The shapes of one value -> its sizes along each axis.

    Raises:
        Differs: the ranks are not equal.
    """
    found = [tuple(map(int, shape)) for shape in shapes]
    if len({len(shape) for shape in found}) > 1:
        raise Differs("its result has another rank for another size")
    return list(zip(*found, strict=True))


def varies(column: Column) -> bool:
    return len(set(column)) > 1


def followed(column: Column, known: Mapping[V, Sequence[Column]]) -> int | Size[V]:
    """A number, or the axis of a known value that it is read from.

    Raises:
        Differs: it follows from no axis.
    """
    if not varies(column):
        return column[0]
    axes = [(value, axis, there) for value, sizes in known.items() for axis, there in enumerate(sizes)]
    for value, axis, there in axes:
        if there == column:
            return Size(value, axis)
    for value, axis, there in axes:
        factor, offset = _line(there, column)
        if factor:
            return Size(value, axis, factor, offset)
    raise Differs("it holds a number that follows from no size alone")


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


def equal(arrays: Arrays) -> bool:
    return all(array is arrays[0] or np.array_equal(array, arrays[0]) for array in arrays[1:])


def as_sizes(arrays: Arrays) -> list[Column] | None:
    """The numbers of a constant that may hold sizes; None for one that is a table."""
    first = arrays[0]
    if first.dtype.kind != "i" or first.size > LONGEST or len({array.shape for array in arrays}) > 1:
        return None
    return list(zip(*(map(int, array.ravel()) for array in arrays), strict=True))


def table(arrays: Arrays, free: Mapping[str, Free]) -> Literal["filled", "cut"]:
    """How a table of another size is made: filled with its one number, or cut from the longest.

    Raises:
        Differs: neither is possible.
    """
    if len({array.ndim for array in arrays}) > 1 or len({array.shape for array in arrays}) == 1:
        raise Differs("it holds other numbers for another size")
    if len(np.unique(np.concatenate([array.ravel() for array in arrays]))) == 1:
        return "filled"
    if any(isinstance(limit, Range) and limit.high is None for limit in free.values()):
        raise Differs("it holds a table whose length has no limit")
    if any(not np.array_equal(arrays[0][tuple(map(slice, array.shape))], array) for array in arrays):
        raise Differs("it holds other numbers for another size")
    return "cut"


def side_by_side(target: str, listed: Sequence[Sequence[Made]], unify: Callable[[Sequence[Made]], None],
                 node_of: Callable[[Made], tuple[str, str]], free: Mapping[str, Free]) -> None:
    """Unify the operators of several programs, one after the other. listed: the operators of each program. node_of: for
    refusals, label and operator of the ONNX node that an operator was made for.

    Raises:
        UnsupportedModel: what differs follows from no size.
    """
    for operators in zip(*listed, strict=False):
        try:
            unify(operators)
        except Differs as error:  # what follows may differ for this reason alone
            raise _refusal(target, node_of(operators[0]), str(error), free) from None
    if len({len(operators) for operators in listed}) > 1:
        further = max(listed, key=len)[min(map(len, listed))]
        raise _refusal(target, node_of(further), "it becomes more operators for a larger size", free)


def _refusal(target: str, node: tuple[str, str], reason: str, free: Mapping[str, Free]) -> UnsupportedModel:
    names = " and ".join(f"'{name}'" for name in free)
    problem = Problem(*node, f"{reason}, so it needs {names} at conversion", "give a number for it with --input")
    return UnsupportedModel(target, [problem])
