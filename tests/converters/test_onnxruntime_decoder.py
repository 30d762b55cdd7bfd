"""Language models for ONNX Runtime: the written folder, run by the runtime's decoder, against the float graph on the
dequantized weights, whose attention is the standard operator.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from converters.test_gguf import Made
from frontends.decoder.families import FAMILIES
from numpy.typing import NDArray

from edgeq.backend import DecoderBackend, DecoderWords
from edgeq.errors import UnsupportedModel, UsageError
from edgeq.frontends.decoder.architectures import architecture_of, spec_of
from edgeq.frontends.decoder.builder import build_decoder, float_parts
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.frontends.decoder.weights import linear_roles
from edgeq.quant.codes import Codes
from edgeq.quant.decoder import Key, QuantizedDecoder, StoredMatrix
from edgeq.quant.formats import FORMATS
from edgeq.quant.kept import codes_of
from edgeq_converters.onnxruntime import BACKEND
from edgeq_converters.onnxruntime.decoder_parts import BNB4_TABLES, kept
from edgeq_runtime.errors import InputError
from edgeq_runtime.language.onnxruntime import OnnxRuntimeDecoder, open_decoder
from edgeq_runtime.manifest import Language, Manifest, TensorSpec

EXACT = "session.qdq_matmulnbits_accuracy_level"
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
TOKENS = np.random.default_rng(1).integers(3, 101, 30)
# Heads of 8 are rotated in front of attention, and so is a part of a head; windows, caps, norms and positions differ.
FORMS = (("llama-biases-llama3", {}), ("mistral-window", {}), ("smollm3", {}), ("qwen3", {}), ("gemma2", {}),
         ("gemma3", {}), ("phi3", {"num_attention_heads": 8}), ("phi4-longrope", {"num_attention_heads": 8}),
         ("olmo2", {}), ("granite", {}), ("gpt2", {"n_embd": 64, "n_head": 8}))


def backend() -> DecoderBackend:
    assert BACKEND.decoder is not None
    return BACKEND.decoder


def checkpoint(name: str, **words: Any) -> Checkpoint:
    config = {**FAMILIES[name], **({} if name == "gpt2" else SIZES), **words}
    spec = spec_of(config)
    return Checkpoint(spec, architecture_of(config), Made(spec), config, Path(name))  # type: ignore[arg-type]


def stored(source: Checkpoint, words: DecoderWords) -> QuantizedDecoder:
    spec, types = source.spec, backend().types(source.spec, words)
    keys: list[Key] = [("embedding", None), *([] if spec.tied else [("head", None)])]
    keys += [(role, layer) for layer in range(len(spec.layers)) for role in linear_roles(spec)]

    def matrix(role: str, layer: int | None) -> StoredMatrix:
        weight, kind = source.weights.matrix(role, layer), types(role, layer)
        if kind not in FORMATS:
            return StoredMatrix.of_floats(kind, weight)
        return StoredMatrix(kind, FORMATS[kind].quantize(weight), weight.shape[1])

    return QuantizedDecoder({key: matrix(*key) for key in keys}, source.weights.vector)


def opened(folder: Path, source: Checkpoint, weights: QuantizedDecoder, *, exact: bool = True) -> OnnxRuntimeDecoder:
    """exact: products in float instead of between int8 activations, which round."""
    artifact = backend().emit(source, folder, weights, folder, DecoderWords(4))
    if exact:
        model = ir.load(folder / artifact.entry)
        for node in model.graph:
            if node.op_type == "MatMulNBits":
                node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
        ir.save(model, folder / "exact.onnx", external_data="exact.data")
    spec = source.spec
    language = Language(spec.context, spec.vocabulary, len(spec.layers), spec.kv_heads, spec.head_size, 1, (2,), False)
    manifest = Manifest(
        "decoder", "onnxruntime", artifact.engine, artifact.engine_version, "exact.onnx" if exact else artifact.entry,
        (TensorSpec("input_ids", "int64", (1, 1)),), (TensorSpec("logits", "float32", (1, 1, spec.vocabulary)),), (),
        options={"session_options": {EXACT: "1"}} if exact else artifact.options,
        language=language)
    return open_decoder(str(folder), manifest, 1)


def expected(source: Checkpoint, weights: QuantizedDecoder, folder: Path) -> NDArray[Any]:
    """[tokens, vocabulary], of all TOKENS at once."""
    spec = source.spec

    def matrix(role: str, layer: int | None) -> NDArray[Any]:
        return weights.matrices["embedding" if role == "head" and spec.tied else role, layer].real()

    ir.save(build_decoder(spec, float_parts(matrix, weights.vector, tied=spec.tied)), folder / "float.onnx")
    session = onnxruntime.InferenceSession(str(folder / "float.onnx"))
    past = {value.name: np.zeros((1, spec.kv_heads, 0, spec.head_size), np.float32)
            for value in session.get_inputs()[1:]}
    return np.asarray(session.run(["logits"], {"input_ids": TOKENS[None], **past})[0][0])


@pytest.mark.parametrize(("name", "words"), FORMS, ids=lambda value: value if isinstance(value, str) else "")
def test_logits_are_those_of_the_dequantized_network(name: str, words: dict[str, Any], tmp_path: Path) -> None:
    """A prefill, eight steps, back behind the fifth token and forth again in two parts."""
    source = checkpoint(name, **words)
    weights = stored(source, DecoderWords(4))
    decoder, true = opened(tmp_path, source, weights), expected(source, weights, tmp_path)
    close = {"rtol": 0, "atol": 1e-5 * np.abs(true).max()}
    np.testing.assert_allclose(decoder.logits(TOKENS[:12], every=True), true[:12], **close)
    for k in range(12, 20):
        np.testing.assert_allclose(decoder.logits(TOKENS[k:k + 1]), true[k:k + 1], **close)
    decoder.keep(5)
    np.testing.assert_allclose(decoder.logits(TOKENS[5:9]), true[8:9], **close)
    np.testing.assert_allclose(decoder.logits(TOKENS[9:]), true[-1:], **close)


@pytest.mark.parametrize("words", [DecoderWords(8), DecoderWords(16), DecoderWords(32), DecoderWords(4, "Q4_1")],
                         ids=lambda words: words.type or str(words.bits))
@pytest.mark.parametrize("name", ["phi3", "qwen3"])
def test_types(words: DecoderWords, name: str, tmp_path: Path) -> None:
    """phi3 has a head of its own here. The file, read by unfused onnxruntime, holds every weight as stored."""
    source = checkpoint(name, tie_word_embeddings=name == "qwen3")
    weights = stored(source, words)
    true = expected(source, weights, tmp_path)
    got = opened(tmp_path, source, weights).logits(TOKENS, every=True)
    np.testing.assert_allclose(got, true, rtol=0, atol=1e-5 * np.abs(true).max())
    written = backend().read(tmp_path / "model.onnx", source.spec)
    for key, matrix in weights.matrices.items():
        np.testing.assert_array_equal(written(*key), matrix.real(), err_msg=str(key))


def test_a_table_of_four_bits(tmp_path: Path) -> None:
    source = checkpoint("qwen3", tie_word_embeddings=True)
    weights = stored(source, DecoderWords(8))
    table = source.weights.matrix("embedding")
    weights = replace(weights, matrices={**weights.matrices, ("embedding", None): StoredMatrix(
        "Q4_0", FORMATS["Q4_0"].quantize(table), 64)})
    true = expected(source, weights, tmp_path)
    got = opened(tmp_path, source, weights).logits(TOKENS, every=True)
    np.testing.assert_allclose(got, true, rtol=0, atol=1e-5 * np.abs(true).max())


def drawn(rows: int, columns: int, bits: int, group: int, **words: Any) -> Codes:
    chance = np.random.default_rng(rows + bits)
    scale = chance.uniform(0.5, 1.5, (rows, columns // group)).astype(np.float32) * columns ** -0.5 / (1 << bits)
    made = {"zero": lambda: chance.integers(0, 1 << bits, scale.shape).astype(np.int16),
            "offset": lambda: -scale * chance.uniform(0, 15, scale.shape).astype(np.float32),
            "order": lambda: chance.permutation(columns)}
    return Codes(chance.integers(0, 1 << bits, (rows, columns)).astype(np.uint8), bits, scale, **{
        word: made[word]() if value is True else value for word, value in words.items()})


def test_codes_of_other_tools(tmp_path: Path) -> None:
    """Zero points, minima, columns in another order, tables of levels, groups of 16 to a whole row, in the kernels."""
    source = checkpoint("qwen3", tie_word_embeddings=True)
    codes = {
        ("q", 0): drawn(64, 64, 4, 32, zero=True), ("k", 0): drawn(32, 64, 4, 64, zero=True, order=True),
        ("v", 0): drawn(32, 64, 8, 16, zero=True), ("o", 0): drawn(64, 64, 2, 32, offset=True),
        ("gate", 0): drawn(96, 64, 4, 64, table=BNB4_TABLES[1]), ("up", 0): drawn(96, 64, 4, 16, table=BNB4_TABLES[0]),
        ("down", 0): drawn(64, 96, 8, 96, offset=True), ("q", 1): drawn(64, 64, 3, 32, zero=True),
        ("k", 1): drawn(32, 64, 5, 32, zero=True, order=True), ("v", 1): drawn(32, 64, 6, 32, offset=True)}
    weights = stored(source, DecoderWords(8))
    assert not any(isinstance(kept(role, found), str) for (role, _), found in codes.items())
    for bits, group, part in ((4, 32, "zero"), (4, 64, "offset"), (8, 16, "zero")):
        table = drawn(101, 64, bits, group, **{part: True})
        mixed = replace(weights, matrices={**weights.matrices, **codes, ("embedding", None): table})
        true = expected(source, mixed, tmp_path)
        got = opened(tmp_path, source, mixed).logits(TOKENS, every=True)
        np.testing.assert_allclose(got, true, rtol=0, atol=1e-5 * np.abs(true).max())
        assert kernels(tmp_path / "model.onnx")["DequantizeLinear"] == 0
        written = backend().read(tmp_path / "model.onnx", source.spec)
        for key in (*codes, ("embedding", None)):
            np.testing.assert_array_equal(written(*key), mixed.matrices[key].real(), err_msg=str(key))


@pytest.mark.parametrize("name", ["Q5_0", "Q4_K", "Q6_K", "IQ4_NL"])
def test_types_of_gguf_become_codes(name: str) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32)
    matrix = StoredMatrix(name, FORMATS[name].quantize(weight), 256)
    np.testing.assert_array_equal(codes_of(matrix).real(), matrix.real())


def kernels(path: Path) -> Counter[str]:
    """How many nodes of each operator are left when a session has loaded."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_name("fused.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options)
    return Counter(node.op_type for node in ir.load(path.with_name("fused.onnx")).graph)


