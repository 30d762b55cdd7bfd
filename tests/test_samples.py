"""The sample programs that a user copies, on small bundles made here. Cameras, GPUs and phones are not tested."""
from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeq import convert
from edgeq_runtime.postprocess import Classify, Detect
from edgeq_runtime.preprocess import Preprocess
from edgeq_runtime.sound import LogMel

SAMPLES = Path(__file__).parents[1] / "samples"
COLOURS = ("red", "green", "blue")
IMAGE = Preprocess(resize=(8, 12), scale=1 / 255)
Image = pytest.importorskip("PIL.Image", reason="Pillow reads the pictures")


def model(text: str, **weights: Any) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> net {text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(data, np.float32), name)
                                  for name, data in weights.items())
    return made


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says which colour a picture has most of."""
    net = model("(float[1,3,8,12] image) => (float[1,3] y) { p = Conv (image, w) m = GlobalAveragePool (p) "
                "y = Flatten (m) }", w=8 * np.eye(3).reshape(3, 3, 1, 1))
    return convert(net, target="onnxruntime", bits=8, preprocess=IMAGE, postprocess=Classify(softmax=True, top=2),
                   labels=COLOURS, output=tmp_path_factory.mktemp("bundles") / "net.edgeq").path


@pytest.fixture
def green(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), (10, 200, 30)).save(tmp_path / "green.png")
    return tmp_path / "green.png"


def run(script: str, *arguments: Any) -> str:
    done = subprocess.run([sys.executable, SAMPLES / script, *map(str, arguments)], text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def function(file: str, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(name, SAMPLES / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, name)
    return found


def test_raspberry_pi_names_a_picture(colours: Path, green: Path) -> None:
    first, second = run("raspberry_pi/classify.py", colours, green).strip().split("  ")
    assert first.startswith("green 0.9")
    assert float(second.split()[1]) < .05


def test_jetson_finds_boxes(tmp_path: Path) -> None:
    """The network gives the same two boxes for every picture, the second with a better one over it."""
    net = model("(float[1,3,8,12] image) => (float[1,3,6] y) { m = ReduceMean (image) z = Mul (m, zero) "
                "r = Reshape (z, shape) y = Add (r, boxes) }",
                zero=0.0, boxes=[[[0, 0, 6, 4, .9, .1], [1, 0, 7, 4, .8, .1], [6, 4, 12, 8, .1, .7]]])
    net.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 1]), "shape"))
    bundle = convert(net, target="tensorrt", bits=32, preprocess=IMAGE, postprocess=Detect("y", min_score=.3),
                     labels=("cat", "dog"), output=tmp_path / "b").path
    Image.new("RGB", (120, 80)).save(tmp_path / "a.png")
    lines = run("jetson/detect.py", bundle, tmp_path / "a.png").splitlines()
    assert lines[0].startswith("onnxruntime ")
    assert lines[0].endswith("on CPUExecutionProvider")
    assert lines[1].startswith("a.png: ")
    assert lines[2:] == ["  0.90 cat at 0,0 to 60,40", "  0.70 dog at 60,40 to 120,80"]


def test_voice_hears_from_when_to_when(tmp_path: Path) -> None:
    """The network calls it speech when the middle mels are loud; the recording is a tone from 1 to 2 seconds."""
    window = LogMel(8000, samples=1600, window=200, hop=100, fft=256, mels=3, layout="NTM")
    net = model("(float[1,17,3] mels) => (float[1,2] y) { a = Constant <value_ints = [1]> () "
                "m = ReduceMean <keepdims = 0> (mels, a) y = Gemm (m, w, b) }",
                w=[[0, 0], [-.5, .5], [0, 0]], b=[0, 0])
    bundle = convert(net, target="onnxruntime", bits=32, preprocess=window, postprocess=Classify(softmax=True),
                     labels=("silence", "speech"), output=tmp_path / "b").path
    time = np.arange(3 * 8000) / 8000
    data = np.where((time > 1) & (time < 2), 1e4 * np.sin(2 * np.pi * 900 * time), 0).astype("<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(data.tobytes())
    line, = run("voice/detect.py", bundle, tmp_path / "a.wav").splitlines()
    first, last = (float(word) for word in line.split() if word[0].isdigit())
    assert line.endswith("speech")
    assert first == pytest.approx(1, abs=.21)
    assert last == pytest.approx(2, abs=.21)


def test_the_android_apps_python(colours: Path) -> None:
    classify = function("android/app/src/main/python/classify.py", "classify")
    bitmap = np.zeros((30, 40, 4), np.uint8)
    bitmap[..., 2:] = 255  # R G B A
    assert classify(bitmap.tobytes(), 40, 30, str(colours)).startswith("blue ")


def test_the_ios_apps_python(colours: Path, green: Path) -> None:
    assert function("ios/src/seeing/classify.py", "classify")(green, colours)[0].startswith("green 0.9")


def test_what_cannot_run_here_is_python_at_least() -> None:
    for path in sorted(SAMPLES.rglob("*.py")):
        ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("sample", ["raspberry_pi", "jetson", "android", "ios"])
def test_every_sample_says_what_was_not_run(sample: str) -> None:
    text = " ".join((SAMPLES / sample / "README.md").read_text(encoding="utf-8").split())
    assert "not run by us" in text or "not built by us" in text or "has run it yet" in text
