"""Layer by layer: a planted fault is named first, on every engine."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from small_graphs import feeds, network, normal, residual

from edgeq import convert
from edgeq.cli import main
from edgeq.scheme import QuantParams, QuantType, quantize
from edgeq.verification.layers import Seen, compare_layers, compare_values

SHAPE = (1, 3, 9, 7)
TARGETS = ("onnxruntime", "tflite", "coreml")


def scaled(name: str, factor: float) -> ir.Model:
    model = residual()
    value = model.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
    return model


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("weight", "value"), [("w1", "r"), ("w2", "c"), ("w3", "z")])
def test_a_layer_with_the_wrong_scale_is_the_first_that_breaks(target: str, weight: str, value: str, tmp_path: Path,
                                                               ) -> None:
    bundle = convert(scaled(weight, 4), target=target, output=tmp_path / "b", calibration=feeds(SHAPE), verify=False)
    found = compare_layers(bundle.path, residual(), feeds(SHAPE))
    assert found.first_broken is not None
    assert found.first_broken.value == value
    assert found.worst(1)[0].value == value


@pytest.mark.parametrize("target", TARGETS)
def test_in_a_good_bundle_every_layer_is_found_and_none_breaks(target: str, tmp_path: Path) -> None:
    bundle = convert(residual(), target=target, output=tmp_path / "b", calibration=feeds(SHAPE))
    found = compare_layers(bundle.path, residual(), feeds(SHAPE))
    assert found.first_broken is None
    assert found.unmatched == ()
    assert {"r", "c", "t", "p", "z", "y"} <= {layer.value for layer in found.layers}
    on_grid = [layer for layer in found.layers if layer.range_used is not None]
    assert len(on_grid) >= 4
    assert all(layer.range_used > 0.3 and layer.saturated < 0.1 for layer in on_grid)


def test_a_product_that_the_backend_flattens_is_found(tmp_path: Path) -> None:
    model = network("g (float[1,3,8] x) => (float[1,3,6] y) { m = MatMul (x, w1) a = Add (m, b1) r = Relu (a) "
                    "y = MatMul (r, w2) }", w1=normal(8, 5), b1=normal(5, seed=1), w2=normal(5, 6, seed=2))
    bundle = convert(model, target="onnxruntime", output=tmp_path / "b", calibration=feeds((1, 3, 8)))
    found = compare_layers(bundle.path, model, feeds((1, 3, 8)))
    assert found.unmatched == ()
    assert {layer.value for layer in found.layers} >= {"r", "y"}
    assert all(layer.sqnr_db > 25 for layer in found.layers)


def test_a_scale_in_the_file_that_is_four_times_too_large_is_named(tmp_path: Path) -> None:
    bundle = convert(residual(), target="onnxruntime", output=tmp_path / "b", calibration=feeds(SHAPE))
    file = bundle.path / "model.onnx"
    model = onnx.load(file)
    scale = next(each for each in model.graph.initializer if each.name.startswith("w2") and each.name.endswith("scale"))
    scale.raw_data = (np.frombuffer(scale.raw_data, np.float32) * np.float32(4)).tobytes()
    onnx.save(model, file)
    broken = compare_layers(bundle.path, residual(), feeds(SHAPE)).first_broken
    assert broken is not None
    assert broken.value == "c"


def test_numbers_of_a_layer_are_those_of_numpy() -> None:
    model = network("g (float[1,4] x) => (float[1,4] y) { y = Relu (x) }")
    grid = QuantParams(QuantType(8, signed=False, symmetric=False), np.array(0.01, np.float32),
                       np.array(0, np.int32))
    x = np.array([[-1, 0.1, 1.004, 9]], np.float32)

    class Fake:
        names = ("y",)

        def run(self, feed: object) -> dict[str, Seen]:
            stored = quantize(np.maximum(x, 0), grid)
            return {"y": Seen(stored * np.float32(0.01), stored, grid)}

    (layer,) = compare_values(model, Fake(), [{"x": x}]).layers
    noise, signal = 0.004**2 + (9 - 2.55)**2, 0.1**2 + 1.004**2 + 81
    assert layer.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    assert layer.range_used == 1.0  # from 0 to 255
    assert layer.saturated == 0.25  # 9 alone: the 0 of the ReLU is no saturation


def test_noise_that_no_output_hears_is_no_break() -> None:
    """At 20 dB of the output, a layer at 0 dB is none that breaks; at 0 dB of both it is."""
    model = network("g (float[1,4] x) => (float[1,4] y) { a = Relu (x) y = Add (a, big) }",
                    big=np.full(4, 10, np.float32))
    x = np.ones((1, 4), np.float32)

    class Fake:
        names = ("a", "y")

        def __init__(self, error: float):
            self.error = error

        def run(self, feed: object) -> dict[str, Seen]:
            return {"a": Seen(x + 1), "y": Seen(x + 10 + np.float32(self.error))}

    assert compare_values(model, Fake(1), [{"x": x}]).first_broken is None
    broken = compare_values(model, Fake(11), [{"x": x}]).first_broken
    assert broken is not None
    assert broken.value == "a"


def test_a_value_of_another_name_is_listed_and_not_guessed(tmp_path: Path) -> None:
    bundle = convert(residual(), target="onnxruntime", output=tmp_path / "b", calibration=feeds(SHAPE))
    other = residual()
    next(value for node in other.graph for value in node.outputs if value.name == "c").name = "renamed"
    assert compare_layers(bundle.path, other, feeds(SHAPE)).unmatched == ("renamed",)


def test_equal_sizes_leave_the_layout_of_a_tensor_open(tmp_path: Path) -> None:
    model = network("g (float[1,5,5,5] x) => (float[1,5] y) { c = Conv <pads = [1,1,1,1]> (x, w) "
                    "p = GlobalAveragePool (c) y = Flatten (p) }", w=normal(5, 5, 3, 3))
    bundle = convert(model, target="tflite", output=tmp_path / "b", calibration=feeds((1, 5, 5, 5)))
    assert "c" in compare_layers(bundle.path, model, feeds((1, 5, 5, 5))).unmatched


def test_the_command_prints_the_layers_and_the_first_that_breaks(tmp_path: Path) -> None:
    bundle = convert(scaled("w2", 4), target="onnxruntime", output=tmp_path / "b", calibration=feeds(SHAPE))
    ir.save(residual(), tmp_path / "float.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in feeds(SHAPE)]))
    words = ["verify", str(bundle.path), "--layers", "--reference", str(tmp_path / "float.onnx"), "--data",
             str(tmp_path / "data.npz")]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert "breaks first at: c" in result.output
    found = json.loads(CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False).output)
    assert found["first_broken"] == "c"
    refused = CliRunner().invoke(main, words[:3])
    assert refused.exit_code == 2
    assert "--reference" in refused.output
