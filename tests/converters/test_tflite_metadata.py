"""The metadata of a .tflite file, as MediaPipe reads them."""
from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converters.tflite_files import parsed
from numpy.typing import NDArray
from small_graphs import residual

import edgeq
import edgeq_runtime
from edgeq_runtime.preprocess import from_dict

ALIKE = {"kind": "image", "resize": [9, 7], "scale": 1 / 255, "mean": [0.4], "std": [0.5]}
APART = {**ALIKE, "mean": [0.2, 0.5, 0.8], "std": [0.1, 0.4, 0.9]}
LABELS = ["ant", "bee", "cat", "dog", "eel"]
CLASSIFY = """
import json, sys
import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision

for model in sys.argv[2:]:
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model))
    with vision.ImageClassifier.create_from_options(options) as classifier:
        found = classifier.classify(mp.Image.create_from_file(sys.argv[1])).classifications[0].categories
        print("FOUND", json.dumps({one.category_name: one.score for one in found}))
"""


def photo() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (9, 7, 3)).astype(np.uint8)


def convert(folder: Path, before: dict[str, Any], io: str) -> edgeq.Bundle:
    samples = np.concatenate([from_dict(before)(photo()) for _ in range(4)])
    return edgeq.convert(residual(), target="tflite", calibration=samples, preprocess=before, layout="nhwc", io=io,
                         labels=LABELS, postprocess={"kind": "classify", "top": 5}, method="nearest",
                         calibrator="minmax", about={"author": "Ann"}, output=folder / f"{len(before['mean'])}-{io}")


def test_labels_and_metadata_lie_in_the_file(tmp_path: Path) -> None:
    path = convert(tmp_path, ALIKE, "float").path / "model.tflite"
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split("\n") == LABELS
    model = parsed(path.read_bytes())
    content = bytes(model.buffers[model.metadata[0].buffer].data)
    assert model.metadata[0].name == b"TFLITE_METADATA"
    assert content[4:8] == b"M001"
    assert np.array([0.4 * 255], np.float32).tobytes() in content
    assert np.array([0.5 * 255], np.float32).tobytes() in content


def test_an_order_that_metadata_have_not_is_no_image(tmp_path: Path) -> None:
    path = convert(tmp_path, {**ALIKE, "order": "BGR"}, "float").path / "model.tflite"
    model = parsed(path.read_bytes())
    content = bytes(model.buffers[model.metadata[0].buffer].data)
    assert b"in the order BGR" in content
    assert np.array([0.4 * 255], np.float32).tobytes() not in content


def test_without_anything_to_say_there_is_no_metadata(tmp_path: Path) -> None:
    path = edgeq.convert(residual(), target="tflite", bits=32, output=tmp_path / "b").path / "model.tflite"
    assert not parsed(path.read_bytes()).metadata
    assert not zipfile.is_zipfile(path)


@pytest.mark.full
def test_mediapipe_answers_as_our_runtime_does(tmp_path: Path) -> None:
    """In an environment of its own; different means per channel are for --io uint8, MediaPipe itself has none."""
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the photo")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "mediapipe==1.2.3"], check=True)
    image.fromarray(photo()).save(tmp_path / "photo.png")
    bundles = [convert(tmp_path, before, io) for before, io in ((ALIKE, "float"), (ALIKE, "uint8"), (APART, "uint8"))]
    files = [str(bundle.path / "model.tflite") for bundle in bundles]
    ran = subprocess.run([python, "-c", CLASSIFY, tmp_path / "photo.png", *files], capture_output=True, text=True,
                         check=False)
    found = [json.loads(line.removeprefix("FOUND")) for line in ran.stdout.splitlines() if line.startswith("FOUND")]
    assert len(found) == len(bundles), ran.stderr[-2000:]
    for bundle, scores in zip(bundles, found, strict=True):
        with edgeq_runtime.load(bundle.path) as model:
            expected = {one.label: one.score for one in model.predict(photo())}
        assert scores == pytest.approx(expected, abs=1e-6)
