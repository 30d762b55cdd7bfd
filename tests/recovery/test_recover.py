"""What is learned, on small networks: what the bundle is told to be, onnxruntime and an independent sum confirm."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import network, normal

import edgeq
from edgeq import policy
from edgeq.errors import CalibrationError, UnsupportedModel, UsageError
from edgeq.graph import constant
from edgeq.inference.reference import run_onnx
from edgeq.recovery import recover as room
from edgeq.recovery import train as training
from edgeq.recovery.recover import StateFile, recover

FLOAT = """small (float[N, 3, 8, 8] x) => (float[N, 10] y) {
    c = Conv<pads=[1, 1, 1, 1]>(x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm<transB=1>(f, v, d)
}"""
DATA = [normal(1, 3, 8, 8, seed=k) for k in range(48)]


@pytest.fixture(scope="module")
def net() -> ir.Model:
    return network(FLOAT, w=normal(16, 3, 3, 3, scale=0.3), b=normal(16, seed=1), v=normal(10, 16, seed=2),
                   d=normal(10, seed=3))


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "RECOVERY_STEPS", replace(policy.RECOVERY_STEPS, value=60))


def convert(net: ir.Model, folder: Path, **words: Any) -> edgeq.Bundle:
    return edgeq.convert(net, target="onnxruntime", output=folder / "a.edgeq", bits=4, weights="per-tensor",
                         method="nearest", calibration=DATA[:16], keep_qdq=folder / "q.onnx", **words)


def divergence(net: ir.Model, graph: Path, feeds: list[Any]) -> float:
    """sum p log(p / q), by numpy."""
    def scores(model: ir.Model) -> np.ndarray:
        y = np.concatenate([found["y"] for found in run_onnx(model, [{"x": x} for x in feeds])]).astype(np.float64)
        return y - np.log(np.exp(y).sum(1, keepdims=True))

    true, ours = scores(net), scores(ir.load(graph))
    return float((np.exp(true) * (true - ours)).sum(1).mean())


UNSEEN = [normal(1, 3, 8, 8, seed=1000 + k) for k in range(64)]


@pytest.mark.parametrize(("words", "left"), [({}, 0.8), ({"recover_weights": True}, 0.5)], ids=["scales", "weights"])
def test_unseen_samples_gain(net: ir.Model, tmp_path: Path, words: Mapping[str, Any], left: float,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training.RATES, "weights", 0.01)  # so that few steps reach other integers
    convert(net, tmp_path)
    before, plain = divergence(net, tmp_path / "q.onnx", UNSEEN), ir.load(tmp_path / "q.onnx")
    bundle = convert(net, tmp_path, recover=DATA, force=True, **words)
    found = bundle.report["recovery"]
    assert found["accepted"]
    assert found["after"] < found["before"]
    assert divergence(net, tmp_path / "q.onnx", UNSEEN) < left * before
    learned = ir.load(tmp_path / "q.onnx")
    assert {name: (value.dtype, value.shape) for name, value in learned.graph.initializers.items()} == {
        name: (value.dtype, value.shape) for name, value in plain.graph.initializers.items()}
    moved = {name for name, value in plain.graph.initializers.items()
             if not np.array_equal(constant(value), constant(learned.graph.initializers[name]))}
    assert ("w_q" in moved) == bool(words)
    assert not any(path.name.endswith(".recovery") for path in tmp_path.iterdir())


def quantized(net: ir.Model, folder: Path) -> tuple[ir.Model, list[dict[str, Any]]]:
    convert(net, folder)
    return ir.load(folder / "q.onnx"), [{"x": x} for x in DATA]


def test_what_was_ended_goes_on_as_if_it_had_not(net: ir.Model, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    graph, feeds = quantized(net, tmp_path)
    whole, figures = recover(net, graph, feeds, "weights", lambda *_: None)
    path = tmp_path / "state"

    def ended(what: str, done: int = 0, total: int | None = None) -> None:
        if done == 41:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(net, graph, feeds, "weights", ended, StateFile(path, resume=False))
    steps: list[int] = []
    again, resumed = recover(net, graph, feeds, "weights", lambda what, done=0, total=None: steps.append(done),
                             StateFile(path, resume=True))
    assert steps[1:] == list(range(40, 60))
    assert resumed == figures
    for name, value in whole.graph.initializers.items():
        np.testing.assert_array_equal(constant(value), constant(again.graph.initializers[name]))
    with pytest.raises(UsageError, match="of another model, other samples or other options"):
        recover(net, graph, feeds, "scales", lambda *_: None, StateFile(path, resume=True))


def test_what_gains_nothing_is_not_taken(net: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, feeds = quantized(net, tmp_path)
    monkeypatch.setattr(room, "train", lambda student, *rest: _spoiled(student))
    kept, figures = recover(net, graph, feeds, "scales", lambda *_: None)
    assert kept is graph
    assert not figures.accepted


def _spoiled(student: training.Student) -> tuple[training.Learning, str]:
    import torch

    with torch.no_grad():
        for tensor in student.tensors:
            tensor += 0.5
    return training.Learning(1, [1.0], [], [], {}), training.FINISHED


def test_a_loss_that_is_no_number_ends_learning_at_the_best(net: ir.Model, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    graph, feeds = quantized(net, tmp_path)
    true = training.Student.loss_on
    calls: list[int] = []

    def poisoned(student: training.Student, lesson: Any) -> Any:
        calls.append(1)
        return true(student, lesson) * (float("nan") if len(calls) > 40 else 1.0)

    monkeypatch.setattr(training.Student, "loss_on", poisoned)
    _, figures = recover(net, graph, feeds, "scales", lambda *_: None)
    assert figures.ended == training.NO_NUMBER
    assert figures.accepted


REFUSED = {
    "few": ({"recover": DATA[:5]}, CalibrationError, "5 samples are too few"),
    "search": ({"recover": DATA, "metric": "sqnr", "min_metric": 9.0}, UsageError, "excludes a search"),
    "alone": ({"recover_weights": True}, UsageError, "--recover-weights belongs to --recover"),
    "resume": ({"resume": True}, UsageError, "--resume belongs to --recover"),
    "shape": ({"recover": [normal(1, 3, 8, 8)[0, 0]] * 9}, CalibrationError, "shape"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_bad_input_is_one_message(net: ir.Model, tmp_path: Path, row: str) -> None:
    words, kind, said = REFUSED[row]
    with pytest.raises(kind, match=said):
        convert(net, tmp_path, **words)
    assert not (tmp_path / "a.edgeq").exists()


def test_operators_without_a_form_are_all_named(tmp_path: Path) -> None:
    text = "odd (float[1, 6] x) => (float[1, 4] y) { h = MatMul(x, w) i = Hardmax(h) k = Selu(h) y = Add(i, k) }"
    odd = network(text, w=normal(6, 4))
    with pytest.raises(UnsupportedModel, match=r"(?s)2 nodes cannot run on torch.*Hardmax.*Selu"):
        edgeq.convert(odd, target="onnxruntime", output=tmp_path / "b.edgeq", bits=4, activations="float",
                      calibration=[normal(1, 6, seed=k) for k in range(16)],
                      recover=[normal(1, 6, seed=k) for k in range(16)])
    assert list(tmp_path.iterdir()) == []
