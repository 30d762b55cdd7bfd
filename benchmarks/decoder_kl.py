"""What a decoder's weights lose in every type of GGUF, by whose codes: the nearest levels, llama.cpp's own quantizer
without and with an importance matrix from the same text, and edgeq's fit; the same types in the same places.

    python benchmarks/decoder_kl.py CHECKPOINT --text held_out.txt --mix Q4_0 Q4_K_M
    python benchmarks/decoder_kl.py lm_stories260k/model.onnx --judge llamacpp

A .gguf that is quantized already counts as float once dequantized. llama.cpp's codes come from ggml_quantize_chunk of
the package xllamacpp; --quantizer names a `llama-quantize` program whose files are judged too (of ik-llama-cpp-python,
say), with the importance matrix in llama.cpp's own format. Every fourth sequence of the text is held out and judges: in
float arithmetic on the dequantized weights, or inside of llama.cpp, which rounds activations to 8 bits. stories260K is
read from the initializers of an exported graph; its inner width of 172 is padded to 192 with zeros, as conversions do.
"""
from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from common import parser, report
from numpy.typing import NDArray

from edgeq.backend import DecoderWords, backend_named
from edgeq.conversion.decoder_figures import Judge as FloatJudge
from edgeq.conversion.decoder_fit import fit_decoder, input_squares, nearest_decoder
from edgeq.errors import ModelError
from edgeq.frontends.decoder.architectures import LLAMA
from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint
from edgeq.frontends.decoder.gguf_names import NAMES, file_order
from edgeq.frontends.decoder.gguf_source import GgufWeights
from edgeq.inference.decoder import Decoder, GraphDecoder
from edgeq.inference.session import open_session
from edgeq.quant.decoder import Key, QuantizedDecoder, StoredMatrix
from edgeq.quant.formats import FORMATS
from edgeq.quant.formats.mixes import mix_named
from edgeq.verification.language import TextScores, score_text

Array: TypeAlias = NDArray[np.float32]
Tokens: TypeAlias = NDArray[np.int64]
CODES = ("nearest", "llama.cpp", "llama.cpp+matrix", "fit")
HELD_OUT = 4  # one sequence in


@dataclass(frozen=True, slots=True)
class Row:
    mix: str
    codes: str
    megabytes: float
    bits_per_weight: float
    perplexity: float
    kl: float
    kl_99: float
    flips: float
    seconds_per_million: float


@dataclass(frozen=True)
class Judge:
    """path: a folder for files. inside: of llama.cpp, or in float. tokens: held-out sequences."""

    checkpoint: Checkpoint
    path: Path
    inside: bool
    tokens: Sequence[Tokens]

    def row(self, mix: str, codes: str, decoder: QuantizedDecoder, seconds: float) -> Row:
        count = sum(len(stored.data) * stored.columns for stored in decoder.matrices.values())
        found = self.inside_llama(decoder) if self.inside else self._in_float.figures(
            lambda role, layer: decoder.matrices[role, layer].real()).scores
        kl = found.divergence
        assert kl is not None
        return Row(mix, codes, decoder.bytes() / 1e6, 8 * decoder.bytes() / count, found.perplexity, kl.mean,
                   kl.percentile_99, kl.flips, seconds / count * 1e6)

    def inside_llama(self, decoder: QuantizedDecoder) -> TextScores:
        with closing(llama_decoder(self.checkpoint, decoder, self.path / "judged.gguf")) as opened, \
                closing(float_decoder(self.checkpoint)) as reference:
            return score_text(opened, reference, [row.tolist() for row in self.tokens])

    @cached_property
    def _in_float(self) -> FloatJudge:
        return FloatJudge(self.checkpoint.spec, self.checkpoint.weights, self.tokens)


def float_decoder(checkpoint: Checkpoint) -> GraphDecoder:
    return GraphDecoder(open_session(checkpoint.float_graph(), fused=True), checkpoint.spec.context)


def llama_decoder(checkpoint: Checkpoint, decoder: QuantizedDecoder, path: Path) -> Decoder:
    from edgeq_runtime.language.llamacpp import LlamaDecoder, Settings, load_library

    write_gguf(checkpoint, decoder, path)
    settings = Settings(threads=1, context=min(checkpoint.spec.context, 512), cache=0, attention=0)  # in float32
    return LlamaDecoder(load_library(), str(path), checkpoint.spec.vocabulary, settings)


def write_gguf(checkpoint: Checkpoint, decoder: QuantizedDecoder, path: Path) -> None:
    """Without a tokenizer: tokens go in and logits come out."""
    from edgeq_converters.gguf.metadata import metadata
    from edgeq_converters.gguf.tensors import tensors
    from edgeq_converters.gguf.writer import write

    spec, architecture = checkpoint.spec, checkpoint.row.gguf
    write(path, metadata(spec, architecture, "judged", 0), {"model": "no_vocab"},
          lambda: tensors(spec, architecture, decoder))


# -- texts and checkpoints ---------------------------------------------------------------------------------------------

