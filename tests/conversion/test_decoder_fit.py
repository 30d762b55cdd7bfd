"""Decoders quantized layer by layer, judged by onnxruntime on whole graphs; random weights of tiny configurations."""
from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pytest
from frontends.decoder.families import FAMILIES
from numpy.typing import NDArray

from edgeq.conversion.decoder_fit import fit_decoder, input_squares, nearest_decoder
from edgeq.errors import UsageError
from edgeq.frontends.decoder.architectures import spec_of
from edgeq.frontends.decoder.builder import Matrix, build_decoder, float_parts, weight_name
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import shape_of
from edgeq.inference.session import exposing, open_session
from edgeq.quant.decoder import QuantizedDecoder

Array = NDArray[np.float32]
Tokens = list[NDArray[np.int64]]
LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_hidden_layers": 3, "vocab_size": 101, "tie_word_embeddings": True, "max_position_embeddings": 64}


@dataclass(frozen=True)
class Random:
    """Weights that a seed and their names make; few causes move the embedding, so that its numbers go together."""

    spec: Spec

    def matrix(self, role: str, layer: int | None = None) -> Array:
        role = "embedding" if role == "head" and self.spec.tied else role
        rows, columns = shape_of(self.spec, role, "weight")
        made = self._made(f"{role}{layer}", rows, columns)
        if role == "embedding":
            return 0.1 * made[:, :8] @ self._made("causes", 8, columns) + 0.01 * made
        return made / np.float32(columns ** 0.5)

    def vector(self, role: str, part: str, layer: int | None = None) -> Array:
        shape = shape_of(self.spec, role, part)
        made = self._made(f"{role}{part}{layer}", *shape)
        return 1 + 0.2 * made if role.endswith("norm") and part == "weight" else made

    def _made(self, name: str, *shape: int) -> Array:
        return np.random.default_rng(crc32(name.encode())).normal(size=shape).astype(np.float32)


def tokens_of(spec: Spec, count: int, seed: int = 0) -> Tokens:
    return list(np.random.default_rng(seed).integers(3, spec.vocabulary, (count, 24)))


def probabilities(spec: Spec, matrix: Matrix, tokens: Tokens) -> Array:
    session = open_session(build_decoder(spec, float_parts(matrix, Random(spec).vector, tied=spec.tied)), fused=True)
    past = np.zeros((len(tokens), spec.kv_heads, 0, spec.head_size), np.float32)
    logits = session.run(["logits"], {"input_ids": np.stack(tokens)} | {
        value.name: past for value in session.get_inputs()[1:]})[0]
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def divergence(spec: Spec, decoder: QuantizedDecoder, tokens: Tokens) -> float:
    def matrix(role: str, layer: int | None) -> Array:
        return decoder.matrices["embedding" if role == "head" and spec.tied else role, layer].real()

    true, got = (probabilities(spec, of, tokens) for of in (Random(spec).matrix, matrix))
    return float((true * np.log(true / got)).sum(-1).mean())


@pytest.mark.parametrize("name", FAMILIES)
def test_steps_one_after_the_other_are_the_whole_graph(name: str) -> None:
    spec = spec_of(FAMILIES[name])
    tokens, weights = tokens_of(spec, 2), Random(spec)
    model = build_decoder(spec, float_parts(weights.matrix, weights.vector, tied=spec.tied))
    entering = {node.name: node.inputs[0].name for node in model.graph if node.name and node.name.endswith(".product")}
    session = open_session(exposing(model, entering.values()), fused=False)
    past = np.zeros((2, spec.kv_heads, 0, spec.head_size), np.float32)
    names = list(entering.values())
    values = dict(zip(names, session.run(names, {"input_ids": np.stack(tokens)} | {
        value.name: past for value in session.get_inputs()[1:]}), strict=True))
    for (role, layer), found in input_squares(spec, weights, tokens).items():
        role = "head" if role == "embedding" else role
        expected = np.square(values[entering[f"{weight_name(role, layer)}.product"]]).mean((0, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_fitted_codes_are_nearer_to_the_float_network_on_tokens_that_it_has_not_seen() -> None:
    spec = spec_of(LLAMA)
    weights, judges = Random(spec), tokens_of(spec, 16, seed=1)

    def types(role: str, layer: int | None) -> str:
        return "Q8_0" if role == "embedding" else "Q4_1" if role == "v" else "Q4_0"

    tokens = tokens_of(spec, 64)
    fitted = fit_decoder(spec, weights, types, tokens)
    nearest = nearest_decoder(spec, weights, types, input_squares(spec, weights, tokens))
    assert {key: (m.type, m.data.shape) for key, m in fitted.matrices.items()} == {
        key: (m.type, m.data.shape) for key, m in nearest.matrices.items()}
    found = divergence(spec, fitted, judges), divergence(spec, nearest, judges)
    assert found[0] < 0.2 * found[1], found


def test_float_types_keep_their_weights() -> None:
    spec = spec_of(LLAMA)
    fitted = fit_decoder(spec, Random(spec), lambda role, layer: "F32", tokens_of(spec, 2))
    np.testing.assert_array_equal(fitted.matrices["down", 1].real(), Random(spec).matrix("down", 1))


def test_one_sequence_is_refused() -> None:
    spec = spec_of(LLAMA)
    with pytest.raises(UsageError, match="two sequences"):
        fit_decoder(spec, Random(spec), lambda role, layer: "Q4_0", tokens_of(spec, 1))
