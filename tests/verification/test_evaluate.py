"""The forms of labelled data, and what is said when a metric gives no score."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.errors import CalibrationError, EvaluationError, UsageError
from edgeq.quant.feeds import InputSpec
from edgeq.verification.evaluate import fidelity, labelled_data

SPECS = {"x": InputSpec("float32", (1, 3))}
DATA = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
LABELS = np.array([0, 1, 2, 1])


def echo(feed: Any) -> dict[str, np.ndarray]:
    return {"y": feed["x"], "z": -feed["x"]}


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["labels", "targets"])
def test_one_file(tmp_path: Path, name: str) -> None:
    evaluation = labelled_data(npz(tmp_path / "d.npz", x=DATA, **{name: LABELS}), "top1").open(SPECS)
    assert evaluation.score(echo) == evaluation.score(echo) == 75


def test_a_folder_of_feeds(tmp_path: Path) -> None:
    for number, (row, label) in enumerate(zip(DATA, LABELS, strict=True)):
        npz(tmp_path / f"{number}.npz", x=row[None], labels=label)
    assert labelled_data(tmp_path, "top1").open(SPECS).score(echo) == 75


def test_pairs_and_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evaluation_data.py").write_text(
        "import numpy as np\n"
        "def pairs():\n    for k in (0, 1, 1):\n        yield {'x': np.eye(3, dtype='f4')[k][None]}, k\n"
        "def score(predict):\n    return sum(float(predict(feed)['y'].sum()) for feed, _ in pairs())\n"
        "def mine(predictions, targets):\n    return sum(p['z'][0, t] for p, t in zip(predictions, targets))\n"
        "mine.higher_is_better = False\n")
    monkeypatch.chdir(tmp_path)
    assert labelled_data("evaluation_data:pairs", "top1").open(SPECS).score(echo) == 100
    assert labelled_data("evaluation_data:score", None).open(SPECS).score(echo) == 3
    own = labelled_data("evaluation_data:pairs", "evaluation_data:mine").open(SPECS)
    assert own.score(echo) == -3
    assert not own.metric.higher_is_better
    with pytest.raises(UsageError, match="gives the score itself"):
        labelled_data("evaluation_data:score", "top1").open(SPECS)


def test_an_iterator_of_pairs_is_walked_more_than_once() -> None:
    def pairs() -> Iterator[tuple[dict[str, np.ndarray], int]]:
        for row, label in zip(DATA, LABELS, strict=True):
            yield {"x": row[None]}, int(label)

    evaluation = labelled_data(pairs(), "top1").open(SPECS)
    assert evaluation.score(echo) == evaluation.score(echo) == 75


def test_fidelity_is_that_of_the_worst_output() -> None:
    feeds = [{"x": row[None]} for row in DATA]
    evaluation = fidelity(feeds, map(echo, feeds), ir.Graph([], [], nodes=[]))
    assert evaluation.score(echo) == 200
    assert evaluation.score(lambda feed: {**echo(feed), "z": -0.9 * feed["x"]}) == pytest.approx(20, abs=1e-3)


def raising(predictions: Any, targets: Any) -> float:
    raise KeyError("boxes")


@pytest.mark.parametrize(("data", "metric", "error", "message"), [
    ({"x": DATA}, "top1", EvaluationError, "holds no labels: add an array named labels or targets"),
    ({"x": DATA, "labels": LABELS[:3]}, "top1", EvaluationError, "holds 4 samples and 3 labels"),
    ({"x": DATA, "labels": LABELS + 2}, "top1", EvaluationError, "--metric top1: sample 1: label 3 where the"),
    ({"x": DATA[:, :2], "labels": LABELS}, "top1", CalibrationError, "the model takes float32"),
    ({"x": DATA, "labels": LABELS}, "accuracy", UsageError, "no metric 'accuracy'; there are top1, top5"),
    ({"x": DATA, "labels": LABELS}, None, UsageError, "--eval needs --metric"),
    ({"x": DATA, "labels": LABELS}, raising, EvaluationError, "--metric raising: KeyError: 'boxes'"),
    ({"x": DATA, "labels": LABELS}, lambda p, t: np.nan, EvaluationError, "the score is nan"),
    ({"x": DATA, "labels": LABELS}, "no_such_module:f", CalibrationError, "cannot import 'no_such_module:f'"),
])
def test_what_gives_no_score_is_named(tmp_path: Path, data: Any, metric: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        labelled_data(npz(tmp_path / "d.npz", **data), metric).open(SPECS).score(echo)


def test_what_is_no_pair_is_named() -> None:
    with pytest.raises(EvaluationError, match="sample 1 is no pair of a feed and a target"):
        labelled_data([({"x": DATA[:1]}, 0), {"x": DATA[:1]}], "top1").open(SPECS).score(echo)
