"""How far a device may be off: nothing where engines agree bit for bit, never so far that a broken kernel passes."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli.badinput import network, samples

from edgeq import convert
from edgeq.conversion.pipeline import Options, convert_all
from edgeq_converters.onnxruntime.arithmetic import saturates_here
from edgeq_runtime.selftest import Tolerance, read_selftest


def tolerance(folder: Path, target: str, model: onnx.ModelProto, **options: Any) -> tuple[Tolerance, float]:
    """Of the output `scores`, and its largest value."""
    bundle = convert(model, target=target, output=folder / "x.edgeq", force=True, **options).path
    cases, found = read_selftest(bundle / "selftest.npz")
    return found, max(float(np.abs(case.outputs["scores"]).max()) for case in cases)


def calibration(tmp_path: Path) -> str:
    np.savez(tmp_path / "data.npz", image=samples(6))
    return str(tmp_path / "data.npz")


def with_softmax() -> onnx.ModelProto:
    model = network()
    model.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["probabilities"]))
    model.graph.output[0].name = "probabilities"
    return model


@pytest.mark.skipif(saturates_here(), reason="this processor's integer kernels saturate")
def test_integers_are_exact_on_onnxruntime(tmp_path: Path) -> None:
    """In a plan that TFLite shares, the scores leave as integers."""
    options = Options(calibration=calibration(tmp_path))
    bundle = convert_all(network(), ["onnxruntime", "tflite"], options, tmp_path)[0].path
    _, found = read_selftest(bundle / "selftest.npz")
    assert found.error == {}
    assert "the same bits on every processor" in found.source


@pytest.mark.skipif(saturates_here(), reason="this processor's integer kernels saturate")
def test_floats_behind_the_integers_have_float_tolerance(tmp_path: Path) -> None:
    bundle = convert(with_softmax(), target="onnxruntime", output=tmp_path / "x.edgeq",
                     calibration=calibration(tmp_path)).path
    found = read_selftest(bundle / "selftest.npz")[1]
    assert 0 < found.error["probabilities"] <= 1e-4


def test_tflite_may_be_a_step_off_and_little_more(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    found, largest = tolerance(tmp_path, "tflite", network(), calibration=calibration(tmp_path))
    assert largest / 255 < found.error["scores"] < largest / 10
    assert "one step of the output" in found.source


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_floats_differ_by_a_ten_thousandth(tmp_path: Path, bits: int) -> None:
    found, largest = tolerance(tmp_path, "onnxruntime", network(), bits=bits)
    assert found.error["scores"] == pytest.approx(1e-4 * largest, rel=0.5)


def test_a_float_fallback_takes_the_exactness_away(tmp_path: Path) -> None:
    """Sin has no integer kernel: a processor that computes it a bit otherwise may round it to another step."""
    model = network(nodes=[onnx.helper.make_node("Sin", ["relu"], ["features"], "wave")])
    found, _ = tolerance(tmp_path, "onnxruntime", model, calibration=calibration(tmp_path))
    assert found.error["scores"] >= found.noise["scores"] > 0


@pytest.mark.parametrize(("flags", "saturates"), [
    ("sse4_1 avx avx2 fma", True), ("avx2 avx512_vnni", False), ("avx2 avx_vnni", False), ("sse4_1", False)])
def test_processors_whose_integers_saturate(tmp_path: Path, flags: str, saturates: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: spectre\n")
    assert saturates_here(tmp_path / "cpuinfo") == saturates
    assert not saturates_here(tmp_path / "nothing")
