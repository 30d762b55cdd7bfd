"""KL to the float network of a decoder's 4-bit weights: on the nearest levels, as llama.cpp's own quantizer chooses
them with an importance matrix from the same text, and as edgeq fits them; the same types in the same places.

    python benchmarks/decoder_kl.py model.gguf --text FOLDER --mix Q4_0 Q4_K_M

A .gguf that is quantized already counts as float once dequantized. llama.cpp's codes come from ggml_quantize_chunk of
the package xllamacpp. Embedding and head are edgeq's in all of them. Text: the documentation found in FOLDER; every
eighth sequence is held out and judges.
"""
from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from common import parser, report
from numpy.typing import NDArray

from edgeq.conversion.decoder_fit import Types, fit_decoder, input_squares, nearest_decoder
from edgeq.frontends.decoder.builder import Matrix, build_decoder, float_parts
from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint
from edgeq.inference.session import open_session
from edgeq.quant.decoder import Key, QuantizedDecoder, StoredMatrix
from edgeq.quant.formats import FORMATS
from edgeq.quant.formats.mixes import Place, mix_named, type_of

Array: TypeAlias = NDArray[np.float32]
Tokens: TypeAlias = NDArray[np.int64]
SUFFIXES = ("METADATA", "*.md", "*.rst", "*.txt")
LONGEST = 8  # sequences of one file
SHORTEST = 20000  # bytes of a file: shorter ones are mostly licences


@dataclass(frozen=True, slots=True)
class Row:
    mix: str
    codes: str
    bits_per_weight: float
    kl: float
    kl_99: float
    flips: float
    seconds_per_million: float


