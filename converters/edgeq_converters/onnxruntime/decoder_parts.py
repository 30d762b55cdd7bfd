"""A decoder's stored weights as ONNX Runtime's kernels read them: the same codes and scales as in GGUF.

A linear layer is DequantizeLinear and MatMul, which become MatMulNBits when a session loads:
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc
(DequantizeLinear in front of Gather would expand the whole table in every run.) A table that is the head too is stored
once, in the layout of MatMulNBits: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import Problem, UnsupportedModel
from edgeq.frontends.decoder.builder import Parts, Writer, weight_name
from edgeq.frontends.decoder.spec import Spec
from edgeq.quant.decoder import Key, QuantizedDecoder, StoredMatrix
from edgeq.quant.formats import FORMATS
from edgeq_converters.onnxruntime.decoder_graph import MICROSOFT

BLOCK: Final = 32
_FLOATS: Final = MappingProxyType({"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT})


@dataclass(frozen=True, slots=True)
class Integers:
    """How codes are stored. dtype: a numpy type with as many bits. zero: code of the level 0 in a table's bytes; None:
    no table takes it. shifted: a block has a minimum, which is added.
    """

    kind: ir.DataType
    dtype: Any
    bits: int
    zero: int | None
    shifted: bool = False


INTEGERS: Final[Mapping[str, Integers]] = MappingProxyType({
    "Q4_0": Integers(ir.DataType.INT4, ml_dtypes.int4, 4, 8),
    # Minima are no whole multiples of their scales, as zero points would be.
    "Q4_1": Integers(ir.DataType.UINT4, ml_dtypes.uint4, 4, None, shifted=True),
    "Q8_0": Integers(ir.DataType.INT8, np.int8, 8, 128),
})
LAYER_TYPES: Final = (*INTEGERS, *_FLOATS)
TABLE_TYPES: Final = (*(name for name, row in INTEGERS.items() if row.zero is not None), *_FLOATS)


def refuse_types(decoder: QuantizedDecoder) -> None:
    """Raises UnsupportedModel: weights of a type that has no kernel."""
    problems = []
    for (role, layer), matrix in decoder.matrices.items():
        known = TABLE_TYPES if role == "embedding" else LAYER_TYPES
        if matrix.type not in known:
            problems.append(Problem(weight_name(role, layer), matrix.type, (
                f"ONNX Runtime has kernels here for {', '.join(known)} alone; the target gguf takes this type")))
    if problems:
        raise UnsupportedModel("onnxruntime", problems)


def stored_parts(spec: Spec, decoder: QuantizedDecoder, accuracy_level: int = 4) -> Parts:
    """accuracy_level: of the product with a table, as session.qdq_matmulnbits_accuracy_level is of the others."""
    stored = _Stored(spec, decoder.matrices, accuracy_level)
    return Parts(stored.linear, stored.embedding, decoder.vector)


@dataclass(frozen=True, slots=True)
class _Stored:
    spec: Spec
    matrices: Mapping[Key, StoredMatrix]
    accuracy_level: int

    def linear(self, w: Writer, x: ir.Value, role: str, layer: int | None) -> ir.Value:
        if role == "head" and self.spec.tied:
            return self._head_of_table(w, x)
        name, matrix = weight_name(role, layer), self.matrices[role, layer]
        if matrix.type in _FLOATS:
            return w("MatMul", x, _floats(w, name, matrix, transposed=True), name=f"{name}.product")
        row, blocks = INTEGERS[matrix.type], matrix.columns // BLOCK
        grid, _ = FORMATS[matrix.type].unpack(matrix.data)
        codes = w.later(f"{name}.codes", row.kind, (matrix.columns, len(matrix.data)),
                        lambda: _levels(matrix).T.astype(row.dtype))
        weight = w("DequantizeLinear", codes, _half(w, f"{name}.scales", grid.scale.T), axis=0, block_size=BLOCK)
        y = w("MatMul", x, weight, name=f"{name}.product")
        if not row.shifted:
            return y
        sums = w("ReduceSum", w("Reshape", x, w.ints(0, 0, blocks, BLOCK)), w.ints(-1), keepdims=0)
        return w("Add", y, w("MatMul", sums, _half(w, f"{name}.minima", grid.offset.T)), name=f"{name}.sum")

    def embedding(self, w: Writer, tokens: ir.Value) -> ir.Value:
        matrix = self.matrices["embedding", None]
        if matrix.type in _FLOATS:
            rows = w("Gather", _table(w, matrix), tokens, name="embedding.rows")
            return rows if matrix.type == "F32" else w("Cast", rows, to=ir.DataType.FLOAT)
        row = INTEGERS[matrix.type]
        codes = w("Gather", _table(w, matrix), tokens)
        if row.bits == 4:
            codes = self._unpacked(w, codes)
        assert row.zero is not None
        levels = w("Sub", w("Cast", codes, to=ir.DataType.FLOAT), w.number(float(row.zero)))
        scale = w("Cast", w("Gather", _table_scales(w, matrix), tokens), to=ir.DataType.FLOAT)
        real = w("Mul", levels, w("Unsqueeze", scale, w.ints(-1)))
        return w("Reshape", real, w.ints(0, 0, matrix.columns), name="embedding.rows")

    def _unpacked(self, w: Writer, pairs: ir.Value) -> ir.Value:
        """[.., blocks, 16] bytes -> [.., blocks, 32] codes; the low half of a byte comes first."""
        low = w("BitwiseAnd", pairs, w.constant("low_half", np.asarray(15, np.uint8)))
        high = w("BitShift", pairs, w.constant("half_byte", np.asarray(4, np.uint8)), direction="RIGHT")
        both = w("Concat", w("Unsqueeze", low, w.ints(-1)), w("Unsqueeze", high, w.ints(-1)), axis=-1)
        return w("Reshape", both, w.ints(0, 0, 0, BLOCK))

    def _head_of_table(self, w: Writer, x: ir.Value) -> ir.Value:
        matrix = self.matrices["embedding", None]
        if matrix.type in _FLOATS:
            table = w("Transpose", _table(w, matrix), perm=[1, 0])
            real = table if matrix.type == "F32" else w("Cast", table, to=ir.DataType.FLOAT)
            return w("MatMul", x, real, name="head.product")
        scales = w("Cast", _table_scales(w, matrix), to=ir.DataType.FLOAT)
        return w("MatMulNBits", x, _table(w, matrix), scales, name="head.product", domain=MICROSOFT,
                 K=matrix.columns, N=len(matrix.data), bits=INTEGERS[matrix.type].bits, block_size=BLOCK,
                 accuracy_level=self.accuracy_level)


def _table(w: Writer, matrix: StoredMatrix) -> ir.Value:
    """The rows as floats [V,n], or their codes as bytes [V, blocks, bytes of a block]."""
    if matrix.type in _FLOATS:
        return _floats(w, "embedding", matrix, transposed=False, cast=False)
    row, count = INTEGERS[matrix.type], len(matrix.data)
    shape = (count, matrix.columns // BLOCK, BLOCK * row.bits // 8)
    assert row.zero is not None
    zero = row.zero

    def codes() -> NDArray[np.uint8]:
        found = (_levels(matrix) + np.int16(zero)).astype(np.uint8)
        return (found if row.bits == 8 else found[:, ::2] | found[:, 1::2] << np.uint8(4)).reshape(shape)

    return w.later("embedding.codes", ir.DataType.UINT8, shape, codes)


def _table_scales(w: Writer, matrix: StoredMatrix) -> ir.Value:
    """[V, blocks] in half precision."""
    return w.later("embedding.scales", ir.DataType.FLOAT16, (len(matrix.data), matrix.columns // BLOCK),
                   lambda: FORMATS[matrix.type].unpack(matrix.data)[0].scale.astype(np.float16))


def _levels(matrix: StoredMatrix) -> NDArray[np.int16]:
    return FORMATS[matrix.type].unpack(matrix.data)[1].astype(np.int16)


def _half(w: Writer, name: str, numbers: NDArray[np.float32]) -> ir.Value:
    """Numbers that half precision holds, as GGUF does. The Cast folds when a session loads."""
    return w("Cast", w.constant(name, numbers.astype(np.float16)), to=ir.DataType.FLOAT)


def _floats(w: Writer, name: str, matrix: StoredMatrix, *, transposed: bool, cast: bool = True) -> ir.Value:
    kind: ir.DataType = _FLOATS[matrix.type]
    shape = (len(matrix.data), matrix.columns)

    def make() -> NDArray[Any]:
        return (matrix.real().T if transposed else matrix.real()).astype(kind.numpy())

    value = w.later(name, kind, shape[::-1] if transposed else shape, make)
    return w("Cast", value, to=ir.DataType.FLOAT) if cast and kind != ir.DataType.FLOAT else value
