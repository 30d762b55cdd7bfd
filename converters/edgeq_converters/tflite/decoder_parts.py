"""A decoder's stored weights as LiteRT's kernels read them: one scale for each row, above 0."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.frontends.decoder.builder import Parts, Writer, weight_name
from edgeq.frontends.decoder.spec import Spec
from edgeq.quant.decoder import QuantizedDecoder, StoredMatrix
from edgeq.quant.formats import FORMATS

CODES = ".codes"  # what the name of a weight ends in, beside that of its layer


def stored_parts(spec: Spec, decoder: QuantizedDecoder) -> Parts:
    stored = _Stored(spec, decoder)
    return Parts(stored.linear, stored.embedding, decoder.vector)


@dataclass(frozen=True, slots=True)
class _Stored:
    spec: Spec
    decoder: QuantizedDecoder

    def linear(self, w: Writer, x: ir.Value, role: str, layer: int | None) -> ir.Value:
        """The head of a tied table has that table's bytes, which the file holds once."""
        is_tied = role == "head" and self.spec.tied
        name = weight_name(role, layer)
        weight = _weight(w, name, self._matrix("embedding" if is_tied else role, layer), transposed=True)
        return w("MatMul", x, weight, name=f"{name}.product")

    def embedding(self, w: Writer, tokens: ir.Value) -> ir.Value:
        table = _weight(w, "embedding", self._matrix("embedding", None), transposed=False)
        return w("Gather", table, tokens, name="embedding.rows")

    def _matrix(self, role: str, layer: int | None) -> StoredMatrix:
        found = self.decoder.matrices[role, layer]
        assert isinstance(found, StoredMatrix), "codes of other tools are quantized anew"
        return found


def _weight(w: Writer, name: str, matrix: StoredMatrix, *, transposed: bool) -> ir.Value:
    """[inputs, outputs] where it is transposed."""
    if matrix.type not in FORMATS:
        return w.constant(name + CODES, matrix.real().T if transposed else matrix.real())
    levels, scale = rows_of(matrix)
    codes = w.constant(name + CODES, levels.T if transposed else levels)
    return w("DequantizeLinear", codes, w.constant(f"{name}.scales", scale), axis=1 if transposed else 0)


def rows_of(matrix: StoredMatrix) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Levels [R,n] as int4 or int8, and scales [R]. LiteRT wants them above 0; levels reach as far either way."""
    format = FORMATS[matrix.type]
    grid, levels = format.unpack(matrix.data)
    sign, scale = np.where(grid.scale < 0, -1, 1), np.abs(grid.scale[:, 0])
    kind = ml_dtypes.int4 if format.levels.ends[1] < 8 else np.int8
    return (levels * sign).astype(kind), np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
