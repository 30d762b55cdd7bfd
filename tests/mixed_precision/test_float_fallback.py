"""8 bits by default: a layer that ruins the outputs computes in float, and a network that is good is left alone."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from boards.local import Local
from small_graphs import feeds, network, normal

import edgeq_runtime
from edgeq import convert, policy
from edgeq.boards import runner
from edgeq.boards.board import Board
from edgeq.bundle.folder import Bundle
from edgeq.inference.reference import run_onnx
from edgeq.mixed_precision import float_fallback
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import open_samples
from edgeq.verification.compare import compare

SHAPE = (1, 2, 8, 6)
FEEDS = feeds(SHAPE, 12)
CHOOSING = list(open_samples(FEEDS, {"x": InputSpec("float32", SHAPE)}).hold_out()[0])


def gated(outlier: float) -> ir.Model:
    """One channel in front of the Sigmoid is `outlier` times the others, which share its grid and lose to it."""
    w1 = normal(16, 2, 3, 3, seed=1)
    w1[0] *= outlier
    wide = {f"w{k}": normal(24, 24, 3, 3, seed=k, scale=0.1) for k in (3, 4)}
    return network("""
        g (float[1,2,8,6] x) => (float[1,3,8,6] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1)
            s = Sigmoid (a)
            b = Conv <pads = [1,1,1,1]> (s, w2)
            r = Relu (b)
            c = Conv <pads = [1,1,1,1]> (r, w3)
            t = Relu (c)
            d = Conv <pads = [1,1,1,1]> (t, w4)
            u = Relu (d)
            y = Conv <pads = [1,1,1,1]> (u, w5)
        }""", w1=w1, w2=normal(24, 16, 3, 3, seed=2), w5=normal(3, 24, 3, 3, seed=5), **wide)


def converted(model: ir.Model, path: Path, **words: Any) -> tuple[Bundle, float, list[str]]:
    """-> the bundle, its SQNR against float, and the nodes that are kept float for it."""
    bundle = convert(model, target="onnxruntime", calibration=FEEDS, output=path, **words)
    with edgeq_runtime.load(bundle.path) as engine:
        (difference,) = compare(list(run_onnx(model, FEEDS)), [engine.run(dict(feed)) for feed in FEEDS])
    kept = [node["node"] for node in bundle.report["quantization"]["kept_float"] if "output's SQNR" in node["reason"]]
    return bundle, difference.sqnr_db, kept


def sqnr_of(bundle: Path, model: ir.Model) -> float:
    """Against float, on the samples that layers are chosen by: the others are held out for the report."""
    with edgeq_runtime.load(bundle) as engine:
        (difference,) = compare(list(run_onnx(model, CHOOSING)), [engine.run(dict(feed)) for feed in CHOOSING])
    return difference.sqnr_db


def test_the_layer_that_ruins_the_outputs_computes_in_float(tmp_path: Path) -> None:
    _, plain, none = converted(gated(100.0), tmp_path / "plain", method="sum-preserving")
    bundle, mixed_db, kept = converted(gated(100.0), tmp_path / "mixed")
    assert plain < 20
    assert not none
    assert mixed_db > plain + 10
    assert {"Conv_0", "Sigmoid_1"} <= set(kept)
    assert "Conv_6" not in kept
    mixed = bundle.report["mixed_precision"]
    (found,) = mixed["measured"]
    assert found["plain"] == pytest.approx(sqnr_of(tmp_path / "plain", gated(100.0)), abs=1)
    assert found["score"] == pytest.approx(sqnr_of(bundle.path, gated(100.0)), abs=1)
    assert 0 < mixed["float_share"] < policy.FALLBACK_MOST_FLOAT.value
    assert {layer["node"] for layer in mixed["layers"] if layer["float"]} <= set(kept)
    assert bundle.manifest.quantization["higher_precision_layers"] == {}
    page = (bundle.path / "report.html").read_text()
    assert "of the work stays in float; 8-bit weights and activations: sqnr" in page
    assert "predicted from measured operators" in page
    assert "<th>onnxruntime [ms]</th>" in page


@pytest.mark.parametrize("board", [None, "ssh://kitchen"])
def test_engines_are_timed_here_or_on_a_board(board: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              ) -> None:
    """The board is this machine's own Python."""
    for name in ("CLOCK_ROUNDS", "CLOCK_BOARD_ROUNDS", "CLOCK_BOARD_RUNS", "FALLBACK_TRIALS"):
        monkeypatch.setattr(policy, name, replace(getattr(policy, name), value=1))
    (tmp_path / "board").mkdir()
    monkeypatch.setattr(Board, "connect", lambda self: Local(tmp_path / "board"))
    choose = runner.choose_packages
    monkeypatch.setattr(runner, "choose_packages", lambda manifest, facts, _: choose(manifest, facts, "installed"))
    names = ["onnxruntime"] if board else ["onnxruntime", "tflite"]
    bundles = convert(gated(100.0), target=names, calibration=FEEDS, output=tmp_path / "b", measure=True, board=board,
                      io="uint8")
    for bundle in bundles:
        (found,) = bundle.report["mixed_precision"]["measured"]
        (trial,) = found["trials"]
        for times in (found["milliseconds"], trial["beside"]):
            assert all(times[kind][name] > 0 for kind in ("plain", "float") for name in names)
        with edgeq_runtime.load(bundle.path) as model:
            how = found["clocked"][bundle.manifest.target]
            assert how["engine"] == model.engine
            assert (board or "x86_64") in how["machine"]
        assert "measured, and must gain" in found["stopped"]
        assert f"measured: {model.engine} on" in (bundle.path / "report.html").read_text()
    assert not board or len(list((tmp_path / "board/edgeq-board/store").iterdir())) == 1  # the runtime, and no trial


