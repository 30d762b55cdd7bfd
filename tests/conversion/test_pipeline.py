"""The whole flow on a small network: three engines, one plan."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, network, normal, residual

import edgeq_runtime
from edgeq import convert
from edgeq.backend import backend_named
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.errors import BundleError, UnsupportedModel, UsageError, VerificationError
from edgeq.inference.reference import run_onnx
from edgeq.quant.qdq import QUANTIZE
from edgeq.verification.compare import compare

TARGETS = ("onnxruntime", "tflite", "coreml")
SHAPE = (1, 3, 9, 7)


def outputs(bundle: Path) -> list[dict[str, np.ndarray]]:
    with edgeq_runtime.load(bundle) as model:
        return [model.run(dict(feed)) for feed in feeds(SHAPE)]


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
@pytest.mark.parametrize("target", [*TARGETS, "tensorrt"])
def test_every_target_at_every_width_is_near_the_float_model(target: str, bits: int, tmp_path: Path) -> None:
    bundle = convert(residual(), target=target, bits=bits, output=tmp_path / "b",
                     calibration=feeds(SHAPE) if bits < 16 else None)
    (difference,) = compare(list(run_onnx(residual(), feeds(SHAPE))), outputs(bundle.path))
    assert difference.sqnr_db > {4: 12, 8: 30, 16: 50, 32: 50}[bits]
    assert edgeq_runtime.load(bundle.path, verify=True).self_test().ok


def test_bundles_of_one_call_agree_and_name_their_scheme(tmp_path: Path) -> None:
    options = Options(bits=8, calibration=feeds(SHAPE), keep_qdq=tmp_path / "graph.onnx")
    bundles = convert_all(residual(), TARGETS, options, tmp_path)
    assert [bundle.path.name for bundle in bundles] == [f"model.{name}.edgeq" for name in TARGETS]
    reference = list(run_onnx(ir.load(tmp_path / "graph.onnx"), feeds(SHAPE)))
    for bundle in bundles:
        (difference,) = compare(reference, outputs(bundle.path))
        # In half precision an activation near a tie falls to the other side: one step, as large as quantization's own.
        assert difference.sqnr_db > 35, bundle.manifest.target
        assert bundle.manifest.quantization["weight_bits"] == bundle.manifest.quantization["activation_bits"] == 8
        assert bundle.manifest.calibration["samples"] == 4
        low, high = next(iter(bundle.manifest.calibration["ranges"].values()))
        seen = [array for feed in feeds(SHAPE) for array in feed.values()]
        assert (low, high) == (np.min(seen), np.max(seen))


def test_a_model_that_is_quantized_already_keeps_its_scales(tmp_path: Path) -> None:
    options = Options(calibration=feeds(SHAPE), keep_qdq=tmp_path / "graph.onnx")
    convert_all(residual(), ["onnxruntime"], options, tmp_path / "first")
    again = convert(tmp_path / "graph.onnx", target="onnxruntime", output=tmp_path / "again")

    def scales(path: Path) -> list[float]:
        return sorted(float(node.inputs[1].const_value.numpy()) for node in ir.load(path).graph
                      if node.op_type == QUANTIZE)

    assert scales(again.path / "model.onnx") == scales(tmp_path / "graph.onnx")
    assert again.manifest.quantization == {"scheme": "as in the source model"}


def test_a_quantized_model_in_half_precision_is_measured_against_its_own_rounding(tmp_path: Path) -> None:
    options = Options(calibration=feeds(SHAPE), keep_qdq=tmp_path / "graph.onnx")
    convert_all(residual(), ["onnxruntime"], options, tmp_path / "first")
    bundle = convert(tmp_path / "graph.onnx", target="coreml", output=tmp_path / "again", calibration=feeds(SHAPE))
    verification = bundle.report["verification"]
    (rounding,), (graph,) = verification["graph_against_float"], verification["against_graph"]
    assert 30 < rounding["sqnr_db"] < 60
    assert 30 < graph["sqnr_db"] < 60


def test_static_activations_without_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--calibration DATA"):
        convert(residual(), target="tflite", activations="8", output=tmp_path / "b")


@pytest.mark.parametrize("target", ["tflite", "coreml"])  # onnxruntime has kernels for both ops
def test_all_failing_nodes_are_named_and_nothing_is_left(target: str, tmp_path: Path) -> None:
    model = network("""
        g (float[1,3,9,7] x) => (float[1,3,9,7] y) {
            a = Bernoulli <seed = 1.0> (x)
            b = RandomNormalLike (x)
            y = Add (a, b)
        }""")
    with pytest.raises(UnsupportedModel) as error:
        convert(model, target=target, bits=32, output=tmp_path / "b")
    assert [problem.op for problem in error.value.problems] == ["Bernoulli", "RandomNormalLike"]
    assert not list(tmp_path.iterdir())


def test_an_existing_bundle_is_replaced_only_by_force(tmp_path: Path) -> None:
    first = convert(residual(), target="onnxruntime", output=tmp_path / "b", bits=32)
    with pytest.raises(BundleError, match="--force"):
        convert(residual(), target="onnxruntime", output=tmp_path / "b", bits=8)
    second = convert(residual(), target="onnxruntime", output=tmp_path / "b", bits=8, force=True)
    assert first.manifest.files != second.manifest.files
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_a_backend_that_computes_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = backend_named("onnxruntime")
    planted = network("g (float[1,3,9,7] x) => (float[1,2,9,7] y) { y = Conv (x, w) }", w=normal(2, 3, 1, 1) * 1.01)

    wrong = replace(real, emit=lambda model, folder, options: real.emit(planted, folder, options))
    monkeypatch.setattr("edgeq.conversion.pipeline.backend_named", lambda target: wrong)
    right = network("g (float[1,3,9,7] x) => (float[1,2,9,7] y) { y = Conv (x, w) }", w=normal(2, 3, 1, 1))
    with pytest.raises(VerificationError, match=r"output 'y': 40\.0 dB"):
        convert(right, target="onnxruntime", bits=32, output=tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_report_says_what_stayed_float(tmp_path: Path) -> None:
    bundle = convert(residual(), target="tflite", calibration=feeds(SHAPE), output=tmp_path / "b")
    report = json.loads((bundle.path / "report.json").read_text())
    kept = {row["op"]: row["reason"] for row in report["quantization"]["kept_float"]}
    assert "the model's answer" in kept["Softmax"]
