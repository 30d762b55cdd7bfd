"""Language models for tests: one that continues a text by rote, and tiny networks with random weights."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from edgeq.frontends.decoder.architectures import spec_of
from edgeq.frontends.decoder.builder import build_decoder, float_parts
from edgeq.frontends.decoder.weights import shape_of
from edgeq.inference.decoder import GraphDecoder
from edgeq.inference.session import open_session

TINY = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 101, "tie_word_embeddings": True,
        "max_position_embeddings": 256}
END = 0


class Letters:
    """A token for each character; its own template."""

    def encode(self, text: str, special: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"


class Rote:
    """Continues the texts that it knows, letter by letter, and ends then; all other letters are less likely."""

    context = 300

    def __init__(self, *texts: str):
        self.texts, self.cache = texts, ""

    def logits(self, tokens: Sequence[int], every: bool = False) -> NDArray[np.float32]:
        rows = []
        for token in tokens:
            self.cache += chr(token)
            row = np.zeros(128, np.float32)
            for text in self.texts:
                if text.startswith(self.cache):
                    row[ord(text[len(self.cache)]) if len(text) > len(self.cache) else END] = 5
            rows.append(row)
        return np.stack(rows if every else rows[-1:])

    def keep(self, count: int) -> None:
        self.cache = self.cache[:count]

    def close(self) -> None:
        pass


def tiny_decoder(noise: float = 0.0) -> GraphDecoder:
    """noise: added to every weight of a linear layer, as a share of them."""
    spec = spec_of(TINY)

    def matrix(role: str, layer: int | None = None) -> Any:
        return vector("embedding" if role == "head" else role, "weight", layer)

    def vector(role: str, part: str, layer: int | None = None) -> Any:
        chance = np.random.default_rng(crc32(f"{role}{part}{layer}".encode()))
        shape = shape_of(spec, role, part)
        found = chance.normal(size=shape) * (0.2 if len(shape) > 1 else 0.1) + (len(shape) == 1)
        return (found * (1 + noise * chance.normal(size=shape) * (len(shape) > 1))).astype(np.float32)

    model = build_decoder(spec, float_parts(matrix, vector, tied=True))
    return GraphDecoder(open_session(model, fused=True, threads=1), spec.context)