def test_the_same_layers_compute_in_float_behind_4_bit_weights(tmp_path: Path) -> None:
    fitted = "sum-preserving+gptaq+refit+bias"
    _, plain, none = converted(gated(100.0), tmp_path / "plain", bits=4, method=fitted)
    bundle, mixed_db, kept = converted(gated(100.0), tmp_path / "mixed", bits=4)
    assert not none
    assert {"Conv_0", "Sigmoid_1"} <= set(kept)
    assert mixed_db > plain + 3
    assert bundle.manifest.quantization["weight_bits"] == 4


def test_what_is_good_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "VALUES_DB", replace(policy.VALUES_DB, value=25.0))
    bundle, sqnr, kept = converted(gated(1.0), tmp_path / "b")
    assert sqnr > 25
    assert not kept
    assert bundle.report["mixed_precision"]["float_share"] == 0


def test_without_samples_nothing_is_measured(tmp_path: Path) -> None:
    bundle = convert(gated(1.0), target="onnxruntime", output=tmp_path / "b")
    assert bundle.report["mixed_precision"] == {"layers": [], "float_share": 0.0, "measured": []}


@pytest.mark.parametrize("what", ["constant samples", "weights of zero", "dead channels"])
def test_no_signal_gives_a_finite_model(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "VALUES_DB", replace(policy.VALUES_DB, value=500.0))
    model, samples = gated(1.0), FEEDS
    if what == "constant samples":
        samples = [{"x": np.zeros(SHAPE, np.float32)}] * 4
    else:
        weight = model.graph.initializers["w3"].const_value.numpy().copy()
        weight[:: 1 if what == "weights of zero" else 2] = 0
        model.graph.initializers["w3"].const_value = ir.tensor(weight, name="w3")
    bundle = convert(model, target="onnxruntime", calibration=samples, output=tmp_path / "b")
    for value in ir.load(bundle.path / "model.onnx").graph.initializers.values():
        data = value.const_value.numpy()
        assert data.dtype.kind != "f" or np.isfinite(data).all(), value.name
    with edgeq_runtime.load(bundle.path) as engine:
        assert np.isfinite(engine.run(dict(FEEDS[0]))["y"]).all()


def test_what_cannot_be_measured_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_fallback, "LARGEST", 1000)
    bundle, _, kept = converted(gated(100.0), tmp_path / "b")
    assert not kept
    assert "too large to measure" in bundle.report["mixed_precision"]["measured"][0]["note"]
    assert "layers not compared: the network is too large" in (bundle.path / "report.html").read_text()


def test_a_layer_inside_a_branch_counts_too(tmp_path: Path) -> None:
    """Its weights for an input that is always 0 are 3000 times the others, which 8 bits then lose."""
    wasted = normal(16, 4, 3, 3, seed=1)
    wasted[:, 3] *= 3000
    model = network("""
        g (float[1,4,8,6] x, bool[1] c) => (float[1,3,8,6] y) {
            h = If (c) <
                then_branch = t () => (float[1,16,8,6] u) { p = Conv <pads = [1,1,1,1]> (x, w1)  u = Relu (p) },
                else_branch = e () => (float[1,16,8,6] v) { q = Conv <pads = [1,1,1,1]> (x, w2)  v = Tanh (q) }>
            k = Conv <pads = [1,1,1,1]> (h, w3)
            r = Relu (k)
            y = Conv <pads = [1,1,1,1]> (r, w4)
        }""", w1=wasted, w2=normal(16, 4, 3, 3, seed=2), w3=normal(64, 16, 3, 3, seed=3),
        w4=normal(3, 64, 3, 3, seed=4))
    used = np.float32([1, 1, 1, 0]).reshape(1, 4, 1, 1)
    samples = [{"x": normal(1, 4, 8, 6, seed=k) * used, "c": np.array([k % 2 == 0])} for k in range(8)]
    bundle = convert(model, target="onnxruntime", calibration=samples, output=tmp_path / "b", calibrator="minmax")
    with edgeq_runtime.load(bundle.path) as engine:
        (difference,) = compare(list(run_onnx(model, samples)), [engine.run(dict(feed)) for feed in samples])
    (found,) = bundle.report["mixed_precision"]["measured"]
    assert difference.sqnr_db > 25
    assert found["score"] > 25 > 10 > found["plain"]
