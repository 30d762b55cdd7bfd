"""Control flow, state and lists: the ops that need the running program. See .../ops/defs/iOS15/control_flow.py."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from edgeq.verification.mlpackage.ops.shaping import as_tuple
from edgeq.verification.mlpackage.optable import CannotRun, OpTable
from edgeq.verification.mlpackage.types import Array
from edgeq.verification.mlpackage.windows import integers

op = OpTable()

_MOST_ITERATIONS = 1_000_000


class Scope(Protocol):
    """What such an op may do: run its own blocks, and reach the state."""

    def run_block(self, number: int, *arguments: Any) -> tuple[Any, ...]:
        """The outputs of the op's block ``number``, its inputs bound to ``arguments``."""
        ...

    @property
    def state(self) -> dict[str, Array]: ...


@op("cond", exact=True)
def cond(pred: Any, scope: Scope) -> tuple[Any, ...]:
    return scope.run_block(0 if bool(np.asarray(pred)) else 1)


@op("while_loop", exact=True)
def while_loop(loop_vars: Any, scope: Scope) -> tuple[Any, ...]:
    values = as_tuple(loop_vars)
    for _ in range(_MOST_ITERATIONS):
        if not bool(np.asarray(scope.run_block(0, *values)[0])):
            return values
        values = scope.run_block(1, *values)
    raise CannotRun(f"no end after {_MOST_ITERATIONS} iterations")


@op("read_state", exact=True)
def read_state(input: str, scope: Scope) -> Array:
    return scope.state[input]


@op("write_state")
def write_state(input: str, data: Array, scope: Scope) -> tuple[Array, ...]:
    """Replace what the state holds; other programs may still hold the old array."""
    scope.state[input] = np.array(data)
    return ()


@op("make_list")
def make_list(elem_shape: Any, init_length: Any = 1, dynamic_length: bool = True, dtype: str = "fp32") -> list[Any]:
    return [None] * int(np.asarray(init_length))


@op("list_length")
def list_length(ls: list[Any]) -> Array:
    return np.array(len(ls), np.int32)


@op("list_read")
def list_read(ls: list[Any], index: Any) -> Array:
    return np.asarray(ls[int(np.asarray(index))])


@op("list_write")
def list_write(ls: list[Any], index: Any, value: Array) -> list[Any]:
    return list_scatter(ls, [index], [value])


@op("list_gather")
def list_gather(ls: list[Any], indices: Any) -> Array:
    return np.stack([ls[place] for place in integers(indices, 0, 0)])


@op("list_scatter")
def list_scatter(ls: list[Any], indices: Any, value: Any) -> list[Any]:
    """A list grows where an index is beyond its end."""
    result = list(ls)
    for place, element in zip(integers(indices, 0, 0), value, strict=True):
        result += [None] * (place + 1 - len(result))
        result[place] = element
    return result
