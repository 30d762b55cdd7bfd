"""Reading and writing at indices."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower

# ONNX reduction -> MIL scatter mode
MODES: Final = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def _from_front(b: Builder, indices: Operand, size: int) -> Operand:
    """Indices counted from the front: Core ML's gather and scatter do not know negative ones."""
    known = b.known(indices)
    if known is not None:
        return Constant(np.where(known < 0, known + size, known).astype(np.int32))
    return b.op("mod", x=b.as_int(indices), y=size)


@op("Gather")
def gather(b: Builder, x: Operand, indices: Operand, *, axis: int = 0) -> Operand:
    axis %= b.rank(x)
    at = _from_front(b, indices, b.shape(x)[axis])
    if b.rank(at) == 0:  # one element: keep the axis, then drop it
        kept = b.through_int(x, lambda v: b.op("gather", x=v, indices=b.reshape(at, (1,)), axis=axis))
        return b.reshape(kept, [dim for a, dim in enumerate(b.shape(x)) if a != axis])
    return b.through_int(x, lambda v: b.op("gather", x=v, indices=at, axis=axis))


@op("GatherElements")
def gather_elements(b: Builder, x: Operand, indices: Operand, *, axis: int = 0) -> Operand:
    """MIL wants indices of x's size along every other axis."""
    axis %= b.rank(x)
    at, wanted = _from_front(b, indices, b.shape(x)[axis]), b.shape(indices)
    have = [n if a == axis else dim for a, (n, dim) in enumerate(zip(b.shape(x), wanted, strict=True))]
    if tuple(have) != b.shape(x):
        x = b.slice(x, [0] * len(have), have)
    return b.through_int(x, lambda v: b.op("gather_along_axis", x=v, indices=at, axis=axis))


def _tuples_from_front(b: Builder, indices: Operand, sizes: Sequence[int]) -> Operand:
    """indices [..,k] into k axes of the given sizes."""
    known = b.known(indices)
    if known is not None:
        return Constant(np.where(known < 0, known + np.array(sizes), known).astype(np.int32))
    return b.op("mod", x=b.as_int(indices), y=np.array(sizes, np.int32))


@op("GatherND")
def gather_nd(b: Builder, x: Operand, indices: Operand, *, batch_dims: int = 0) -> Operand:
    count = b.shape(indices)[-1]
    at = _tuples_from_front(b, indices, b.shape(x)[batch_dims:batch_dims + count])
    result = b.through_int(x, lambda v: b.op("gather_nd", x=v, indices=at, batch_dims=batch_dims))
    return b.reshape(result, (*b.shape(indices)[:-1], *b.shape(x)[batch_dims + count:]))


@op("ScatterElements")
def scatter_elements(b: Builder, x: Operand, indices: Operand, updates: Operand, *, axis: int = 0,
                     reduction: str = "none") -> Var:
    """MIL wants indices of x's size along every other axis; smaller ones become a scatter of index tuples."""
    axis %= b.rank(x)
    shape, wanted = b.shape(x), b.shape(indices)
    if all(n == w for a, (n, w) in enumerate(zip(shape, wanted, strict=True)) if a != axis):
        at = _from_front(b, indices, shape[axis])
        return b.op("scatter_along_axis", data=x, indices=at, updates=updates, axis=axis, mode=MODES[reduction])
    known = b.known(indices)
    if known is None:
        raise CannotLower("computed indices that are smaller than the data")
    grid = np.indices(wanted)
    grid[axis] = np.where(known < 0, known + shape[axis], known)
    tuples = np.moveaxis(grid, 0, -1).astype(np.int32)
    return b.op("scatter_nd", data=x, indices=Constant(tuples), updates=updates, mode=MODES[reduction])


@op("ScatterND")
def scatter_nd(b: Builder, x: Operand, indices: Operand, updates: Operand, *, reduction: str = "none") -> Var:
    at = _tuples_from_front(b, indices, b.shape(x)[:b.shape(indices)[-1]])
    return b.op("scatter_nd", data=x, indices=at, updates=updates, mode=MODES[reduction])
