"""A quantized decoder's tensors as llama.cpp names, fuses and orders them."""
from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq.frontends.decoder.gguf_names import FUSED, NAMES, file_order
from edgeq.frontends.decoder.rotary import scaled_frequencies
from edgeq.frontends.decoder.spec import Llama3, LongRope, RMSNorm, Spec
from edgeq.frontends.decoder.weights import linear_roles, norm_parts, norm_roles
from edgeq.quant.decoder import QuantizedDecoder, StoredMatrix

Tensor: TypeAlias = "tuple[str, StoredMatrix | NDArray[np.float32]]"

def tensors(spec: Spec, architecture: str, decoder: QuantizedDecoder) -> Iterator[Tensor]:
    """(name, rows as stored or a float32 array) of every tensor, in file order. architecture: as GGUF names it."""
    yield from _scaled_rotations(spec)
    yield NAMES["embedding"] + ".weight", _rows(decoder, "embedding", None)
    if spec.learned_positions:
        yield NAMES["positions"] + ".weight", decoder.vector("positions", "weight", None)
    for layer in range(len(spec.layers)):
        for role in norm_roles(spec):
            yield from _norm(spec, decoder, role, layer)
        yield from _linear(spec, architecture, decoder, layer)
    yield from _norm(spec, decoder, "final_norm", None)
    if ("head", None) in decoder.matrices:
        yield NAMES["head"] + ".weight", _rows(decoder, "head", None)


def _rows(decoder: QuantizedDecoder, role: str, layer: int | None) -> StoredMatrix:
    found = decoder.matrices[role, layer]
    assert isinstance(found, StoredMatrix), "codes are kept in types of GGUF alone"
    return found


def _norm(spec: Spec, decoder: QuantizedDecoder, role: str, layer: int | None) -> Iterator[Tensor]:
    offset = spec.norm.offset if isinstance(spec.norm, RMSNorm) else 0.0
    for part in norm_parts(spec):
        yield f"{NAMES[role].format(layer)}.{part}", decoder.vector(role, part, layer) + np.float32(offset)


def _linear(spec: Spec, architecture: str, decoder: QuantizedDecoder, layer: int) -> Iterator[Tensor]:
    fused = FUSED.get(architecture, {})
    inside = {role for roles in fused.values() for role in roles}
    groups = {**{role: (role,) for role in linear_roles(spec) if role not in inside}, **fused}
    for name, roles in groups.items():
        matrices = [_ordered(spec, architecture, role, _rows(decoder, role, layer)) for role in roles]
        yield f"{NAMES[name].format(layer)}.weight", _joined(matrices)
        if roles[0] in spec.biases:
            biases = [decoder.vector(role, "bias", layer) for role in roles]
            biases = [bias[file_order(spec, architecture, role)] if role in "qk" else bias
                      for role, bias in zip(roles, biases, strict=True)]
            yield f"{NAMES[name].format(layer)}.bias", np.concatenate(biases)


def _joined(matrices: list[StoredMatrix]) -> StoredMatrix:
    first = matrices[0]
    assert {matrix.type for matrix in matrices} == {first.type}, "parts of one tensor have one type"
    return StoredMatrix(first.type, np.concatenate([matrix.data for matrix in matrices]), first.columns)


def _ordered(spec: Spec, architecture: str, role: str, matrix: StoredMatrix) -> StoredMatrix:
    return matrix.rows(file_order(spec, architecture, role)) if role in "qk" else matrix


def _scaled_rotations(spec: Spec) -> Iterator[Tensor]:
    """What llama.cpp divides frequencies by, where no number of the metadata says it."""
    rotary = next((layer.rotary for layer in spec.layers if layer.rotary is not None), None)
    if rotary is None:
        return
    match rotary.scaling:
        case Llama3():
            plain = rotary.base ** (-np.arange(0, rotary.size, 2) / rotary.size)
            yield "rope_freqs.weight", (plain / scaled_frequencies(rotary, spec.context)[0]).astype(np.float32)
        case LongRope(short, long):
            yield "rope_factors_long.weight", np.asarray(long, np.float32)
            yield "rope_factors_short.weight", np.asarray(short, np.float32)
