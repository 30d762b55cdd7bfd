"""A language model's bundle, judged by the command: llama.cpp on the same float weights, and on worse ones."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from frontends.decoder.tokenizers_made import TEXTS

import edgeq
from edgeq.cli import main
from edgeq.errors import UsageError

pytest.importorskip("xllamacpp")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, its checkpoint, another checkpoint, a text and tasks."""
    from language_bundles import bundle, checkpoint

    folder = tmp_path_factory.mktemp("lm")
    bundle(folder)
    checkpoint(folder / "other", seed=1)
    (folder / "text.txt").write_text("\n".join(TEXTS) * 3)
    lines = [{"messages": [{"role": "user", "content": "Hi"}], "answer": "no such answer", "max_tokens": 4},
             {"prompt": "Hello", "choices": [" world", " it's"], "answer": 0}]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_llama_cpp_on_the_same_weights_loses_nothing(made: Path) -> None:
    found = edgeq.evaluate(made / "tiny.gguf.edgeq", perplexity=made / "text.txt", kl_against=made / "checkpoint",
                           tasks=made / "tasks.jsonl", max_drop="0.1%")
    assert found.divergence is not None
    assert found.divergence.percentile_99 < 1e-5
    assert found.divergence.flips < 1
    assert found.met
    assert [counts.lost for counts in found.tasks] == [0, 0]
    assert np.isfinite([score.score for score in found.scores]).all()


@pytest.mark.parametrize(("words", "code", "said"), [
    ("--perplexity text.txt --kl-against checkpoint --max-drop 1%", 0, "no difference that so short a text"),
    ("--perplexity text.txt --kl-against checkpoint --min-metric 2", 3, "MISSED"),
    ("--perplexity text.txt --kl-against other", 0, "nats of KL divergence"),
    ("--tasks tasks.jsonl --reference checkpoint", 0, "exact answers: 0 of 1, float 0: nothing was lost"),
    ("--perplexity text.txt --samples 1", 0, "--reference CHECKPOINT tells what was lost"),
    ("--kl-against checkpoint", 2, "add --perplexity TEXT"), ("--data x.npz", 2, "is a language model"),
    ("--tasks tasks.jsonl --max-drop 1", 2, "add --reference CHECKPOINT"),
    ("--tasks t.jsonl", 1, "cannot be read"), ("--perplexity text.txt --data x.npz", 2, "judge networks"),
])
def test_the_command(words: str, code: int, said: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    result = CliRunner().invoke(main, ["eval", "tiny.gguf.edgeq", *words.split()])
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_another_model_is_no_reference(made: Path, tmp_path: Path) -> None:
    config = json.loads((made / "checkpoint/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 5}))
    (tmp_path / "model.safetensors").write_bytes((made / "checkpoint/model.safetensors").read_bytes())
    with pytest.raises(UsageError, match="not the same language model"):
        edgeq.evaluate(made / "tiny.gguf.edgeq", perplexity=made / "text.txt", kl_against=tmp_path)