def sequences(checkpoint: Checkpoint, folder: Path, count: int, length: int) -> list[Tokens]:
    """The first `count` sequences of the folder's documentation, files in order of their names."""
    tokenizer = tokenizer_of(checkpoint)
    files = sorted({path for suffix in SUFFIXES for path in folder.rglob(suffix) if path.stat().st_size > SHORTEST})
    found: list[Tokens] = []
    for path in files:
        ids = np.asarray(tokenizer.encode(path.read_text(errors="ignore")).ids, np.int64)
        found += [ids[k * length:(k + 1) * length] for k in range(min(len(ids) // length, LONGEST))]
    order = np.random.default_rng(0).permutation(len(found))[:count]
    return [found[k] for k in order]


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """Byte-level BPE with single digits, as SmolLM2 has it."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    from edgeq.frontends.decoder.gguf_source import open_gguf

    metadata = open_gguf(checkpoint.path).metadata
    if metadata.get("tokenizer.ggml.pre") != "smollm":
        raise SystemExit("this benchmark reads the tokenizer 'smollm' alone")
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: k for k, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    found = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return found


def ggml_decoder(ours: QuantizedDecoder, checkpoint: Checkpoint, importance: Mapping[Key, Array]) -> QuantizedDecoder:
    """The same types with llama.cpp's codes."""
    import xllamacpp  # type: ignore[import-untyped]

    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantized(key: Key, like: StoredMatrix) -> StoredMatrix:
        if key[1] is None:
            return like
        weight, data = np.ascontiguousarray(checkpoint.weights.matrix(*key)), np.zeros_like(like.data)
        chunk(FORMATS[like.type].type, weight.ctypes.data, data.ctypes.data, 0, *weight.shape,
              np.ascontiguousarray(importance[key]).ctypes.data)
        return StoredMatrix(like.type, data, like.columns)

    return QuantizedDecoder({key: quantized(key, like) for key, like in ours.matrices.items()}, ours.vector)


def log_probabilities(checkpoint: Checkpoint, matrix: Matrix, tokens: Sequence[Tokens]) -> list[Array]:
    """Of each sequence [T, vocabulary]."""
    spec = checkpoint.spec
    parts = float_parts(matrix, checkpoint.weights.vector, tied=spec.tied)
    session = open_session(build_decoder(spec, parts), fused=True)
    past = np.zeros((1, spec.kv_heads, 0, spec.head_size), np.float32)
    extra = {value.name: past for value in session.get_inputs()[1:]}
    found = []
    for row in tokens:
        logits = session.run(["logits"], {"input_ids": row[None], **extra})[0][0]
        logits -= logits.max(1, keepdims=True)
        found.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    return found


def measured(mix: str, name: str, decoder: QuantizedDecoder, checkpoint: Checkpoint, tokens: Sequence[Tokens],
             true: Sequence[Array], seconds: float) -> Row:
    def matrix(role: str, layer: int | None) -> Array:
        key = ("embedding" if role == "head" and checkpoint.spec.tied else role, layer)
        return decoder.matrices[key].real()

    got = log_probabilities(checkpoint, matrix, tokens)
    kl = np.concatenate([(np.exp(p) * (p - q)).sum(1) for p, q in zip(true, got, strict=True)])
    flips = np.concatenate([p.argmax(1) != q.argmax(1) for p, q in zip(true, got, strict=True)])
    weights = [stored for (_, layer), stored in decoder.matrices.items() if layer is not None]
    count = sum(len(stored.data) * stored.columns for stored in weights)
    return Row(mix, name, 8 * sum(stored.data.size for stored in weights) / count, float(kl.mean()),
               float(np.quantile(kl, 0.99)), float(flips.mean()), seconds / count * 1e6)


def types_of(checkpoint: Checkpoint, name: str) -> Types:
    spec, mix = checkpoint.spec, mix_named(name)

    def type_at(role: str, layer: int | None) -> str:
        place = None if layer is None else Place(layer, len(spec.layers), spec.heads // spec.kv_heads)
        columns = {"o": spec.heads * spec.head_size, "down": spec.inner}.get(role, spec.hidden)
        return type_of(mix, role, columns, place, tied=spec.tied)

    return type_at


def main() -> None:
    options = parser(__doc__)
    options.add_argument("checkpoint", type=Path)
    options.add_argument("--text", type=Path, required=True, help="folder of documentation")
    options.add_argument("--mix", nargs="+", default=["Q4_0", "Q4_K_M"])
    options.add_argument("--sequences", type=int, default=64)
    options.add_argument("--length", type=int, default=512, help="tokens of each")
    options.add_argument("--layers", type=int, help="the first ones alone, for a quick look")
    given = options.parse_args()
    checkpoint = open_checkpoint(given.checkpoint)
    if given.layers:
        spec = replace(checkpoint.spec, layers=checkpoint.spec.layers[:given.layers])
        checkpoint = replace(checkpoint, spec=spec, weights=replace(checkpoint.weights, spec=spec))
    tokens = sequences(checkpoint, given.text, given.sequences, given.length)
    judges = tokens[::8]
    tokens = [row for k, row in enumerate(tokens) if k % 8]
    true = log_probabilities(checkpoint, checkpoint.weights.matrix, judges)
    importance = input_squares(checkpoint.spec, checkpoint.weights, tokens)
    rows = []
    for mix in given.mix:
        types = types_of(checkpoint, mix)
        for name in ("nearest", "llama.cpp", "fit"):
            start = time.perf_counter()
            if name == "fit":
                decoder = fit_decoder(checkpoint.spec, checkpoint.weights, types, tokens)
            else:
                decoder = nearest_decoder(checkpoint.spec, checkpoint.weights, types, importance)
                decoder = ggml_decoder(decoder, checkpoint, importance) if name == "llama.cpp" else decoder
            rows.append(measured(mix, name, decoder, checkpoint, judges, true, time.perf_counter() - start))
            print(rows[-1], flush=True)
    report(rows, f"{given.checkpoint.name}: KL to float, {len(judges)} x {given.length} tokens; calibrated on "
           f"{len(tokens)} x {given.length}", given.json)


if __name__ == "__main__":
    main()
