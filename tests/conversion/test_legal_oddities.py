"""Models that nobody would write and that are models all the same: converted, verified, or refused in our own words."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from small_graphs import normal

from edgeq import convert
from edgeq.errors import CalibrationError, UnsupportedModel
from edgeq_runtime import load

WEIGHTS = normal(6, 3)


def model(graph: str, weights: np.ndarray = WEIGHTS) -> ModelProto:  # type: ignore[type-arg]
    parsed = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {graph}')
    parsed.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return parsed


def named(prefix: str) -> ModelProto:
    """x, h, y and w with something in front that other programs take for a command."""
    found = model("g (float[2,6] x) => (float[2,3] y) { h = MatMul (x, w) y = Relu (h) }")
    for node in found.graph.node:
        node.name = f"{prefix}{node.op_type}"
        for names in (node.input, node.output):
            names[:] = [f"{prefix}{name}" for name in names]
    for value in (*found.graph.input, *found.graph.output, *found.graph.initializer):
        value.name = f"{prefix}{value.name}"
    return found


def sparse() -> ModelProto:
    found = model("g (float[2,6] x) => (float[2,3] y) { h = MatMul (x, w) y = Relu (h) }")
    del found.graph.initializer[:]
    values, indices = numpy_helper.from_array(normal(3), "w"), numpy_helper.from_array(np.array([0, 7, 17]))
    found.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [6, 3]))
    return found


def infinite() -> ModelProto:
    """One weight is infinite, and so are the outputs where its input is positive."""
    weights = np.abs(WEIGHTS)
    weights[1, 2] = np.inf
    return model("g (float[2,6] x) => (float[2,3] y) { h = MatMul (x, w) y = Sigmoid (h) }", weights)


ODD = {
    "mathematics": named("$\\frac{"), "half a formula": named("$"), "backslash": named("a\\b"),
    "escape": named("\x1b[31m"), "no sign of the font": named("名前"),
    "an input is an output": model("g (float[2,6] x) => (float[2,3] y, float[2,6] x) { y = MatMul (x, w) }"),
    "a constant is an output": model("g (float[2,6] x) => (float[2,3] y, float[6,3] w) { y = MatMul (x, w) }"),
    "sparse": sparse(), "infinite": infinite(),
    "an infinite output": model("g (float[2,6] x) => (float[2,3] y) { h = MatMul (x, w) r = Relu (h) y = Log (r) }"),
}


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_converted_and_verified(name: str, calibrated: bool, tmp_path: Path) -> None:
    network = ODD[name]
    sample = {network.graph.input[0].name: np.abs(normal(2, 6, seed=3))}
    samples = [sample] * 4 if calibrated else None
    bundle = convert(network, target="onnxruntime", output=tmp_path / "b", calibration=samples)
    assert bundle.report["verification"] is not None
    assert (bundle.path / "report.html").is_file()


def test_infinities_that_quantization_moves_are_named(tmp_path: Path) -> None:
    samples = [{"x": normal(2, 6, seed=seed)} for seed in range(6)]
    bundle = convert(ODD["an infinite output"], target="tflite", output=tmp_path / "b", calibration=samples)
    assert any("output 'y' is NaN or infinite in the float model" in said
               for said in bundle.report["verification"]["warnings"])


def test_without_inputs(tmp_path: Path) -> None:
    network = model("g () => (float[6,3] y) { y = Relu (w) }")
    bundle = convert(network, target="tflite", output=tmp_path / "b")
    with load(bundle.path) as loaded:
        np.testing.assert_allclose(loaded.run({})["y"], np.maximum(WEIGHTS, 0), rtol=1e-6)
    with pytest.raises(CalibrationError, match="no inputs, so that samples say nothing of it"):
        convert(network, target="tflite", output=tmp_path / "c", calibration=[{}])


def test_an_input_that_is_an_output_elsewhere(tmp_path: Path) -> None:
    network = ODD["an input is an output"]
    bundle = convert(network, target="tflite", output=tmp_path / "b")
    sample = normal(2, 6)
    with load(bundle.path) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": sample})["x"], sample)
    with pytest.raises(UnsupportedModel, match="output 'x': it is an input too, and Core ML has one value for a name"):
        convert(network, target="coreml", output=tmp_path / "c")