def sequences(checkpoint: Checkpoint, files: Sequence[Path], count: int, length: int) -> list[Tokens]:
    """`count` windows of the files' tokens, in an order of chance that is always the same."""
    import tokenizers

    from edgeq.frontends.decoder.tokenizer_json import tokenizer_json_of_gguf

    if isinstance(checkpoint.weights, GgufWeights):
        tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json_of_gguf(checkpoint.weights.file.metadata))
    else:
        tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    found: list[Tokens] = []
    for path in files:
        ids = np.asarray(tokenizer.encode(path.read_text(errors="ignore"), add_special_tokens=False).ids, np.int64)
        found += [ids[k * length:(k + 1) * length] for k in range(len(ids) // length)]
    return [found[k] for k in np.random.default_rng(0).permutation(len(found))[:count]]


def stories(path: Path, folder: Path) -> tuple[Checkpoint, list[Tokens]]:
    """stories260K of an exported graph as a checkpoint folder, and the sequences beside it."""
    import onnx
    from safetensors.numpy import save_file

    graph = onnx.load(path).graph
    known = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    tensors = {f"{LLAMA['embedding']}.weight": known["emb.weight"],
               f"{LLAMA['final_norm']}.weight": known["norm.weight"]}
    roles = {"wq": "q", "wk": "k", "wv": "v", "wo": "o", "w1": "gate", "w3": "up", "w2": "down"}
    for node in graph.node:
        _, _, place = node.output[0].partition("/layers.")
        layer, _, role = place.partition("/")
        role = role.partition("/")[0]
        if node.op_type == "MatMul" and role in roles and node.input[1] in known:
            weight = known[node.input[1]].T
            if role in ("wq", "wk"):  # pairs of neighbours rotate there, halves of a head here
                weight = weight.reshape(-1, 4, 2, 64).swapaxes(1, 2).reshape(-1, 64)
            tensors[f"{LLAMA[roles[role]].format(layer)}.weight"] = weight
    for layer in range(5):
        for ours, theirs in (("attention_norm", "att_norm"), ("mlp_norm", "ffn_norm")):
            tensors[f"{LLAMA[ours].format(layer)}.weight"] = known[f"layers.{layer}.{theirs}.weight"]
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_attention_heads": 8,
              "num_key_value_heads": 4, "num_hidden_layers": 5, "vocab_size": 512, "tie_word_embeddings": True,
              "max_position_embeddings": 512, "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    with np.load(path.parent / "data.npz") as data:
        tokens = [row[:length].astype(np.int64) for row, length in zip(data["ids"], data["length"], strict=True)]
    checkpoint = open_checkpoint(folder).padded()
    expected = open_session(path, fused=True).run(None, {"input_ids": tokens[0][None]})[0]
    got = float_decoder(checkpoint).logits(tokens[0].tolist(), every=True)
    np.testing.assert_allclose(got, expected[0], rtol=0, atol=1e-3 * np.abs(expected).max())
    return checkpoint, tokens


# -- others' codes -----------------------------------------------------------------------------------------------------

def ggml_decoder(ours: QuantizedDecoder, checkpoint: Checkpoint, importance: Mapping[Key, Array]) -> QuantizedDecoder:
    """The same types with llama.cpp's codes. It takes no importance for tables, nor for a head."""
    import xllamacpp  # type: ignore[import-untyped]

    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantized(key: Key, like: StoredMatrix) -> StoredMatrix:
        if like.type not in FORMATS:
            return like
        weight, data = np.ascontiguousarray(checkpoint.weights.matrix(*key)), np.zeros_like(like.data)
        given = importance.get(key) if key[1] is not None else None
        matrix = None if given is None else np.ascontiguousarray(given)
        chunk(FORMATS[like.type].type, weight.ctypes.data, data.ctypes.data, 0, *weight.shape,
              None if matrix is None else matrix.ctypes.data)
        return StoredMatrix(like.type, data, like.columns)

    return QuantizedDecoder({key: quantized(key, like) for key, like in ours.matrices.items()}, ours.vector)


def quantizer_decoder(program: Path, mix: str, checkpoint: Checkpoint, importance: Mapping[Key, Array], folder: Path,
                      ) -> QuantizedDecoder:
    """What a llama-quantize program makes of the float weights and the importance matrix, read back as float."""
    spec = checkpoint.spec
    floats = nearest_decoder(spec, checkpoint.weights, lambda role, layer: "F32")
    write_gguf(checkpoint, floats, folder / "float.gguf")
    write_matrix(folder / "matrix.dat", importance)
    subprocess.run([program, "--imatrix", folder / "matrix.dat", folder / "float.gguf", folder / "theirs.gguf", mix],
                   check=True, capture_output=True)
    weights = open_checkpoint(folder / "theirs.gguf").weights
    assert isinstance(weights, GgufWeights)

    def stored(key: Key) -> StoredMatrix:
        tensor = weights.file.tensors[f"{NAMES[key[0]].format(key[1])}.weight"]
        kind = tensor.tensor_type.name
        if kind not in FORMATS:
            return StoredMatrix.of_floats("F32", weights.matrix(*key))
        data = np.asarray(tensor.data).reshape(floats.matrices[key].data.shape[0], -1)
        found = StoredMatrix(kind, data, floats.matrices[key].columns)
        return found.rows(np.argsort(file_order(spec, checkpoint.row.gguf, key[0]))) if key[0] in "qk" else found

    return QuantizedDecoder({key: stored(key) for key in floats.matrices}, checkpoint.weights.vector)


def write_matrix(path: Path, importance: Mapping[Key, Array]) -> None:
    """llama.cpp's importance matrix: https://github.com/ggml-org/llama.cpp/blob/b4000/examples/imatrix/imatrix.cpp"""
    inner = {key: squares for key, squares in importance.items() if key[1] is not None}
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(inner)))
        for (role, layer), squares in inner.items():
            name = f"{NAMES[role].format(layer)}.weight".encode()
            file.write(struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, len(squares)))
            file.write(squares.astype("<f4").tobytes())
        file.write(struct.pack("<ii", 1, 4) + b"text")


