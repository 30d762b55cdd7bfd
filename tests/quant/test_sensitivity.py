"""The damage of a layer, against the same computed by hand, and with a planted bad layer."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from small_graphs import feeds, network, normal, residual

from edgeq.backend import target_named
from edgeq.cli import main
from edgeq.conversion.analyze import analyze_layers
from edgeq.conversion.options import Options
from edgeq.errors import UsageError
from edgeq.inference.reference import run_onnx
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.plan import make_plan
from edgeq.quant.quantize import quantize
from edgeq.quant.rounding import nearest
from edgeq.quant.sensitivity import Damage, sensitivity
from edgeq.quant.weights import quantize_weight, weight_params
from edgeq.scheme import PRESETS, dequantize
from edgeq.verification.compare import compare

SHAPE = (1, 3, 9, 7)


def damages(model: ir.Model, scheme: str, spoiled: str = "", shape: tuple[int, ...] = SHAPE) -> dict[str, Damage]:
    """By value, the worst first. spoiled: start of the name of a scale that is made 4 times as large."""
    samples = feeds(shape)
    plan = make_plan(model, [target_named("onnxruntime")], PRESETS[scheme])
    statistics = calibrate(model, plan.sources, samples) if plan.sources else {}
    graph = quantize(model, plan, statistics, CALIBRATORS["mse"], nearest)
    for name, value in graph.graph.initializers.items():
        if spoiled and name.startswith(spoiled) and name.endswith("scale"):
            value.const_value = ir.tensor(value.const_value.numpy() * np.float32(4), name=name)
    return {damage.value: damage for damage in sensitivity(model, graph, plan, samples)}


@pytest.mark.parametrize(("weight", "value"), [("w1", "a"), ("w2", "c"), ("w3", "z")])
@pytest.mark.parametrize("scheme", ["w8", "w4"])
def test_the_damage_of_weights_is_that_of_a_run_with_only_these_rounded(scheme: str, weight: str, value: str) -> None:
    model = residual()
    held = model.graph.initializers[weight]
    data = held.const_value.numpy()
    plan = make_plan(model, [target_named("onnxruntime")], PRESETS[scheme])
    kind = next(found.type for found in plan.weights if found.value == weight)
    params = weight_params(data, kind)
    rounded = dequantize(quantize_weight(data, params, nearest), params)
    held.const_value = ir.tensor(rounded, name=weight)
    (by_hand,) = compare(list(run_onnx(residual(), feeds(SHAPE))), list(run_onnx(model, feeds(SHAPE))))
    assert damages(residual(), scheme)[value].sqnr_db == pytest.approx(by_hand.sqnr_db, abs=0.05)


def test_a_rounded_activation_is_part_of_its_layer() -> None:
    """One layer alone is the whole quantized graph."""
    model = network("g (float[2,6] x) => (float[2,5] y) { y = Gemm (x, w, b) }", w=normal(6, 5), b=normal(5, seed=1))
    samples = feeds((2, 6))
    plan = make_plan(model, [target_named("onnxruntime")], PRESETS["w8a8"])
    graph = quantize(model, plan, calibrate(model, plan.sources, samples), CALIBRATORS["mse"], nearest)
    (whole,) = compare(list(run_onnx(model, samples)), list(run_onnx(graph, samples)))
    assert damages(model, "w8a8", shape=(2, 6))["y"].sqnr_db == pytest.approx(whole.sqnr_db, abs=0.01)
    assert whole.sqnr_db < 60


@pytest.mark.parametrize(("spoiled", "value"), [("w1", "r"), ("w2", "c"), ("w3", "z")])
def test_a_planted_bad_layer_is_the_worst(spoiled: str, value: str) -> None:
    found = damages(residual(), "w8a8", spoiled)
    assert next(iter(found)) == value
    good = damages(residual(), "w8a8")
    assert good[value].sqnr_db > found[value].sqnr_db + 15
    for name in good.keys() - {value}:  # the others are measured without it
        assert found[name].sqnr_db == pytest.approx(good[name].sqnr_db, abs=1e-3)


def test_the_command_ranks_and_shows(tmp_path: Path) -> None:
    ir.save(residual(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in feeds(SHAPE)]))
    words = ["analyze", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "data.npz"), "--bits", "4"]
    found = json.loads(CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False).output)
    decibel = [line["sqnr_db"] for line in found["layers"]]
    assert decibel == sorted(decibel)
    assert found["samples"] == 4
    shown = CliRunner().invoke(main, [*words, "--top", "1"], catch_exceptions=False).output
    assert found["layers"][0]["node"] in shown
    assert "that hurt less" in shown


def test_without_samples_nothing_is_measured() -> None:
    with pytest.raises(UsageError, match="--calibration"):
        analyze_layers(residual(), ["tflite"], Options())
