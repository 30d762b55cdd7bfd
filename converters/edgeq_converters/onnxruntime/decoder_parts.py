"""A decoder's stored weights as ONNX Runtime's kernels read them: the same codes and scales as in GGUF, or as another
tool chose them.

A linear layer is DequantizeLinear and MatMul, which become MatMulNBits when a session loads:
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc
(DequantizeLinear in front of Gather would expand the whole table in every run.) A table that is the head too is stored
once, in the layout of MatMulNBits, and codes of bitsandbytes' tables in that of MatMulBnb4, which is theirs:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.frontends.decoder.builder import Parts, Writer, weight_name
from edgeq.frontends.decoder.spec import Spec
from edgeq.quant.codes import Codes
from edgeq.quant.decoder import Key, QuantizedDecoder, Stored, StoredMatrix
from edgeq.quant.kept import codes_of
from edgeq_converters.onnxruntime.decoder_graph import MICROSOFT

# Of what MatMulNBits takes, powers of two from 16 on.
_LEAST_BLOCK, _MOST_BLOCK = 16, 128
_FLOATS: Final = MappingProxyType({"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT})
LAYER_TYPES: Final = ("Q4_0", "Q4_1", "Q8_0", *_FLOATS)
# (bits, signed) -> as which codes are stored.
_KINDS: Final[Mapping[tuple[int, bool], tuple[ir.DataType, Any]]] = MappingProxyType({
    (4, True): (ir.DataType.INT4, ml_dtypes.int4), (4, False): (ir.DataType.UINT4, ml_dtypes.uint4),
    (8, True): (ir.DataType.INT8, np.int8), (8, False): (ir.DataType.UINT8, np.uint8)})
# quant_type of MatMulBnb4 -> its levels:
# https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cpu/quantization/blockwise_quant_block_bnb4.h
_FP4: Final = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
BNB4_TABLES: Final[Mapping[int, NDArray[np.float32]]] = MappingProxyType({
    0: np.asarray([*_FP4, *(-level for level in _FP4)], np.float32) / np.float32(12),
    1: np.asarray([
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
        0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)})


def kept(role: str, found: Stored) -> Stored | str:
    """What holds a weight as another tool stored it: itself; or why no kernel takes it."""
    if isinstance(found, StoredMatrix):
        return found
    if found.group % _LEAST_BLOCK:
        return f"groups of {found.group} are no multiple of {_LEAST_BLOCK}"
    if found.table is not None and (_table_kind(found) is None or role == "embedding"):
        return "ONNX Runtime has no kernel for its table of levels"
    return found


def stored_parts(spec: Spec, decoder: QuantizedDecoder, accuracy_level: int = 4) -> Parts:
    """accuracy_level: of the product with a table, as session.qdq_matmulnbits_accuracy_level is of the others."""
    stored = _Stored(spec, decoder.matrices, accuracy_level)
    return Parts(stored.linear, stored.embedding, decoder.vector)


@dataclass(frozen=True)
class Form:
    """How a kernel reads codes: `bits` each, signed ones without zero points, in blocks that share a scale."""

    codes: Codes

    @cached_property
    def bits(self) -> int:
        return 4 if self.codes.bits <= 4 else 8

    @property
    def half(self) -> int:
        """The code of 0 of a kernel that is told no zero points."""
        return 1 << (self.bits - 1)

    @cached_property
    def is_signed(self) -> bool:
        levels = self.codes.levels()
        return self.codes.zero is not None and -self.half <= int(levels.min()) and int(levels.max()) < self.half

    @property
    def block(self) -> int:
        return math.gcd(self.codes.group, _MOST_BLOCK)

    @property
    def blocks(self) -> int:
        return self.codes.columns // self.block

    def spread(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Of groups [R,G] -> of blocks [R,B]."""
        return np.repeat(numbers, self.codes.group // self.block, axis=1)

    @cached_property
    def zeros(self) -> NDArray[np.int16] | None:
        """Zero points of unsigned codes [R,B]; None where all are `half`."""
        return None if self.is_signed else self.spread(
            np.zeros(self.codes.scale.shape, np.int16) if self.codes.zero is None else self.codes.zero)

    def unsigned(self) -> NDArray[np.uint8]:
        """Codes [R,n] whose zero points are `zeros`, or `half`."""
        return (self.codes.levels() + self.half).astype(np.uint8) if self.is_signed else self.codes.codes


def form_of(matrix: Stored) -> Form:
    return Form(matrix if isinstance(matrix, Codes) else codes_of(matrix))


@dataclass(frozen=True, slots=True)
class _Stored:
    spec: Spec
    matrices: Mapping[Key, Stored]
    accuracy_level: int

    def linear(self, w: Writer, x: ir.Value, role: str, layer: int | None) -> ir.Value:
        if role == "head" and self.spec.tied:
            return self._head_of_table(w, x)
        name, matrix = weight_name(role, layer), self.matrices[role, layer]
        if matrix.type in _FLOATS:
            return w("MatMul", x, _floats(w, name, matrix, transposed=True), name=f"{name}.product")
        form = form_of(matrix)
        codes, rows, columns = form.codes, len(form.codes.codes), form.codes.columns
        if codes.order is not None:
            x = w("Gather", x, w.constant(f"{name}.order", codes.order), axis=-1, name=f"{name}.ordered")
        if codes.table is not None:
            return self._product_with_table_codes(w, x, role, layer, codes)
        kind, dtype = _KINDS[form.bits, form.is_signed]

        def stored() -> NDArray[Any]:
            again = form_of(self.matrices[role, layer]).codes  # which nobody held
            return (again.levels() if form.is_signed else again.codes).T.astype(dtype)

        grid = [_half(w, f"{name}.scales", form.spread(codes.scale).T)]
        if form.zeros is not None and codes.zero is not None:
            grid.append(w.constant(f"{name}.zeros", form.zeros.T.astype(dtype)))
        weight = w("DequantizeLinear", w.later(f"{name}.codes", kind, (columns, rows), stored), *grid, axis=0,
                   block_size=form.block)
        return _with_minima(w, x, w("MatMul", x, weight, name=f"{name}.product"), name, form)

    def _product_with_table_codes(self, w: Writer, x: ir.Value, role: str, layer: int | None, codes: Codes) -> ir.Value:
        """Of bitsandbytes' codes, the higher half of a byte first."""
        name, block = weight_name(role, layer), codes.group & -codes.group
        scales = np.repeat(codes.scale, codes.group // block, axis=1).reshape(-1)

        def stored() -> NDArray[np.uint8]:
            flat = form_of(self.matrices[role, layer]).codes.codes.reshape(-1)
            return flat[::2] << np.uint8(4) | flat[1::2]

        return w("MatMulBnb4", x, w.later(f"{name}.codes", ir.DataType.UINT8, (codes.size // 2,), stored),
                 _half(w, f"{name}.scales", scales), name=f"{name}.product", domain=MICROSOFT, K=codes.columns,
                 N=len(codes.codes), block_size=block, quant_type=_table_kind(codes))

    def embedding(self, w: Writer, tokens: ir.Value) -> ir.Value:
        matrix = self.matrices["embedding", None]
        if matrix.type in _FLOATS:
            rows = w("Gather", _table(w, matrix), tokens, name="embedding.rows")
            return rows if matrix.type == "F32" else w("Cast", rows, to=ir.DataType.FLOAT)
        form = form_of(matrix)

        def of_blocks(name: str, numbers: NDArray[Any]) -> ir.Value:
            """Numbers of blocks [V,B] -> [.., B, 1] float of the tokens' rows."""
            found = w("Gather", w.constant(f"embedding.{name}", numbers), tokens)
            return w("Unsqueeze", w("Cast", found, to=ir.DataType.FLOAT), w.ints(-1))

        codes = w("Gather", self._table_codes(w, form), tokens)
        if form.bits == 4:
            codes = self._unpacked(w, codes, form.block)
        levels = w("Cast", codes, to=ir.DataType.FLOAT)
        if form.zeros is None:
            levels = w("Sub", levels, w.number(float(form.half)))
        elif form.codes.zero is not None:
            levels = w("Sub", levels, of_blocks("zero_codes", form.zeros.astype(np.uint8)))
        real = w("Mul", levels, of_blocks("scales", _least(form.spread(form.codes.scale))))
        if form.codes.offset is not None:
            real = w("Add", real, of_blocks("minima_of_rows", _least(form.spread(form.codes.offset))))
        return w("Reshape", real, w.ints(0, 0, matrix.columns), name="embedding.rows")

    def _unpacked(self, w: Writer, pairs: ir.Value, block: int) -> ir.Value:
        """[.., blocks, block / 2] bytes -> [.., blocks, block] codes; the low half of a byte comes first."""
        low = w("BitwiseAnd", pairs, w.constant("low_half", np.asarray(15, np.uint8)))
        high = w("BitShift", pairs, w.constant("half_byte", np.asarray(4, np.uint8)), direction="RIGHT")
        both = w("Concat", w("Unsqueeze", low, w.ints(-1)), w("Unsqueeze", high, w.ints(-1)), axis=-1)
        return w("Reshape", both, w.ints(0, 0, 0, block))

    def _head_of_table(self, w: Writer, x: ir.Value) -> ir.Value:
        matrix = self.matrices["embedding", None]
        if matrix.type in _FLOATS:
            table = w("Transpose", _table(w, matrix), perm=[1, 0])
            real = table if matrix.type == "F32" else w("Cast", table, to=ir.DataType.FLOAT)
            return w("MatMul", x, real, name="head.product")
        form = form_of(matrix)
        scales = w("Cast", w.constant("embedding.scales", _least(form.spread(form.codes.scale))), to=ir.DataType.FLOAT)
        zeros = None if form.zeros is None else w.constant("embedding.zeros", _packed_zeros(form))
        product = w("MatMulNBits", x, self._table_codes(w, form), scales, zeros, name="head.product", domain=MICROSOFT,
                    K=matrix.columns, N=len(form.codes.codes), bits=form.bits, block_size=form.block,
                    accuracy_level=self.accuracy_level)
        return _with_minima(w, x, product, "head", form)

    def _table_codes(self, w: Writer, form: Form) -> ir.Value:
        """Bytes [V, blocks, bytes of a block]."""
        shape = (len(form.codes.codes), form.blocks, form.block * form.bits // 8)

        def make() -> NDArray[np.uint8]:
            found = form_of(self.matrices["embedding", None]).unsigned()
            return (found if form.bits == 8 else _pairs(found)).reshape(shape)

        return w.later("embedding.codes", ir.DataType.UINT8, shape, make)


def _table_kind(codes: Codes) -> int | None:
    """The number by which MatMulBnb4 knows a table of levels."""
    return next((kind for kind, table in BNB4_TABLES.items()
                 if codes.table is not None and np.array_equal(table, codes.table)), None)


def _with_minima(w: Writer, x: ir.Value, y: ir.Value, name: str, form: Form) -> ir.Value:
    """y and the blocks' minima, each times the sum of the block's inputs."""
    if form.codes.offset is None:
        return y
    sums = w("ReduceSum", w("Reshape", x, w.ints(0, 0, form.blocks, form.block)), w.ints(-1), keepdims=0)
    return w("Add", y, w("MatMul", sums, _half(w, f"{name}.minima", form.spread(form.codes.offset).T)),
             name=f"{name}.sum")


def _pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes of 4 bits [R,n] -> bytes [R, ceil(n / 2)], the lower half first."""
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, ::2] | even[:, 1::2] << np.uint8(4)


def _packed_zeros(form: Form) -> NDArray[np.uint8]:
    """Zero points as MatMulNBits has them: rows of whole bytes, in one row."""
    assert form.zeros is not None
    found = form.zeros.astype(np.uint8)
    return (found if form.bits == 8 else _pairs(found)).reshape(-1)


def _table(w: Writer, matrix: Stored) -> ir.Value:
    """The rows as floats [V,n]."""
    return _floats(w, "embedding", matrix, transposed=False, cast=False)


def _least(numbers: NDArray[np.float32]) -> NDArray[Any]:
    """In half precision where that holds them, as GGUF's scales are."""
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16)
    return halves if np.array_equal(halves.astype(np.float32), numbers) else numbers


def _half(w: Writer, name: str, numbers: NDArray[np.float32]) -> ir.Value:
    """The Cast folds when a session loads."""
    found = w.constant(name, _least(numbers))
    return found if found.dtype == ir.DataType.FLOAT else w("Cast", found, to=ir.DataType.FLOAT)


def _floats(w: Writer, name: str, matrix: Stored, *, transposed: bool, cast: bool = True) -> ir.Value:
    kind: ir.DataType = _FLOATS[matrix.type]
    shape = (matrix.size // matrix.columns, matrix.columns)

    def make() -> NDArray[Any]:
        return (matrix.real().T if transposed else matrix.real()).astype(kind.numpy())

    value = w.later(name, kind, shape[::-1] if transposed else shape, make)
    return w("Cast", value, to=ir.DataType.FLOAT) if cast and kind != ir.DataType.FLOAT else value
