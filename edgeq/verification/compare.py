"""How far two runs of a network are apart."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.inference.session import Arrays
from edgeq.metrics import ErrorPower, comparable
from edgeq.verification.row_sets import MOST_PAIRS, RowSet, in_one_order, side_by_side


@dataclass(frozen=True, slots=True)
class Difference:
    """One output over all samples.

    sqnr_db: 10 log10(power of the reference / power of the difference). cosine: of the flattened outputs, mean over
    samples. max_abs: largest absolute difference. top1: share of samples whose largest score is at the same place;
    None where the output is not one row of scores. noise, signal: sums of squares, so that two differences can be put
    in relation.
    """

    output: str
    sqnr_db: float
    cosine: float
    max_abs: float
    top1: float | None
    noise: float
    signal: float


def compare(reference: Sequence[Arrays], got: Sequence[Arrays], sets: Sequence[RowSet] = (),
            ) -> tuple[Difference, ...]:
    """The difference of every output; both hold one dict per sample, with the same names and shapes. sets: the outputs
    whose rows may come in another order (see row_sets).

    Raises:
        ModelError: no sample: the model runs on none that was given or generated.
    """
    if not reference:
        raise ModelError("the model runs on no sample, so that nothing can be compared; give real ones with "
                         "--calibration")
    if sets:
        reference, got = in_one_order(reference, got, sets)
    return tuple(_difference(name, [r[name] for r in reference], [g[name] for g in got]) for name in reference[0])


def _difference(name: str, reference: list[NDArray[Any]], got: list[NDArray[Any]]) -> Difference:
    pairs = [_aligned(r, g) for r, g in zip(reference, got, strict=True)]
    error = ErrorPower.of(*zip(*pairs, strict=True))
    max_abs = max((float(np.abs(g - r).max(initial=0.0)) for r, g in pairs), default=0.0)
    cosine = float(np.mean([_cosine(r.ravel(), g.ravel()) for r, g in pairs]))
    return Difference(name, error.sqnr_db, cosine, max_abs, _top1(pairs), error.noise, error.signal)


def _aligned(reference: NDArray[Any], got: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64 of one shape, see `comparable`; another shape is wholly wrong, but for another number of rows,
    which the data may decide.
    """
    if reference.shape != got.shape and _may_match_rows(reference, got):
        return side_by_side(reference.astype(np.float64), got.astype(np.float64))
    if reference.shape != got.shape:
        return np.zeros(1), np.full(1, np.nan)
    if reference.dtype.kind in "OSU":  # text is right or wrong
        return np.ones(reference.shape), (reference == got).astype(np.float64)
    return comparable(reference, got.astype(np.float64))


def _may_match_rows(reference: NDArray[Any], got: NDArray[Any]) -> bool:
    numbers = all(array.ndim and array.dtype.kind in "fiub" and np.isfinite(array).all() for array in (reference, got))
    return numbers and reference.shape[1:] == got.shape[1:] and len(reference) * len(got) <= MOST_PAIRS


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else float(not a.any() and not b.any())


def _top1(pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> float | None:
    reference = pairs[0][0]
    if reference.size < 2 or reference.size != reference.shape[-1]:
        return None
    return float(np.mean([r.argmax() == g.argmax() for r, g in pairs]))