@pytest.mark.parametrize("tied", [True, False])
def test_every_product_is_one_kernel_and_a_tied_table_is_stored_once(tied: bool, tmp_path: Path) -> None:
    source = checkpoint("qwen3", tie_word_embeddings=tied, vocab_size=4096)
    weights = stored(source, DecoderWords(4))
    artifact = backend().emit(source, tmp_path, weights, tmp_path, DecoderWords(4))
    fused = kernels(tmp_path / artifact.entry)
    assert fused["MatMulNBits"] == 7 * len(source.spec.layers) + 1
    assert not {"MatMul", "Gemm", "DequantizeLinear", "Transpose", "Cos", "Range"} & set(fused)
    rest = sum(path.stat().st_size for path in tmp_path.glob("model.onnx*")) - weights.bytes()
    assert rest < 40_000, "the graph, norms and alignment"


def test_rows_that_no_block_divides_become_wider(tmp_path: Path) -> None:
    """Rows of 172 are rows of 192, whose last 20 weights multiply 0."""
    source = checkpoint("llama-biases-llama3", intermediate_size=172)
    wide = source.padded()
    assert (wide.spec.inner, backend().types(source.spec, DecoderWords(4))("down", 0)) == (192, "F16")
    weights = stored(wide, DecoderWords(4))
    assert {matrix.type for matrix in weights.matrices.values()} == {"Q4_0", "Q8_0"}
    plain = stored(source, DecoderWords(32))
    got = expected(wide, stored(wide, DecoderWords(32)), tmp_path)
    np.testing.assert_allclose(got, true := expected(source, plain, tmp_path), rtol=0, atol=1e-5 * np.abs(true).max())
    true = expected(wide, weights, tmp_path)
    got = opened(tmp_path, wide, weights).logits(TOKENS, every=True)
    np.testing.assert_allclose(got, true, rtol=0, atol=1e-5 * np.abs(true).max())


