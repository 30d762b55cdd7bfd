"""`--layout nhwc` on three engines: the same numbers, channels last, and everything beside them agrees."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from PIL import Image
from small_graphs import feeds, network, normal
from zoo_models import needs_zoo, zoo

import edgeq_runtime
from edgeq import convert
from edgeq.bundle.folder import Bundle
from edgeq.cli import main
from edgeq.inference.reference import Arrays, run_onnx
from edgeq.passes.images import arrays_channels_last
from edgeq_runtime.preprocess import Preprocess

TARGETS = ("onnxruntime", "tflite", "coreml")
SHAPE = (1, 3, 9, 7)
TURNED = ("x", "picture")
STEPS = {"resize": [9, 7], "scale": 1 / 255, "mean": [0.4, 0.5, 0.6]}


def model() -> ir.Model:
    """x [1,3,9,7] -> picture [1,4,9,7], scores [1,5]."""
    return network("""g (float[1,3,9,7] x) => (float[1,4,9,7] picture, float[1,5] scores) {
        a = Conv <pads = [1,1,1,1]> (x, w) r = Relu (a) b = Conv <pads = [1,1,1,1]> (r, v) picture = Sigmoid (b)
        p = GlobalAveragePool (r) f = Flatten (p) scores = Gemm (f, g) }""",
                   w=normal(4, 3, 3, 3, seed=1), v=normal(4, 4, 3, 3, seed=2), g=normal(4, 5, seed=3))


def outputs(bundle: Path, feed: Arrays) -> dict[str, np.ndarray]:
    with edgeq_runtime.load(bundle) as loaded:
        return loaded.run(dict(feed))


def transposes(bundle: Bundle) -> int:
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromPackedBuf((bundle.path / "model.tflite").read_bytes(), 0)
    kernels = [graph.operatorCodes[op.opcodeIndex].builtinCode for op in graph.subgraphs[0].operators]
    return kernels.count(schema.BuiltinOperator.TRANSPOSE)


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("target", TARGETS)
def test_the_same_numbers_in_another_order(target: str, bits: int, tmp_path: Path) -> None:
    samples = feeds(SHAPE) if bits == 8 else None
    kept, turned = (convert(model(), target=target, bits=bits, layout=layout, calibration=samples,
                            output=tmp_path / layout) for layout in ("keep", "nhwc"))
    specs = {spec.name: (spec.shape, spec.layout, spec.source_layout)
             for spec in (*turned.manifest.inputs, *turned.manifest.outputs)}
    assert specs == {"x": ((1, 9, 7, 3), "NHWC", "NCHW"), "picture": ((1, 9, 7, 4), "NHWC", "NCHW"),
                     "scores": ((1, 5), "", "")}
    assert {spec.layout + spec.source_layout for spec in kept.manifest.inputs} == {"NCHW"}
    (feed,) = feeds(SHAPE, count=1)
    expected = arrays_channels_last(outputs(kept.path, feed), TURNED)
    found = outputs(turned.path, arrays_channels_last(feed, TURNED))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)
    assert edgeq_runtime.load(turned.path).self_test().ok
    if target == "tflite":
        assert (transposes(kept), transposes(turned)) == (2, 0)


@pytest.mark.parametrize("target", TARGETS)
def test_samples_and_images_stay_as_the_source_takes_them(target: str, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrated from images, verified against the float model on them, run on one: by the command line alone."""
    monkeypatch.chdir(tmp_path)
    ir.save(model(), "net.onnx")
    Path("steps.json").write_text(json.dumps(STEPS))
    Path("images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 11, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(f"images/{number}.png")

    def edgeq(*arguments: str) -> Any:
        result = CliRunner().invoke(main, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    (made,) = edgeq("convert", "net.onnx", "--target", target, "--calibration", "images", "--preprocess", "steps.json",
                    "--layout", "nhwc", "--metric", "sqnr", "-o", "b")
    assert made["evaluation"]["score"] > 25
    found = edgeq("verify", "b", "--reference", "net.onnx", "--data", "images")
    assert found["samples"] == 3
    assert min(row["sqnr_db"] for row in found["against_float"]) > 25
    assert edgeq("verify", "b", "--reference", "net.onnx", "--layers")["first_broken"] is None
    edgeq("run", "b", "--input", "images/1.png", "-o", "out.npz")
    steps = Preprocess.from_dict({key: tuple(v) if isinstance(v, list) else v for key, v in STEPS.items()})
    (expected,) = run_onnx(model(), [{"x": steps(pixels[1])}])
    with np.load("out.npz") as saved:
        assert np.abs(saved["picture"] - expected["picture"].transpose(0, 2, 3, 1)).max() < 0.05


def test_a_model_without_images_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ir.save(network("g (float[1,6] x) => (float[1,4] y) { y = MatMul (x, w) }", w=normal(6, 4)), "net.onnx")
    result = CliRunner().invoke(main, ["convert", "net.onnx", "--target", "tflite", "--layout", "nhwc"])
    assert result.exit_code == 2
    assert "'x' no image that is known, 'y' no image" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@needs_zoo
@pytest.mark.parametrize("target", TARGETS)
def test_a_trained_network_channels_last(target: str, tmp_path: Path) -> None:
    """The same integers inside, so the same scores on photographs."""
    name = "cifar10_resnet20"
    samples = list(zoo().feeds(name, limit=8))
    kept, turned = (convert(zoo().model(name), target=target, layout=layout, calibration=samples, verify=False,
                            output=tmp_path / layout) for layout in ("keep", "nhwc"))
    (spec,) = turned.manifest.inputs
    assert (spec.shape, spec.layout) == ((1, 32, 32, 3), "NHWC")
    for feed in samples[:2]:
        expected = outputs(kept.path, feed)
        for output, array in outputs(turned.path, arrays_channels_last(feed, [spec.name])).items():
            np.testing.assert_allclose(array, expected[output], rtol=1e-5, atol=1e-6)
