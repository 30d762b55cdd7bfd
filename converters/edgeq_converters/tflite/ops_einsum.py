"""Einsum: diagonals and sums of single operands first, then products of two, from left to right."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op

SPARE = "αβγδεζηθ"  # stand for the axes of an ellipsis, counted from the last


@dataclass(frozen=True, slots=True)
class Term:
    """A tensor whose axes are named by letters, each once."""

    tensor: Tensor
    letters: str

    def size(self, letters: Sequence[str]) -> int:
        return int(np.prod([self.tensor.shape[self.letters.index(c)] for c in letters], dtype=np.int64))


@op("Einsum")
def einsum(b: Builder, *xs: Value, equation: str) -> Value:
    inputs, out = _letters(equation, [x.rank for x in xs])
    terms = []
    for position, (x, letters) in enumerate(zip(xs, inputs, strict=True)):
        others = out + "".join(inputs[:position] + inputs[position + 1:])
        terms.append(_alone(b, _diagonal(b, b.read(x), letters), others))
    made = terms[0]
    for position, term in enumerate(terms[1:], 2):
        made = _joined(b, made, term, out + "".join(t.letters for t in terms[position:]))
    made = _alone(b, made, out)
    # An axis of size 1 may stand for a longer one; the shape of the result is known.
    order = tuple(out.index(c) for c in made.letters)
    wanted = tuple(b.shape[axis] for axis in order)
    tensor = made.tensor if made.tensor.shape == wanted else b.through("BROADCAST_TO", [made.tensor, b.ints(wanted)],
                                                                       wanted)
    return b.result(tensor, order)


def _letters(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """-> a letter for each axis of each input and of the result."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise CannotLower(f"equation {equation} for {len(ranks)} inputs")
    widths = [rank - len(part.replace("...", "")) for part, rank in zip(parts, ranks, strict=True) if "..." in part]
    widest = max(widths, default=0)
    if not arrow:
        named = left.replace("...", "").replace(",", "")
        out = ("..." if widths else "") + "".join(sorted(c for c in set(named) if named.count(c) == 1))
    filled = [part.replace("...", _spare(rank - len(part.replace("...", "")))) for part, rank in
              zip(parts, ranks, strict=True)]
    return filled, out.replace("...", _spare(widest))


def _spare(count: int) -> str:
    return SPARE[:count][::-1]


def _diagonal(b: Builder, tensor: Tensor, letters: str) -> Term:
    """Letters that occur twice: the elements for which both axes agree."""
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            first = letters.index(letter)
            second = letters.index(letter, first + 1)
            rest = [axis for axis in range(tensor.rank) if axis not in (first, second)]
            size, others = tensor.shape[first], tuple(tensor.shape[axis] for axis in rest)
            moved = b.reshape(b.transpose(tensor, (first, second, *rest)), (size * size, *others))
            tensor = b.through("GATHER", [moved, b.ints(np.arange(size) * (size + 1))], (size, *others), axis=0)
            letters = letter + "".join(letters[axis] for axis in rest)
    return Term(tensor, letters)


def _alone(b: Builder, term: Term, needed: str) -> Term:
    """Axes that nobody else names are summed."""
    gone = [axis for axis, letter in enumerate(term.letters) if letter not in needed]
    if not gone:
        return term
    out = [size for axis, size in enumerate(term.tensor.shape) if axis not in gone]
    tensor = b.through("SUM", [term.tensor, b.ints(gone)], out, keepDims=False)
    return Term(tensor, "".join(c for axis, c in enumerate(term.letters) if axis not in gone))


def _joined(b: Builder, x: Term, y: Term, needed: str) -> Term:
    """Batch axes in both, summed axes in both and not needed any more -> BATCH_MATMUL between transposes."""
    shared = [c for c in x.letters if c in y.letters]
    one = {c for c in shared if x.size([c]) != y.size([c])}  # of size 1 on one side: that side goes along
    x, y = (_without(b, term, {c for c in one if term.size([c]) == 1}) for term in (x, y))
    batch = [c for c in x.letters if c in y.letters and c in needed]
    summed = [c for c in x.letters if c in y.letters and c not in needed]
    rows, columns = [c for c in x.letters if c not in y.letters], [c for c in y.letters if c not in x.letters]
    left = b.reshape(b.transpose(x.tensor, tuple(x.letters.index(c) for c in (*batch, *rows, *summed))),
                     (x.size(batch), x.size(rows), x.size(summed)))
    right = b.reshape(b.transpose(y.tensor, tuple(y.letters.index(c) for c in (*batch, *summed, *columns))),
                      (y.size(batch), y.size(summed), y.size(columns)))
    made = b.through("BATCH_MATMUL", [left, right], (x.size(batch), x.size(rows), y.size(columns)))
    shape = [(x if c in x.letters else y).size([c]) for c in (*batch, *rows, *columns)]
    return Term(b.reshape(made, shape), "".join((*batch, *rows, *columns)))


def _without(b: Builder, term: Term, gone: set[str]) -> Term:
    letters = "".join(c for c in term.letters if c not in gone)
    return Term(b.reshape(term.tensor, [term.size([c]) for c in letters]), letters) if gone else term