def made(codes: Sequence[str], mix: str, checkpoint: Checkpoint, tokens: Sequence[Tokens],
         importance: Mapping[Key, Array]) -> Iterator[tuple[str, Callable[[], QuantizedDecoder]]]:
    """(whose codes, what makes them)."""
    spec, weights = checkpoint.spec, checkpoint.weights
    target = backend_named("gguf").decoder
    assert target is not None
    types = target.types(spec, DecoderWords(bits=4, type=mix_named(mix).name))

    def nearest() -> QuantizedDecoder:
        return nearest_decoder(spec, weights, types, importance)

    def ggml(matrix: Mapping[Key, Array]) -> QuantizedDecoder:
        like = {key: StoredMatrix(types(*key), np.zeros((len(weight), size(types(*key), weight)), np.uint8),
                                  weight.shape[1]) if types(*key) in FORMATS
                else StoredMatrix.of_floats(types(*key), weight)
                for key in [*importance, *([] if spec.tied else [("embedding", None)])]
                for weight in [weights.matrix(*key)]}
        return ggml_decoder(QuantizedDecoder(like, weights.vector), checkpoint, matrix)

    known: dict[str, Callable[[], QuantizedDecoder]] = {
        "nearest": nearest, "llama.cpp": lambda: ggml({}), "llama.cpp+matrix": lambda: ggml(importance),
        "fit": lambda: fit_decoder(spec, weights, types, tokens)}
    yield from ((name, known[name]) for name in codes)


def size(type: str, weight: Array) -> int:
    """Bytes of a row."""
    return weight.shape[1] // FORMATS[type].unit * FORMATS[type].unit_bytes


def main() -> None:
    options = parser(__doc__)
    options.add_argument("checkpoint", type=Path)
    options.add_argument("--text", type=Path, nargs="+", default=[], help="files; stories260K has its own")
    options.add_argument("--mix", nargs="+", default=["Q4_0", "Q4_K_M"])
    options.add_argument("--codes", nargs="+", choices=CODES, default=CODES)
    options.add_argument("--sequences", type=int, default=64)
    options.add_argument("--length", type=int, default=512, help="tokens of each")
    options.add_argument("--judge", choices=("float", "llamacpp"), default="float")
    options.add_argument("--quantizer", type=Path, help="a llama-quantize program")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.checkpoint.suffix == ".onnx":
            checkpoint, tokens = stories(given.checkpoint, folder)
        else:
            checkpoint = open_checkpoint(given.checkpoint).padded()
            tokens = sequences(checkpoint, given.text, given.sequences, given.length)
        training = [row for k, row in enumerate(tokens) if k % HELD_OUT]
        judge = Judge(checkpoint, folder, given.judge == "llamacpp", tokens[::HELD_OUT])
        importance = input_squares(checkpoint.spec, checkpoint.weights, training)
        rows = []
        for mix in given.mix:
            codes = [*made(given.codes, mix, checkpoint, training, importance)]
            if given.quantizer is not None:
                codes.append((given.quantizer.name, lambda mix=mix: quantizer_decoder(  # type: ignore[misc]
                    given.quantizer, mix, checkpoint, importance, folder)))
            for name, make in codes:
                start = time.perf_counter()
                try:
                    decoder = make()
                except ModelError as error:  # forks have types that no one else reads
                    print(f"{mix}, {name}: {error}", flush=True)
                    continue
                rows.append(judge.row(mix, name, decoder, time.perf_counter() - start))
                print(rows[-1], flush=True)
    count = sum(map(len, judge.tokens))
    report(rows, f"{given.checkpoint.parent.name}/{given.checkpoint.name}: KL to float on {count} tokens, judged in "
           f"{given.judge}; calibrated on {sum(map(len, training))}", given.json)


if __name__ == "__main__":
    main()
