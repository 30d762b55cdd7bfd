"""The search on small networks: what it measures, that it meets its limits, and what it says when it cannot."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from small_graphs import feeds, network, normal, residual

import edgeq_runtime
from edgeq import convert
from edgeq.cli import main
from edgeq.conversion.analyze import analyze_layers
from edgeq.conversion.metadata import input_specs
from edgeq.conversion.options import Options
from edgeq.errors import UsageError
from edgeq.inference.reference import run_onnx
from edgeq.mixed_precision.candidates import measured_path
from edgeq.mixed_precision.goal import Drop, Least, limits_of
from edgeq.mixed_precision.trial_builder import TrialBuilder, precisions, work
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.fit import Fit
from edgeq.quant.methods import method_named
from edgeq.quant.samples import open_samples
from edgeq.scheme import PRESETS
from edgeq.verification.compare import compare
from edgeq_converters.onnxruntime.target import ONNXRUNTIME

SHAPE = (1, 3, 9, 7)
FEEDS = feeds(SHAPE, 16)


@pytest.fixture(scope="module")
def builder() -> TrialBuilder:
    model = residual()
    samples = open_samples(FEEDS, input_specs(model))
    statistics = calibrate(model, ["x", "r", "c", "t", "p", "f"], samples)
    return TrialBuilder(model, [ONNXRUNTIME], PRESETS["w8a8"], samples, statistics, CALIBRATORS["mse"],
                        method_named("auto"))


def noise(builder: TrialBuilder, graph: Any) -> float:
    (difference,) = compare(list(run_onnx(builder.network, FEEDS[:8])), list(run_onnx(graph, FEEDS[:8])))
    return difference.noise / difference.signal


def test_the_noise_of_single_roundings_adds_up(builder: TrialBuilder) -> None:
    """The sum over single roundings against the whole graph, at both ends of the path and between."""
    walked = measured_path(builder, FEEDS[:8])
    for place in (0, len(walked) // 2, len(walked) - 2):
        assignment = walked[place]
        real = noise(builder, builder.build(precisions(assignment.bits, assignment.floats)).graph)
        assert 1 / 4 < real / assignment.noise < 4, place


def test_the_last_assignment_is_float(builder: TrialBuilder) -> None:
    assignment = measured_path(builder, FEEDS[:4])[-1]
    built = builder.build(precisions(assignment.bits, assignment.floats))
    assert not built.plan.groups
    assert noise(builder, built.graph) < 1e-5, "weights in half precision"


def test_weights_are_fitted_once_for_all_assignments(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that two layers share cannot be fitted, which must not start the others again."""
    model = network("""
        g (float[1,6] x) => (float[1,5] y) {
            a = MatMul (x, w)
            b = MatMul (a, w)
            y = MatMul (b, v)
        }""", w=normal(6, 6), v=normal(6, 5))
    samples = open_samples(feeds((1, 6), 8), input_specs(model))
    builder = TrialBuilder(model, [ONNXRUNTIME], PRESETS["w8"], samples, {}, CALIBRATORS["mse"], method_named("auto"))
    calls, fit = [], Fit.__call__
    monkeypatch.setattr(Fit, "__call__", lambda *arguments: calls.append(1) or fit(*arguments))
    for bits in ({"MatMul_0": 4, "MatMul_1": 4, "MatMul_2": 4}, {"MatMul_2": 4}, {"MatMul_0": 4, "MatMul_1": 4}):
        builder.build(precisions(bits, ()))
    assert len(calls) == 1
    builder.build(precisions({"MatMul_2": 4}, ()), refit=True)
    assert len(calls) == 2
    other = replace(builder, method=method_named("gptq"))
    for _ in range(2):
        other.build(precisions({"MatMul_2": 4}, ()))
        assert len(calls) == 3, "another method fits otherwise, and once too"


def test_multiplications() -> None:
    counted = [work(node) for node in residual().graph]
    assert counted[0] == 9 * 7 * 4 * 3 * 9
    assert counted[7] == 4 * 5
    transposed = network("g (float[1,2,3,4] x) => (float[1,5,7,9] y) { y = ConvTranspose <strides=[2,2]> (x, w) }",
                         w=normal(2, 5, 3, 3))
    assert work(transposed.graph[0]) == 2 * 3 * 4 * 5 * 3 * 3


def labelled() -> list[tuple[dict[str, np.ndarray], int]]:
    """The float model's own classes: it scores 100 %."""
    fed = feeds(SHAPE, 60)
    return [(dict(feed), int(out["y"].argmax())) for feed, out in zip(fed, run_onnx(residual(), fed), strict=True)]


def test_the_smallest_bundle_that_keeps_the_metric(tmp_path: Path) -> None:
    bundle = convert(residual(), target="onnxruntime", calibration=FEEDS, eval=labelled(), metric="top1",
                     max_drop=2.0, output=tmp_path / "b")
    found, scored = bundle.report["mixed_precision"], bundle.report["evaluation"]
    assert scored["met"]
    assert scored["float_score"] == 100
    assert scored["worst_score_allowed"] == 98
    (measured,) = found["measured"]
    (chosen,) = (trial for trial in measured["trials"] if trial["chosen"])
    assert measured["score"] == chosen["score"] >= 98
    assert all(trial["bytes"] >= chosen["bytes"] for trial in measured["trials"] if trial["score"] >= 98)
    assert len(measured["trials"]) <= measured["budget"]
    bits = {layer["node"]: layer["weight_bits"] for layer in found["layers"] if layer["weight_bits"]}
    assert set(bits) == {"Conv_0", "Conv_2", "Gemm_7"}
    higher = bundle.manifest.quantization["higher_precision_layers"]
    assert {**dict.fromkeys(bits, min(bits.values())), **higher} == bits


