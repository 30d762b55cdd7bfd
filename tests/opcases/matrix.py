"""Gemm, MatMul, MatMul with a bias, Einsum."""
from __future__ import annotations

from typing import Final

import numpy as np

from .case import Case, case, const, given, then, x

KERNELS: Final = np.random.default_rng(0).integers(0, 250, (4, 3, 3, 2)).tolist()
LONG: Final = np.random.default_rng(1).integers(-128, 128, (4, 48, 3, 3)).tolist()  # 432 terms

CASES: Final[tuple[Case, ...]] = (
    case("gemm", "Gemm", x(3, 6), const(6, 4), const(4)),
    case("gemm-no-bias", "Gemm", x(3, 6), const(6, 4)),
    case("gemm-trans-b", "Gemm", x(3, 6), const(4, 6), const(4), transB=1),
    case("gemm-trans-a", "Gemm", x(6, 3), const(6, 4), const(4), transA=1),
    case("gemm-trans-both", "Gemm", x(6, 3), const(4, 6), const(4), transA=1, transB=1),
    case("gemm-alpha", "Gemm", x(3, 6), const(6, 4), const(4), alpha=0.5),
    case("gemm-beta", "Gemm", x(3, 6), const(6, 4), const(4), beta=0.25),
    case("gemm-alpha-beta", "Gemm", x(3, 6), const(4, 6), const(4), transB=1, alpha=1.5, beta=-0.5),
    case("gemm-bias-row", "Gemm", x(3, 6), const(6, 4), const(1, 4)),
    case("gemm-bias-column", "Gemm", x(3, 6), const(6, 4), const(3, 1)),
    case("gemm-bias-full", "Gemm", x(3, 6), const(6, 4), const(3, 4)),
    case("gemm-bias-scalar", "Gemm", x(3, 6), const(6, 4), given(0.75, "float32")),
    case("gemm-dynamic", "Gemm", x(3, 6), x(6, 4), x(4)),
    case("gemm-one-row", "Gemm", x(1, 33), const(5, 33), const(5), transB=1),
    case("gemm-relu", "Gemm", x(3, 6), const(4, 6), const(4), transB=1, tail=[then("Relu")]),
    case("matmul", "MatMul", x(3, 6), const(6, 4)),
    case("matmul-3d", "MatMul", x(2, 3, 6), const(6, 4)),
    case("matmul-4d", "MatMul", x(2, 3, 5, 6), const(6, 4)),
    case("matmul-vector", "MatMul", x(6), const(6, 4)),
    case("matmul-times-vector", "MatMul", x(3, 6), const(6)),
    case("matmul-constant-left", "MatMul", const(4, 5), x(5, 3)),
    case("matmul-constant-left-3d", "MatMul", const(4, 5), x(2, 5, 3)),
    case("matmul-constant-batched", "MatMul", x(2, 3, 6), const(2, 6, 4)),
    case("matmul-dynamic", "MatMul", x(3, 6), x(6, 4)),
    case("matmul-dynamic-3d", "MatMul", x(2, 3, 6), x(2, 6, 4)),
    case("matmul-dynamic-4d", "MatMul", x(2, 3, 5, 6), x(2, 3, 6, 4)),
    case("matmul-dynamic-broadcast", "MatMul", x(2, 1, 5, 6), x(3, 6, 4)),
    case("matmul-bias", "MatMul", x(3, 6), const(6, 4), tail=[then("Add", const(4))]),
    case("matmul-bias-3d", "MatMul", x(2, 3, 6), const(6, 4), tail=[then("Add", const(4))]),
    case("matmul-bias-4d", "MatMul", x(2, 3, 5, 6), const(6, 4), tail=[then("Add", const(4))]),
    case("matmul-bias-relu", "MatMul", x(2, 3, 6), const(6, 4), tail=[then("Add", const(4)), then("Relu")]),
    case("matmul-bias-per-row", "MatMul", x(3, 6), const(6, 4), tail=[then("Add", const(3, 1))]),
    case("einsum-batch", "Einsum", x(2, 3, 6), x(2, 6, 4), equation="bij,bjk->bik"),
    case("einsum-trans-b", "Einsum", x(2, 3, 6), x(2, 4, 6), equation="bid,bjd->bij"),
    case("einsum-heads", "Einsum", x(2, 5, 3, 4), x(2, 7, 3, 4), equation="bqhd,bkhd->bhqk"),
    case("einsum-constant", "Einsum", x(2, 3, 6), const(6, 4), equation="bij,jk->bik"),
    case("matmul-integer", "MatMulInteger", x(5, 7, dtype="uint8", high=250), x(7, 4, dtype="uint8", high=250),
         given(131, "uint8"), given(7, "uint8")),
    case("conv-integer-long", "ConvInteger", x(1, 48, 5, 4, dtype="uint8", high=256), given(LONG, "int8"),
         given(131, "uint8"), given(-3, "int8")),
    case("conv-integer", "ConvInteger", x(1, 3, 8, 6, dtype="uint8", high=250), given(KERNELS, "uint8"),
         given(131, "uint8"), given(7, "uint8"), strides=[2, 1]),
)