@pytest.mark.parametrize(("name", "version"), [("qwen3", ">=1.23"), ("gemma2", ">=1.24")])
def test_the_oldest_engine(name: str, version: str, tmp_path: Path) -> None:
    """GroupQueryAttention of onnxruntime 1.23 looks back one token less than a window says."""
    source = checkpoint(name)
    artifact = backend().emit(source, tmp_path, stored(source, DecoderWords(4)), tmp_path, DecoderWords(4))
    assert artifact.engine_version == version


def test_long_prompts_go_in_parts_and_buffers_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq_runtime.language.onnxruntime.CAPACITY", 4)
    monkeypatch.setattr("edgeq_runtime.language.onnxruntime.BATCH", 7)
    source = checkpoint("llama")
    weights = stored(source, DecoderWords(4))
    decoder, true = opened(tmp_path, source, weights), expected(source, weights, tmp_path)
    close = {"rtol": 0, "atol": 1e-5 * np.abs(true).max()}
    np.testing.assert_allclose(decoder.logits(TOKENS), true[-1:], **close)
    decoder.keep(3)
    np.testing.assert_allclose(decoder.logits(TOKENS[3:], every=True), true[3:], **close)


def test_fast_kernels_round_activations_and_no_more(tmp_path: Path) -> None:
    source = checkpoint("llama")
    weights = stored(source, DecoderWords(4))
    true = expected(source, weights, tmp_path)
    off = opened(tmp_path, source, weights, exact=False).logits(TOKENS, every=True) - true
    assert 1e-4 < np.sqrt((off ** 2).mean() / (true ** 2).mean()) < 0.1


@pytest.mark.parametrize("tokens", [[], [101], [-1], [3] * 129], ids=str)
def test_tokens_that_cannot_be_fed(tokens: list[int], tmp_path: Path) -> None:
    source = checkpoint("llama")
    decoder = opened(tmp_path, source, stored(source, DecoderWords(4)), exact=False)
    with pytest.raises(InputError):
        decoder.logits(tokens)
    assert decoder.logits([3]).shape == (1, 101)


def test_what_has_no_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel for weights of the type Q6_K"):
        backend().types(checkpoint("llama").spec, DecoderWords(4, "Q6_K"))
    odd = checkpoint("qwen3", head_dim=20)
    with pytest.raises(UnsupportedModel, match="multiple of 8, not 20"):
        backend().emit(odd, tmp_path, stored(odd, DecoderWords(4)), tmp_path, DecoderWords(4))
    assert not list(tmp_path.iterdir()), "nothing half written"
