"""What Xcode and Swift read of a package, read back by coremltools; and a photo's answers beside onnxruntime's."""
from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal, residual

import edgeq
import edgeq_runtime
from edgeq.errors import UsageError
from edgeq.inference.reference import run_onnx
from edgeq_runtime.preprocess import from_dict

APART = {"kind": "image", "resize": [9, 7], "order": "BGR", "scale": 1 / 255, "mean": [0.2, 0.5, 0.8],
         "std": [0.1, 0.4, 0.9]}
LABELS = ["ant", "crane", "cat", "crane", "eel"]


def photo(height: int = 30, width: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3)).astype(np.uint8)


def spec(bundle: edgeq.Bundle) -> Any:
    import coremltools

    with TemporaryDirectory() as folder:  # reading rewrites the package's list of files
        copy = shutil.copytree(bundle.path / "model.mlpackage", Path(folder) / "model.mlpackage")
        return coremltools.models.MLModel(str(copy), skip_model_load=True).get_spec()


def test_an_image_goes_in_and_a_label_comes_out(tmp_path: Path) -> None:
    model = residual()
    bundle = edgeq.convert(
        model, target="coreml", bits=32, preprocess=APART, postprocess={"kind": "classify"}, labels=LABELS,
        about={"author": "Ann", "licence": "MIT", "description": "Animals"}, version="1.2", output=tmp_path / "b")
    found = spec(bundle).description
    image = found.input[0].type.imageType
    assert (image.height, image.width, image.colorSpace) == (9, 7, image.BGR)
    assert [(feature.name, feature.type.WhichOneof("Type")) for feature in found.output] == [
        ("classLabel", "stringType"), ("classLabel_probs", "dictionaryType"), ("y", "multiArrayType")]
    assert (found.predictedFeatureName, found.predictedProbabilitiesName) == ("classLabel", "classLabel_probs")
    metadata = found.metadata
    assert (metadata.author, metadata.license, metadata.shortDescription, metadata.versionString) == (
        "Ann", "MIT", "Animals", "1.2")
    classify = spec(bundle).mlProgram.functions["main"].block_specializations["CoreML8"].operations[-1]
    names = [value.immediateValue.tensor.strings.values[0] for value in
             classify.inputs["classes"].arguments[0].value.immediateValue.list.values]
    assert (classify.type, names) == ("classify", ["ant", "crane (1)", "cat", "crane (3)", "eel"])
    with edgeq_runtime.load(bundle.path) as opened:
        assert (opened.inputs[0].dtype, opened.steps[0].pixels) == ("uint8", True)
        answers = [one.index for one in opened.predict(photo())]
        got = opened.run({"x": opened.steps[0](photo())})["y"]
    expected = next(iter(run_onnx(model, [{"x": from_dict(APART)(photo())}])))["y"]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert answers == list(np.argsort(-expected[0]))
    assert edgeq.verify(bundle, reference=model).passed


def test_an_image_keeps_its_free_sizes(tmp_path: Path) -> None:
    free = network("""g (float[1,3,H,W] x) => (float[1,4] y) {
        a = Conv <pads = [1,1,1,1]> (x, w)
        p = GlobalAveragePool (a)
        y = Flatten (p)
    }""", w=normal(4, 3, 3, 3))
    bundle = edgeq.convert(free, target="coreml", bits=16, preprocess={"kind": "image", "resize_shorter": 12},
                           inputs={"x": "1x3x9..40x7..30"}, output=tmp_path / "b")
    sizes = spec(bundle).description.input[0].type.imageType.imageSizeRange
    assert [(limits.lowerBound, limits.upperBound) for limits in (sizes.heightRange, sizes.widthRange)] == [
        (9, 40), (7, 30)]
    with edgeq_runtime.load(bundle.path) as model:
        assert model.run({"x": model.steps[0](photo())})["y"].shape == (1, 4)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    five = network("g (float[1,5,9,7] x) => (float[1,5,9,7] y) { y = Relu (x) }")
    with pytest.raises(UsageError, match="takes an image of one or three channels, and the input 'x' is 1x5x9x7"):
        edgeq.convert(five, target="coreml", bits=32, preprocess={"kind": "image"}, output=tmp_path / "b")
    assert not list(tmp_path.iterdir())
