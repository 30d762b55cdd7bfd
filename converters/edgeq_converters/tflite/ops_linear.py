"""Matrix products: FULLY_CONNECTED where the right side is constant, else BATCH_MATMUL."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeq.scheme import PerChannel, PerTensor
from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder, NeedsFloat
from edgeq_converters.tflite.kernels import INT4, INT16, grid
from edgeq_converters.tflite.layout import identity, swapped
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op
from edgeq_converters.tflite.weights import Filter, bias_tensor, weight_tensor


@op("Gemm")
def gemm(b: Builder, a: Value, w: Value, c: Value | None = None, *, alpha: float = 1.0, beta: float = 1.0,
         transA: int = 0,
         transB: int = 0) -> Value:
    """alpha * a [M,K] @ w [K,N] (or [N,K] with transB) + beta * c -> FULLY_CONNECTED."""
    if w.data is None:
        return _computed_gemm(b, a, w, c, alpha, beta, transA, transB)
    w = _scaled(w, alpha)
    if transA:
        tensor = b.read(a, (1, 0))
        return b.result(_linear(b, a, tensor, w, c, bool(transB), beta))
    if a.scrambled is not None and not (w.grid is not None and w.grid.scale.size > 1
                                        and not _by_output(w, bool(transB))):
        return b.result(_from_scrambled(b, a, w, c, bool(transB), beta))
    return b.result(_linear(b, a, b.read(a), w, c, bool(transB), beta))


def _by_output(w: Value, transposed: bool) -> bool:
    assert w.grid is not None
    granularity = w.grid.type.granularity
    return isinstance(granularity, PerChannel) and granularity.axis % 2 == (0 if transposed else 1)


def _from_scrambled(b: Builder, a: Value, w: Value, c: Value | None, transposed: bool, beta: float) -> Tensor:
    """The flattened input in the order that its tensor has, and the weight's rows in the same order."""
    assert a.scrambled is not None
    assert w.data is not None
    make, order = a.scrambled
    moved = replace(w, data=w.data[:, order] if transposed else w.data[order], tensors={}, reals={})
    tensor = make()
    if not b.integer:
        tensor = b.convert(tensor, None)
    elif a.grid is not None:
        tensor = b.convert(tensor, a.grid)
    return _linear(b, a, tensor, moved, c, transposed, beta)


def _scaled(w: Value, factor: float) -> Value:
    """alpha moves into the weights: exactly, into their scale, where they are integers."""
    if factor == 1:
        return w
    if w.grid is not None:
        if factor < 0:
            raise CannotLower("a negative alpha with quantized weights")
        grid = replace(w.grid, scale=(w.grid.scale * np.float32(factor)).astype(np.float32))
        return replace(w, grid=grid, tensors={}, reals={})
    assert w.data is not None
    return replace(w, data=(w.data * factor).astype(w.data.dtype), tensors={}, reals={}, half=False)


def _linear(b: Builder, x: Value, tensor: Tensor, w: Value, bias: Value | None, transposed: bool,
            beta: float = 1.0) -> Tensor:
    """tensor [..,K] @ constant w -> [..,N]; a bias that is no constant [N] becomes an ADD behind it."""
    n = w.shape[0 if transposed else 1]
    form = Filter("FULLY_CONNECTED", 0 if transposed else 1, (0, 1) if transposed else (1, 0))
    weight = weight_tensor(b, x, w, form)
    out = (*tensor.shape[:-1], n)
    fused = bias is None or (bias.data is not None and bias.size in (1, n) and (bias.size == 1 or bias.shape[-1] == n))
    if not fused and b.integer:
        raise NeedsFloat("its bias is no constant per output")
    given = None
    if bias is not None and fused:
        data = np.broadcast_to(bias.data.ravel(), (n,)) if bias.data is not None else None
        wide = bias.grid is None or bias.grid.scale.size == 1 or bias.size == n
        given = replace(bias, shape=(n,), data=data, tensors={}, reals={}) if wide else bias
    made = b.call("FULLY_CONNECTED", [tensor, weight, bias_tensor(b, tensor, weight, given, n, beta)], out,
                  keepNumDims=len(out) != 2, asymmetricQuantizeInputs=tensor.grid is None and weight.grid is not None)
    if fused or bias is None:
        return made
    return _add(b, made, bias, beta)


