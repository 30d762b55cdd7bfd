"""Matrix products and attention. Reference: .../ops/defs/iOS15/linear.py, .../iOS18/transformers.py."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

import math

import numpy as np

from edgeq.verification.mlpackage.functions import softmax
from edgeq.verification.mlpackage.optable import OpTable
from edgeq.verification.mlpackage.types import Array

op = OpTable()


@op("linear")
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x [..., I], weight [O, I], bias [O] -> [..., O]."""
    result = np.matmul(x, weight.T)
    if bias is not None:
        result += bias
    return result


@op("matmul")
def matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Array:
    left = x.swapaxes(-1, -2) if transpose_x and x.ndim > 1 else x
    right = y.swapaxes(-1, -2) if transpose_y and y.ndim > 1 else y
    return np.matmul(left, right)


@op("einsum")
def einsum(values: tuple[Array, ...], equation: str) -> Array:
    """MIL has one equation, "nchw,nwhu->nchu" with n optional (any letters): a matrix product per n and h.

    Other equations, should a later version have them, go to numpy.
    """
    x, y = values
    terms = equation.replace(" ", "").replace("->", ",").split(",")
    order: dict[str, str] = {}
    canonical = ",".join("".join(order.setdefault(letter, "abcdefgh"[len(order)]) for letter in term) for term in terms)
    if canonical in ("abcd,adce,abce", "abc,cbd,abd"):
        return np.matmul(x.swapaxes(-3, -2), y.swapaxes(-3, -2)).swapaxes(-3, -2)
    return np.asarray(np.einsum(equation, x, y, optimize=True))


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """query [..., L, E], key [..., S, E], value [..., S, V], mask bool or added [..., L, S] -> [..., L, V]."""
    scores = np.matmul(query * np.float32(1 / math.sqrt(query.shape[-1])), key.swapaxes(-1, -2))
    if attn_mask is not None:
        mask = np.asarray(attn_mask)
        scores = np.where(mask, scores, np.float32(-np.inf)) if mask.dtype == bool else scores + mask
    return np.matmul(softmax(scores, -1), value)
