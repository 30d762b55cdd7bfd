"""Matrix products."""
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower


@op("Linear")
def linear(b: Builder, x: Operand, w: Operand, bias: Operand = None) -> Var:
    """edgeq::Linear: x [..,K] @ w [K,N] constant + bias [N] -> [..,N]."""
    return _linear(b, x, w.transposed((1, 0)), bias)


def _linear(b: Builder, x: Operand, w: Constant, bias: Operand = None) -> Var:
    """x [..,K], w [N,K] constant, bias [N] constant -> [..,N]."""
    packed = b.weight(w, output_axis=0)
    shape = b.shape(x)
    if len(shape) > 3:  # linear takes ranks 1 to 3
        x = b.reshape(x, (int(np.prod(shape[:-1])), shape[-1]))
    if packed.multiplier is None:
        y = b.op("linear", x=x, weight=packed.var, bias=bias)
    else:
        y = b.op("mul", x=b.op("linear", x=x, weight=packed.var), y=packed.multiplier)
        y = y if bias is None else b.op("add", x=y, y=bias)
    return b.reshape(y, (*shape[:-1], w.shape[0])) if len(shape) > 3 else y


@op("MatMul")
def matmul(b: Builder, x: Operand, y: Operand) -> Operand:
    """numpy's matmul; a constant matrix on the right is a linear layer, whose weights may be packed."""
    left, right = b.shape(x), b.shape(y)
    if isinstance(y, Constant) and len(right) == 2 and b.kind(x) == "float" and len(left) >= 1:
        return _linear(b, x, y.transposed((1, 0)))
    if len(left) > 1 and len(right) > 1:
        return b.op("matmul", x=x, y=y)
    product = b.op("matmul", x=b.reshape(x, (1, *left)) if len(left) == 1 else x,
                   y=b.reshape(y, (*right, 1)) if len(right) == 1 else y)
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    return b.reshape(product, (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ())))


@op("Gemm")
def gemm(b: Builder, a: Operand, w: Operand, c: Operand = None, *, alpha: float = 1.0, beta: float = 1.0,
         transA: int = 0, transB: int = 0) -> Var:
    """alpha * a [M,K] @ w [K,N] (or [N,K] with transB) + beta * c, c broadcast to [M,N]."""
    if transA:
        a = b.transpose(a, (1, 0))
    if c is not None and beta != 1.0:
        c = Constant(c.real * np.asarray(beta, c.real.dtype)) if isinstance(c, Constant) else b.op(
            "mul", x=c, y=float(beta))
    if not isinstance(w, Constant) or b.kind(a) != "float":
        y = b.op("matmul", x=a, y=w, transpose_y=bool(transB))
        return _plus(b, _times(b, y, alpha), c)
    w = w if transB else w.transposed((1, 0))
    if alpha == 1.0 and isinstance(c, Constant) and c.data.size == w.shape[0] and c.shape[-1:] == w.shape[:1]:
        return _linear(b, a, w, Constant(c.real.reshape(-1)))
    return _plus(b, _times(b, _linear(b, a, w), alpha), c)


def _times(b: Builder, x: Var, factor: float) -> Var:
    if factor == 1.0:
        return x
    return b.op("mul", x=x, y=float(factor) if b.kind(x) == "float" else int(factor))


def _plus(b: Builder, x: Var, y: Operand) -> Var:
    return x if y is None else b.op("add", x=x, y=y)


@op("Einsum")
def einsum(b: Builder, *values: Operand, equation: str) -> Operand:
    """One or two operands, each index once per operand: permute, multiply matrices, permute back."""
    return _einsum(b, values, equation.replace(" ", ""))


def _einsum(b: Builder, values: tuple[Operand, ...], equation: str) -> Operand:
    terms, _, out = equation.partition("->")
    names = terms.split(",")
    if "..." in equation or len(values) > 2 or any(len(set(n)) != len(n) for n in (*names, out)):
        raise CannotLower(f"einsum {equation}")
    if not equation.count("->"):
        out = "".join(sorted(i for i in set("".join(names)) if "".join(names).count(i) == 1))
    size = {i: dim for n, v in zip(names, values, strict=True) for i, dim in zip(n, b.shape(v), strict=True)}
    if len(values) == 1:
        summed = [axis for axis, i in enumerate(names[0]) if i not in out]
        x = b.op("reduce_sum", x=values[0], axes=summed, keep_dims=True) if summed else values[0]
        kept = "".join(i for i in names[0] if i in out)
        return b.transpose(b.reshape(x, [size[i] for i in kept]), [kept.index(i) for i in out])
    left, right = names
    batch = "".join(i for i in left if i in right and i in out)
    inner = "".join(i for i in left if i in right and i not in out)
    rows = "".join(i for i in left if i not in right and i in out)
    columns = "".join(i for i in right if i not in left and i in out)
    if set(left + right) - set(batch + inner + rows + columns):
        raise CannotLower(f"einsum {equation} sums an index of one operand")

    def arranged(value: Operand, own: str, order: tuple[str, str, str]) -> Operand:
        x = b.transpose(value, [own.index(i) for part in order for i in part])
        return b.reshape(x, [int(np.prod([size[i] for i in part], dtype=int)) for part in order])

    product = b.op("matmul", x=arranged(values[0], left, (batch, rows, inner)),
                   y=arranged(values[1], right, (batch, inner, columns)))
    order = batch + rows + columns
    return b.transpose(b.reshape(product, [size[i] for i in order]), [order.index(i) for i in out])


MAX_DETERMINANT: Final = 4  # rows; the terms of Laplace's expansion grow as the factorial


@op("Det")
def det(b: Builder, x: Operand) -> Operand:
    """x [..,N,N] -> [..], expanded along the first row."""
    size, batch = b.shape(x)[-1], b.shape(x)[:-2]
    if size > MAX_DETERMINANT:
        raise CannotLower(f"the determinant of {size} rows; up to {MAX_DETERMINANT} are written out")
    flat = b.reshape(x, (int(np.prod(batch, dtype=int)), size, size))

    def minor(row: int, columns: Sequence[int]) -> Var:
        """Of the rows from `row` on and these columns, [batch,1,1]."""
        factors = [b.slice(flat, [0, row, c], [b.shape(flat)[0], row + 1, c + 1]) for c in columns]
        if len(columns) == 1:
            return factors[0]
        terms = [b.op("mul", x=factor, y=minor(row + 1, [c for c in columns if c != column]))
                 for factor, column in zip(factors, columns, strict=True)]
        return reduce(lambda total, term: b.op("sub" if term[0] % 2 else "add", x=total, y=term[1]),
                      enumerate(terms[1:], 1), terms[0])

    return b.reshape(minor(0, range(size)), batch)