def _add(b: Builder, tensor: Tensor, c: Value, beta: float) -> Tensor:
    """tensor + beta * c, where c broadcasts."""
    term = b.read(b.aligned(c, tensor.rank))
    if beta != 1:
        term = b.call("MUL", [term, b.constant(np.array(beta, np.float32))], term.shape)
    return b.call("ADD", [tensor, term], tensor.shape)


@op("Linear")
def linear(b: Builder, x: Value, w: Value, bias: Value) -> Value:
    """edgeq::Linear(x [..,K], w [K,N], bias [N])."""
    return b.result(_linear(b, x, b.read(x), w, bias, transposed=False))


def _computed_gemm(b: Builder, a: Value, w: Value, c: Value | None, alpha: float, beta: float, transA: int,
                   transB: int) -> Value:
    if b.integer:
        raise NeedsFloat("a Gemm of two computed matrices")
    left = b.read(a, (1, 0) if transA else None)
    right = b.read(w, (1, 0) if transB else None)
    made = b.call("BATCH_MATMUL", [left, right], b.shape)
    if alpha != 1:
        made = b.call("MUL", [made, b.constant(np.array(alpha, np.float32))], made.shape)
    return b.result(made if c is None else _add(b, made, c, beta))


@op("MatMul")
def matmul(b: Builder, x: Value, y: Value) -> Value:
    """NumPy's matmul: ranks from 1 up, batch axes broadcast."""
    if y.data is not None and y.rank == 2 and x.data is None and x.dtype == np.float32:
        return b.result(_linear(b, x, b.read(x), y, None, transposed=False))
    if x.dtype not in (np.float32, np.float16):
        raise CannotLower(f"a matrix product of {x.dtype}")
    for side in (x, y):
        if side.grid is not None and not isinstance(side.grid.type.granularity, PerTensor) and b.integer:
            raise NeedsFloat("a batched product with a scale per channel")
        if b.integer and side.data is not None and side.grid is not None and side.grid.type.bits != 8:
            raise NeedsFloat("a batched product with 4-bit numbers")
    left = b.aligned(x, 2)
    right = _column(b, y) if y.rank == 1 else y
    rank = max(left.rank, right.rank)
    left, right = b.aligned(left, rank), b.aligned(right, rank)
    if rank > 5:
        raise CannotLower("a matrix product with more than three batch axes")
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    out = (*batch, left.shape[-2], right.shape[-1])
    adjoint = right.data is None and b.common_layout(right) == swapped(rank)
    second = b.read(right, swapped(rank) if adjoint else identity(rank))
    if second.dtype == INT4:
        raise NeedsFloat("a batched product with 4-bit numbers")
    first = b.read(left)
    if first.dtype == INT16 and second.data is not None and second.grid is not None:  # the same numbers, wider
        second = b.constant(second.data.astype(INT16), grid(float(second.grid.scale), bits=16), name=y.name)
    made = b.through("BATCH_MATMUL", [first, second], out, adjY=adjoint)
    return b.result(b.reshape(made, b.shape))


def _column(b: Builder, y: Value) -> Value:
    """[K] -> [K, 1]."""
    shape = (y.shape[0], 1)
    if y.data is not None:
        return replace(y, shape=shape, data=y.data.reshape(shape), tensors={}, reals={})
    tensor = b.reshape(b.read(y), shape)
    return Value(y.name, shape, y.dtype, tensor.grid, tensors={(0, 1): tensor})

