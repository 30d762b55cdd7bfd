"""What a decoder loses in ONNX Runtime's own kernels, by whose 4 bits.

    python -m onnxruntime_genai.models.builder -i CHECKPOINT -o default -p int4 -e cpu --extra_options block_size=32
    python -m onnxruntime_genai.models.builder ... -o mixed --extra_options block_size=32 algo_config=k_quant_mixed
    python benchmarks/decoder_onnxruntime.py CHECKPOINT default mixed --text HELD_OUT --out FOLDER

Every folder holds a model.onnx with the inputs of ONNX Runtime GenAI. Into FOLDER are written edgeq's fit and what
onnxruntime's own quantizer (`MatMulNBitsQuantizer`, symmetric blocks of 32) makes of the network in float32; a head
that is the table it leaves in float. Sequences are fitted to and judged as in `decoder_kl.py`, activations in 8 bits.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, report
from decoder_kl import HELD_OUT, float_decoder, sequences
from numpy.typing import NDArray

from edgeq.backend import DecoderWords, backend_named
from edgeq.conversion.decoder_fit import Types, fit_decoder, key_groups, nearest_decoder
from edgeq.conversion.decoder_tokenizer import tokenizer_files
from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint
from edgeq.frontends.decoder.weights import shape_of
from edgeq.inference.session import open_session
from edgeq.quant.decoder import QuantizedDecoder
from edgeq.verification.language import score_text

BLOCK = 32
INT8_ACTIVATIONS = {"session.qdq_matmulnbits_accuracy_level": 4}


@dataclass(frozen=True, slots=True)
class Row:
    folder: str
    megabytes: float
    bits_per_weight: float
    perplexity: float
    float_perplexity: float
    kl: float
    kl_99: float
    flips: float


class FolderDecoder:
    """A model.onnx with past keys and values, and perhaps a mask and positions."""

    def __init__(self, path: Path, checkpoint: Checkpoint):
        self.description, self.vocabulary = path.parent.name, checkpoint.spec.vocabulary
        self.context = checkpoint.spec.context
        self._session = open_session(path, fused=True, entries=INT8_ACTIVATIONS)
        inputs = {value.name: value for value in self._session.get_inputs()}
        self._further = [name for name in ("attention_mask", "position_ids") if name in inputs]
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in inputs if "past_" in name)]
        shape = (1, checkpoint.spec.kv_heads, 0, checkpoint.spec.head_size)
        self._cache: dict[str, NDArray[Any]] = {name: np.zeros(shape, np.float32) for name in inputs if "past_" in name}

    def logits(self, tokens: Sequence[int], every: bool = False) -> NDArray[np.float32]:
        held = next(iter(self._cache.values())).shape[2]
        total = held + len(tokens)
        further = {"attention_mask": np.ones((1, total), np.int64), "position_ids": np.arange(held, total)[None]}
        feed = {"input_ids": np.asarray([tokens], np.int64), **{name: further[name] for name in self._further}}
        logits, *present = self._session.run(self._outputs, feed | self._cache)
        self._cache = dict(zip(self._cache, present, strict=True))
        return np.asarray(logits[0] if every else logits[0][-1:])

    def keep(self, count: int) -> None:
        self._cache = {name: array[:, :, :count] for name, array in self._cache.items()}

    def close(self) -> None:
        self._session = None


def row(folder: Path, checkpoint: Checkpoint, tokens: Sequence[NDArray[np.int64]]) -> Row:
    spec = checkpoint.spec
    with closing(FolderDecoder(folder / "model.onnx", checkpoint)) as opened, closing(
            float_decoder(checkpoint)) as reference:
        found = score_text(opened, reference, [row.tolist() for row in tokens])
    kl, size = found.divergence, sum(path.stat().st_size for path in folder.glob("model.onnx*"))
    count = sum(int(np.prod(shape_of(spec, role, "weight"))) for keys in key_groups(spec) for role, _ in keys)
    assert kl is not None
    assert found.float_perplexity is not None
    return Row(folder.name, size / 1e6, 8 * size / count, found.perplexity, found.float_perplexity, kl.mean,
               kl.percentile_99, kl.flips)


def emit(checkpoint: Checkpoint, bits: int, folder: Path, quantized: Callable[[Types], QuantizedDecoder]) -> Path:
    """The path of the model.onnx."""
    target, words = backend_named("onnxruntime").decoder, DecoderWords(bits=bits)
    assert target is not None
    folder.mkdir(parents=True, exist_ok=True)
    with tokenizer_files(checkpoint) as tokenizer:
        target.emit(checkpoint, tokenizer, quantized(target.types(checkpoint.spec, words)), folder, words)
    return folder / "model.onnx"


def quantize_by_onnxruntime(source: Path, folder: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=BLOCK, is_symmetric=True, accuracy_level=4,
                                     op_types_to_quantize=("MatMul", "Gather"))
    quantizer.process()
    folder.mkdir(exist_ok=True)
    quantizer.model.save_model_to_file(str(folder / "model.onnx"), use_external_data_format=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("checkpoint", type=Path)
    options.add_argument("folders", type=Path, nargs="*")
    options.add_argument("--text", type=Path, nargs="+", required=True)
    options.add_argument("--sequences", type=int, default=64)
    options.add_argument("--length", type=int, default=512, help="tokens of each")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    checkpoint = open_checkpoint(given.checkpoint).padded()
    spec, weights = checkpoint.spec, checkpoint.weights
    tokens = sequences(checkpoint, given.text, given.sequences, given.length)
    training = [one for k, one in enumerate(tokens) if k % HELD_OUT]
    emit(checkpoint, 4, given.out / "edgeq", lambda types: fit_decoder(spec, weights, types, training))
    floats = emit(checkpoint, 32, given.out / "float", lambda types: nearest_decoder(spec, weights, types))
    quantize_by_onnxruntime(floats, given.out / "onnxruntime")
    judged, rows = tokens[::HELD_OUT], []
    for folder in (given.out / "edgeq", *given.folders, given.out / "onnxruntime"):
        rows.append(row(folder, checkpoint, judged))
        print(rows[-1], flush=True)
    report(rows, f"{given.checkpoint.name}: KL to float on {sum(map(len, judged))} tokens, in ONNX Runtime's kernels",
           given.json)


if __name__ == "__main__":
    main()
