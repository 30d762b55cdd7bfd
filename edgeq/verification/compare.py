"""How far two runs of a network are apart."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import ModelError
from edgeq.inference.columns import Parts, columns_of
from edgeq.inference.session import Arrays
from edgeq.metrics import ErrorPower, comparable
from edgeq.verification.row_sets import MOST_PAIRS, RowSet, in_one_order, side_by_side


@dataclass(frozen=True, slots=True)
class Difference:
    """One output over all samples.

    sqnr_db: 10 log10(power of the reference / power of the difference). cosine: of the flattened outputs, mean over
    samples. max_abs: largest absolute difference. noise, signal: sums of squares, so that two differences can be put in
    relation. And what the output is for, else None: top1, of one row of scores, is the share of samples whose largest
    score is at the same place; neighbours, of an embedding, that of samples to which the same other sample is nearest;
    psnr_db, of a picture, 10 log10(range of the reference squared / mean squared difference).
    """

    output: str
    sqnr_db: float
    cosine: float
    max_abs: float
    top1: float | None
    noise: float
    signal: float
    neighbours: float | None = None
    psnr_db: float | None = None


def compare(reference: Sequence[Arrays], got: Sequence[Arrays], sets: Sequence[RowSet] = (),
            parts: Mapping[str, Parts] = MappingProxyType({})) -> tuple[Difference, ...]:
    """The difference of every output; both hold one dict per sample, with the same names and shapes. sets: the outputs
    whose rows may come in another order (see row_sets). parts: of outputs, that are measured apart (see columns).

    Raises:
        ModelError: no sample: the model runs on none that was given or generated.
    """
    if not reference:
        raise ModelError("the model runs on no sample, so that nothing can be compared; give real ones with "
                         "--calibration")
    if sets:
        reference, got = in_one_order(reference, got, sets)
    reference, got = columns_of(reference, parts), columns_of(got, parts)
    return tuple(_difference(name, [r[name] for r in reference], [g[name] for g in got]) for name in reference[0])


def _difference(name: str, reference: list[NDArray[Any]], got: list[NDArray[Any]]) -> Difference:
    pairs = [_aligned(r, g) for r, g in zip(reference, got, strict=True)]
    error = ErrorPower.of(*zip(*pairs, strict=True))
    max_abs = max((float(np.abs(g - r).max(initial=0.0)) for r, g in pairs), default=0.0)
    cosine = float(np.mean([_cosine(r.ravel(), g.ravel()) for r, g in pairs]))
    rows = _rows(pairs)
    is_embedding = rows is not None and _has_unit_norm(rows[0])
    return Difference(name, error.sqnr_db, cosine, max_abs, None if rows is None or is_embedding else _top1(*rows),
                      error.noise, error.signal, _neighbours(*rows) if rows is not None and is_embedding else None,
                      _psnr(pairs))


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


Pairs: TypeAlias = list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def _rows(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """[samples, numbers] of an output that is one row; None of others."""
    reference = pairs[0][0]
    if reference.size < 2 or any(array.size != reference.shape[-1] for pair in pairs for array in pair):
        return None
    found, got = (np.stack([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return found, got


def _top1(reference: NDArray[np.float64], got: NDArray[np.float64]) -> float:
    return float(np.mean(reference.argmax(1) == got.argmax(1)))


def _has_unit_norm(rows: NDArray[np.float64]) -> bool:
    """Of an embedding. Probabilities have that where one of them is all, but none below 0."""
    return bool((rows < 0).any() and np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=policy.UNIT_NORM.value))


def _neighbours(reference: NDArray[np.float64], got: NDArray[np.float64]) -> float | None:
    """Of two samples, each is the other's."""
    if len(reference) < 3:
        return None
    near = [np.where(np.eye(len(rows), dtype=bool), -np.inf, rows @ rows.T).argmax(1) for rows in (reference, got)]
    return float(np.mean(near[0] == near[1]))


def _psnr(pairs: Pairs) -> float | None:
    """A picture has 1, 3 or 4 channels, first or last, and more than a few pixels each way."""
    shape, sizes = pairs[0][0].shape, pairs[0][0].shape[1:]
    least = policy.PICTURE_SIDE.value
    if len(shape) != 4 or not any(channels in (1, 3, 4) and min(rest) >= least for channels, rest in (
            (sizes[0], sizes[1:]), (sizes[-1], sizes[:-1]))):
        return None
    low, high = min(r.min() for r, _ in pairs), max(r.max() for r, _ in pairs)
    error = float(np.mean([np.square(g - r).mean() for r, g in pairs]))
    if not (error > 0 and high > low and np.isfinite(error)):
        return None
    return float(20 * np.log10(high - low) - 10 * np.log10(error))