def matrices() -> ir.Model:
    """Three layers of 64 x 64, so that the bytes of weights outweigh those of nodes."""
    return network("""
        g (float[1,64] x) => (float[1,64] y) {
            a = MatMul (x, w1)
            r = Relu (a)
            b = MatMul (r, w2)
            s = Relu (b)
            y = MatMul (s, w3)
        }""", **{f"w{k}": normal(64, 64, seed=k) for k in (1, 2, 3)})


def test_the_best_bundle_within_so_many_bytes(tmp_path: Path) -> None:
    bundle = convert(matrices(), target="onnxruntime", calibration=feeds((1, 64), 8), metric="sqnr", max_bytes="18kB",
                     output=tmp_path / "b")
    (found,) = bundle.report["mixed_precision"]["measured"]
    assert bundle.artifact_bytes <= 18000 < max(trial["bytes"] for trial in found["trials"])
    assert found["score"] == max(trial["score"] for trial in found["trials"] if trial["bytes"] <= 18000)
    assert bundle.report["evaluation"]["score"] == pytest.approx(found["score"], abs=0.5)


def test_weights_alone_need_no_calibration(tmp_path: Path) -> None:
    bundle = convert(residual(), target="coreml", eval=labelled(), metric="top1", max_drop="5%", output=tmp_path / "b")
    assert bundle.report["evaluation"]["met"]
    assert bundle.report["quantization"]["activation_bits"] == 32


def test_what_cannot_be_met_is_written_and_exits_with_3(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed, _ in labelled()]),
             labels=[label for _, label in labelled()])
    ir.save(residual(), tmp_path / "model.onnx")
    result = CliRunner().invoke(main, [
        "convert", str(tmp_path / "model.onnx"), "--target", "onnxruntime", "--calibration", str(tmp_path / "data.npz"),
        "--eval", str(tmp_path / "data.npz"), "--metric", "top1", "--max-drop", "-1", "-o", str(tmp_path / "b")])
    assert result.exit_code == 3, result.output
    assert "below what was asked" in result.stderr
    said = ("top1 95 %, float 100 %, on 20 samples (--eval, unseen by the search) (at least 101 % was asked); on the "
            "40 that led the search 100 %, float 100 %: MISSED")
    assert said in result.stdout
    report = json.loads((tmp_path / "b/report.json").read_text())
    assert not report["evaluation"]["met"]
    (found,) = report["mixed_precision"]["measured"]
    assert found["score"] == max(trial["score"] for trial in found["trials"])
    assert "Mixed precision</h2>" in (tmp_path / "b/report.html").read_text()
    inspected = CliRunner().invoke(main, ["inspect", str(tmp_path / "b")])
    assert said in " ".join(inspected.stdout.split())
    assert edgeq_runtime.load(tmp_path / "b", verify=True).self_test().ok


@pytest.mark.parametrize(("words", "message"), [
    ({"max_drop": 1}, "add --eval DATA with --metric"),
    ({"metric": "top1", "max_drop": 1}, "needs labelled data: add --eval DATA"),
    ({"metric": "sqnr", "max_drop": 1, "calibration": FEEDS}, "say how many dB with --min-metric"),
    ({"metric": "sqnr", "min_metric": 30}, "needs samples"),
    ({"metric": "sqnr", "min_metric": 30, "calibration": FEEDS, "bits": 16}, "leaves nothing to search"),
    ({"metric": "sqnr", "max_drop": "much"}, "--max-drop much: give a number"),
    ({"metric": "sqnr", "max_bytes": "3 potatoes"}, "--max-bytes 3 potatoes: give a number of bytes"),
    ({"metric": "sqnr", "min_metric": 1, "max_drop": 2}, "give one"),
])
def test_demands_that_make_no_sense(words: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        convert(residual(), target="onnxruntime", output=tmp_path / "b", **words)
    assert not list(tmp_path.iterdir())


def test_limits_are_read() -> None:
    assert limits_of("1%", None, "1.5MB").quality == Drop(1.0, relative=True)
    assert limits_of("1%", None, "1.5MB").bytes == 1_500_000
    assert limits_of(0.5, None, 600).bytes == 600
    assert limits_of(None, 30.0, "600kB").quality == Least(30.0)


def test_analyze_ranks_layers_by_the_metric() -> None:
    model = residual()
    w2, w3 = (model.graph.initializers[name].const_value.numpy().copy() for name in ("w2", "w3"))
    w2[0] *= 1e4  # one scale for all channels leaves nothing of the others,
    w3[:, 0] = 0  # which are all that counts
    for name, data in (("w2", w2), ("w3", w3)):
        model.graph.initializers[name].const_value = ir.tensor(data, name=name)
    labelled = [(dict(feed), out["z"]) for feed, out in zip(FEEDS, run_onnx(_showing(model, "z"), FEEDS), strict=True)]
    found = analyze_layers(_showing(model, "z"), ["onnxruntime"], Options(
        calibration=FEEDS, weights="per-tensor", activations="float", eval=labelled, metric=lambda p, t: -max(
            float(np.abs(prediction["z"] - target).max()) for prediction, target in zip(p, t, strict=True))))
    assert found["layers"][0]["node"] == "Conv_2"
    assert found["float_score"] == pytest.approx(0, abs=1e-3)
    scores = [line["score"] for line in found["layers"]]
    assert scores == sorted(scores)


def _showing(model: ir.Model, name: str) -> ir.Model:
    """The same network, ending at another value."""
    model = model.clone()
    value = next(value for node in model.graph for value in node.outputs if value.name == name)
    model.graph.outputs[:] = [value]
    return model
