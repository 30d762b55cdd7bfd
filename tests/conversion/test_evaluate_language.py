"""Scores of a language model beside float, their limits, and what is said of them."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from language_models import END, Letters, Rote

from edgeq.conversion.evaluate_language import Asked, LanguageScore, TaskCounts, evaluate_language, task_sentence
from edgeq.errors import UsageError
from edgeq.mixed_precision import Limits
from edgeq.mixed_precision.goal import Drop, Least

TEXT = "the cat sat on the mat"


def judged(asked: Asked, *, worse: bool = True) -> LanguageScore:
    """A model that has forgotten half of the text and one of two answers, beside one that knows all."""
    known = (TEXT, "1+1=2", "2+2=4")
    model = Rote(TEXT[:8], "1+1=2", "2+2=5") if worse else Rote(*known)
    return evaluate_language(model, Rote(*known), Letters(), None, [END], asked)


def files(folder: Path) -> tuple[Path, Path]:
    (folder / "text.txt").write_text(TEXT)
    lines = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "text.txt", folder / "tasks.jsonl"


@pytest.mark.parametrize(("worse", "quality", "met"), [
    (True, Drop(10, True), False), (False, Drop(0, True), True), (True, Drop(10000, True), True), (True, None, True)])
def test_limits_hold_for_text_and_tasks(worse: bool, quality: Drop | None, met: bool, tmp_path: Path) -> None:
    text, tasks = files(tmp_path)
    found = judged(Asked(text=text, tasks=tasks, checkpoint=text, divergence=True, limits=Limits(quality)), worse=worse)
    perplexity, exact = found.scores
    assert (exact.score, exact.float_score) == ((50, 100) if worse else (100, 100))
    assert (perplexity.drop is not None and perplexity.drop > 0) == worse
    assert found.divergence is not None
    assert (found.divergence.flips > 0) == worse
    assert found.met == found.to_json()["met"] == met
    assert len(found.said) == 3


def test_a_limit_of_tasks_alone(tmp_path: Path) -> None:
    _, tasks = files(tmp_path)
    for quality, met in ((Drop(49), False), (Drop(50), True), (Least(51), False)):
        assert judged(Asked(tasks=tasks, checkpoint=tasks, limits=Limits(quality))).met == met


@pytest.mark.parametrize(("words", "said"), [
    ({}, "judged by --perplexity TEXT"), ({"divergence": True, "tasks": Path("t")}, "add --perplexity TEXT"),
    ({"text": Path("t"), "limits": Limits(Drop(1))}, "add --reference CHECKPOINT"),
    ({"text": Path("t"), "tasks": Path("t"), "checkpoint": Path("c"), "limits": Limits(Drop(1))}, "different units")])
def test_what_is_asked_must_make_sense(words: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Asked(**words)  # type: ignore[arg-type]


@pytest.mark.parametrize(("counts", "said"), [
    (TaskCounts("exact", 50, 40), "exact answers: 40 of 50"),
    (TaskCounts("exact", 50, 40, 0, 0), "exact answers: 40 of 50, float 40: nothing was lost"),
    (TaskCounts("choice", 50, 40, 3, 2), "multiple choice: 40 of 50, float 41; 3 lost, 2 gained: so few that chance "
                                         "alone could have done it"),
    (TaskCounts("json", 50, 30, 20, 0), "JSON that fits its schema: 30 of 50, float 50; 20 lost, 0 gained: structured "
                                        "output broke; a grammar (json_schema=) keeps it valid")])
def test_what_is_said_of_tasks(counts: TaskCounts, said: str) -> None:
    assert task_sentence(counts) == said
