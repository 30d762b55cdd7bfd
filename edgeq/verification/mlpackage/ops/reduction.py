"""Reductions: rows of a name and what it computes over axes. Reference: .../ops/defs/iOS15/reduction.py."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeq.verification.mlpackage.optable import OpTable
from edgeq.verification.mlpackage.types import Array

op = OpTable()
Axes = tuple[int, ...]


def _log_sum_exp(x: Array, axis: Axes, keepdims: bool) -> Array:
    largest = x.max(axis=axis, keepdims=True)
    total = np.log(np.exp(x - largest).sum(axis=axis, keepdims=True)) + largest
    return total if keepdims else total.squeeze(axis)


REDUCTIONS: dict[str, Callable[[Array, Axes, bool], Any]] = {
    "reduce_sum": lambda x, axis, keepdims: x.sum(axis=axis, keepdims=keepdims),
    "reduce_mean": lambda x, axis, keepdims: x.mean(axis=axis, keepdims=keepdims),
    "reduce_prod": lambda x, axis, keepdims: x.prod(axis=axis, keepdims=keepdims),
    "reduce_l1_norm": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis=axis, keepdims=keepdims)),
    "reduce_sum_square": lambda x, axis, keepdims: np.square(x).sum(axis=axis, keepdims=keepdims),
    "reduce_log_sum": lambda x, axis, keepdims: np.log(x.sum(axis=axis, keepdims=keepdims)),
    "reduce_log_sum_exp": _log_sum_exp,
}
REDUCTIONS_EXACT: dict[str, Callable[[Array, Axes, bool], Any]] = {
    "reduce_max": lambda x, axis, keepdims: x.max(axis=axis, keepdims=keepdims),
    "reduce_min": lambda x, axis, keepdims: x.min(axis=axis, keepdims=keepdims),
}
ARGUMENTS: dict[str, Callable[..., Any]] = {"reduce_argmax": np.argmax, "reduce_argmin": np.argmin}


def _over_axes(function: Callable[[Array, Axes, bool], Any]) -> Callable[..., Any]:
    def reduce(x: Array, axes: Any = None, keep_dims: bool = False) -> Any:
        over = tuple(range(x.ndim)) if axes is None else tuple(int(axis) % x.ndim for axis in np.ravel(axes))
        return function(x, over, keep_dims)

    return reduce


def _over_axis(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Array, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Any:
        return function(x, axis=axis, keepdims=keep_dims)

    return reduce


for _rows, _exact in ((REDUCTIONS, False), (REDUCTIONS_EXACT, True)):
    for _name, _function in _rows.items():
        op(_name, exact=_exact)(_over_axes(_function))
for _name, _argument in ARGUMENTS.items():
    op(_name)(_over_axis(_argument))
