"""Reductions, arg-reductions, running sums."""
from __future__ import annotations

from typing import Final

from .case import Case, case, const, given, x

_FORMS: Final = tuple(
    row for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin") for row in (
        case(f"{op}-last".lower(), op, x(2, 3, 5, 4), given([-1])),
        case(f"{op}-spatial".lower(), op, x(2, 3, 5, 4), given([2, 3])),
        case(f"{op}-dropped".lower(), op, x(2, 3, 5, 4), given([1, -1]), keepdims=0),
        case(f"{op}-all".lower(), op, x(3, 5, 4), keepdims=1),
    ))

CASES: Final[tuple[Case, ...]] = (
    *_FORMS,
    case("reduce-sum-noop", "ReduceSum", x(2, 3, 5), noop_with_empty_axes=1),
    case("reduce-mean-all-dropped", "ReduceMean", x(3, 5, 4), keepdims=0),
    case("reduce-prod", "ReduceProd", x(2, 3, 5), given([1])),
    case("reduce-l1", "ReduceL1", x(2, 3, 5), given([-1]), keepdims=0),
    case("reduce-l2", "ReduceL2", x(2, 3, 5), given([1])),
    case("reduce-sum-square", "ReduceSumSquare", x(2, 3, 5), given([1, 2])),
    case("reduce-log-sum", "ReduceLogSum", x(2, 3, 5, low=0.5, high=2), given([1])),
    case("reduce-log-sum-exp", "ReduceLogSumExp", x(2, 3, 5), given([-1])),
    case("arg-max", "ArgMax", x(2, 3, 5, lattice=0.25), axis=-1),
    case("arg-max-axis-1-dropped", "ArgMax", x(2, 3, 5, 4, lattice=0.25), axis=1, keepdims=0),
    case("arg-max-last-index", "ArgMax", x(2, 9, lattice=0.5), axis=1, select_last_index=1),
    case("arg-min", "ArgMin", x(2, 3, 5, lattice=0.25), axis=0),
    case("top-k", "TopK", x(3, 8), given([3]), outputs=("y", "indices")),
    case("top-k-axis-smallest", "TopK", x(5, 3, 4), given([2]), outputs=("y", "indices"), axis=0, largest=0),
    case("cross-entropy", "SoftmaxCrossEntropyLoss", x(3, 5), given([4, 0, 2])),
    case("cross-entropy-sum", "SoftmaxCrossEntropyLoss", x(2, 5, 3), given([[4, 0, 2], [1, 1, 3]]), reduction="sum"),
    case("cross-entropy-weights", "SoftmaxCrossEntropyLoss", x(3, 5), given([4, 0, 2]), const(5, low=0.5, high=2),
         reduction="none", ignore_index=0),
    case("log-likelihood", "NegativeLogLikelihoodLoss", x(3, 5), given([4, 0, 2])),
    case("cum-sum", "CumSum", x(3, 6), given(1)),
    case("cum-sum-exclusive-reverse", "CumSum", x(2, 5, 3), given(-2), exclusive=1, reverse=1),
)
