"""A text and tasks, judged: against torch's own losses, and with models whose answers are known."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_models import END, Letters, Rote, tiny_decoder

from edgeq.errors import EvaluationError
from edgeq.verification.language import score_text, windows
from edgeq.verification.language_tasks import first_json, is_right, read_tasks

OBJECT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def test_losses_are_torchs() -> None:
    """In parts with a cache, as the judge reads a window, and at once, as torch gets it."""
    torch = pytest.importorskip("torch")
    tokens = np.random.default_rng(0).integers(0, 101, 700).tolist()
    texts = windows(tokens, 256, first=7)
    assert [len(text) for text in texts] == [256, 256, 191]
    assert texts[1][:2] == [7, tokens[255]]
    found = score_text(tiny_decoder(0.1), tiny_decoder(), texts)
    losses, kls, same = [], [], []
    for text in texts:
        got, true = (torch.from_numpy(model.logits(text[:-1], every=True)) for model in (tiny_decoder(0.1),
                                                                                       tiny_decoder()))
        losses.append(torch.nn.functional.cross_entropy(got, torch.tensor(text[1:]), reduction="none"))
        kls.append(torch.nn.functional.kl_div(got.log_softmax(1), true.log_softmax(1), reduction="none",
                                              log_target=True).sum(1))
        same.append(got.argmax(1) == true.argmax(1))
    assert found.perplexity == pytest.approx(torch.cat(losses).mean().exp().item(), rel=1e-5)
    assert found.divergence is not None
    kl = torch.cat(kls)
    assert found.divergence.mean == pytest.approx(kl.mean().item(), rel=1e-3)
    assert found.divergence.percentile_99 == pytest.approx(kl.quantile(0.99).item(), rel=1e-3)
    assert found.divergence.flips == pytest.approx(100 * (1 - torch.cat(same).float().mean().item()))
    assert found.divergence.mean > 1e-3


def test_a_cache_that_was_cut_is_as_new() -> None:
    kept, new = tiny_decoder(), tiny_decoder()
    kept.logits([5, 6, 7, 8, 9])
    kept.keep(2)
    np.testing.assert_allclose(kept.logits([3, 4]), new.logits([5, 6, 3, 4]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("task", "says", "right"), [
    ({"prompt": "2+2=", "answer": "4"}, "2+2=4\n5", True),
    ({"prompt": "2+2=", "answer": "4"}, "2+2=\n 4 ", True),
    ({"prompt": "2+2=", "answer": "4"}, "2+2=45", False),
    ({"prompt": "2+2=", "answer": ["four", "4"], "stop": ["."]}, "2+2=four. And", True),
    ({"prompt": "2+2=", "answer": "444", "max_tokens": 2}, "2+2=444", False),
    ({"messages": [{"role": "user", "content": "hi"}], "answer": "yo"}, "<user>hi<assistant>yo", True),
    ({"prompt": "sky ", "choices": ["blue", "red"], "answer": 0}, "sky blue", True),
    ({"prompt": "sky ", "choices": ["blue", "red"], "answer": 1}, "sky blue", False),
    ({"prompt": "j", "schema": OBJECT}, 'jSure: {"n": 3} and more', True),
    ({"prompt": "j", "schema": OBJECT}, 'j{"n": "3"}', False),
    ({"prompt": "j", "schema": OBJECT}, 'j{"n": 3', False),
    ({"prompt": "j", "schema": {"type": "array"}}, "j[1, [2]]", True),
    ({"prompt": "j", "schema": {}}, "jnothing", False),
])
def test_a_task(task: dict[str, Any], says: str, right: bool, tmp_path: Path) -> None:
    if "schema" in task:
        pytest.importorskip("jsonschema")
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task) + "\n\n")
    found, = read_tasks(tmp_path / "tasks.jsonl")
    assert is_right(Rote(says), Letters(), [END], found) == right


@pytest.mark.parametrize(("line", "said"), [
    ("{", "line 2: Expecting"), ("[]", "a task is a JSON object"), ('{"answer": "x"}', "a prompt or messages"),
    ('{"prompt": "x"}', "an answer or a schema"), ('{"prompt": "x", "answr": "y"}', "no such word: answr"),
    ('{"prompt": "x", "choices": ["a"], "answer": 1}', "there are 1 choices, counted from 0"),
    ('{"prompt": "x", "schema": {"type": "objekt"}}', "the schema is none"),
])
def test_a_line_that_is_no_task(line: str, said: str, tmp_path: Path) -> None:
    if "schema" in line:
        pytest.importorskip("jsonschema")
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "x", "answer": "y"}\n' + line)
    with pytest.raises(EvaluationError, match=said):
        read_tasks(tmp_path / "tasks.jsonl")


def test_what_cannot_be_judged(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="fewer than two tokens"):
        windows([3], 100)
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"prompt": "x" * 400, "answer": "y"}))
    with pytest.raises(EvaluationError, match=r"401 tokens, and the model's context 300"):
        is_right(Rote(), Letters(), [END], *read_tasks(tmp_path / "tasks.jsonl"))
    assert first_json('} ["a"] {}') == (["a"],)
