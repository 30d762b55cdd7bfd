"""The same codes in llama.cpp and in ONNX Runtime, from the checkpoint to the text."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from language_bundles import checkpoint

import edgeq
from edgeq_runtime import load

pytestmark = pytest.mark.full


def test_greedy_texts_are_equal_up_to_logits_that_are_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or, at the first token that differs, the two logits lie closer than the engines do (int8 inside of kernels)."""
    checkpoint(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    bundles = edgeq.convert("tiny", target=["gguf", "onnxruntime"], bits=8, method="nearest")
    texts, rows = [], []
    for bundle in bundles:
        with load(bundle.path, threads=1) as model:
            assert model.self_test().ok
            result = model.generate("Hello world", max_tokens=32, stream=False)
            decoder = model.language._cache.decoder
            decoder.keep(0)
            tokens = model.language.tokenizer.encode("Hello world") + list(result.tokens)
            rows.append(decoder.logits(tokens, every=True))
            texts.append(result)
    first, second = texts
    shared = next((k for k, pair in enumerate(zip(first.tokens, second.tokens, strict=True)) if pair[0] != pair[1]), 32)
    places = slice(0, first.prompt_tokens + shared)
    distance = float(np.abs(rows[0][places] - rows[1][places]).max())
    assert distance < .05 * float(np.abs(rows[0]).max())  # measured: .02
    if shared < 32:
        row = rows[0][first.prompt_tokens + shared - 1]
        assert abs(float(row[first.tokens[shared]] - row[second.tokens[shared]])) <= 2 * distance
