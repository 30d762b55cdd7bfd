"""From a file to labels: the declared steps calibrate, are written into the bundle, and run on the device."""
from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import edgeq_runtime
from edgeq.cli import main
from edgeq_runtime.__main__ import main as device
from edgeq_runtime.preprocess import Preprocess
from edgeq_runtime.sound import LogMel

COLOURS = ("red", "green", "blue")
IMAGE = Preprocess(resize=(8, 12), scale=1 / 255)
SOUND = LogMel(8000, samples=800, window=200, hop=100, fft=256, mels=3, layout="NTM")


def edgeq(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("\n".join(COLOURS))
    return tmp_path


def save(text: str, *weights: tuple[str, Any]) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> net {text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights)
    onnx.save(model, "net.onnx")


def images(*colours: tuple[int, int, int]) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the samples")
    Path("images").mkdir()
    for number, colour in enumerate(colours):
        pixels = np.random.default_rng(number).integers(0, 50, (20, 33, 3)) + np.array(colour)
        image.fromarray(pixels.astype(np.uint8)).save(f"images/{number}.png")


def test_boxes_come_back_in_pixels_of_the_photo(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network finds one box, always: the middle half of a square image in a letterbox of 20 x 40."""
    images((99, 99, 99))
    pytest.importorskip("PIL.Image").open("images/0.png").resize((100, 100)).save("photo.png")
    save("(float[1,3,20,40] image) => (float[1,1,5] y) { p = GlobalAveragePool (image) f = Flatten (p) "
         "g = Gemm (f, w, b) y = Reshape (g, s) }", ("w", np.zeros((3, 5), np.float32)),
         ("b", np.array([10, 5, 30, 15, 1], np.float32)), ("s", np.array([1, 1, 5])))
    Path("before.json").write_text(json.dumps({"letterbox": [20, 40]}))
    Path("after.json").write_text(json.dumps({"kind": "detect", "boxes": "y"}))
    edgeq("convert", "net.onnx", "--target", "onnxruntime", "--bits", "32", "--preprocess", "before.json",
          "--postprocess", "after.json", "-o", "net.edgeq")
    here = json.loads(edgeq("run", "net.edgeq", "--input", "photo.png", "--json").stdout)["found"]
    capsys.readouterr()
    assert device(["net.edgeq", "run", "--input", "photo.png", "--json"]) == 0
    there = json.loads(capsys.readouterr().out)["found"]
    with edgeq_runtime.load("net.edgeq") as model:
        (found,) = model.predict(np.zeros((100, 100, 3), np.uint8))
    for box in (here[0]["box"], there[0]["box"], found.box):
        np.testing.assert_allclose(box, (0, 25, 100, 75), atol=1e-4)


def test_an_image_becomes_labels(folder: Path) -> None:
    """The network says which colour an image has most of."""
    images((200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 90, 0))
    save("(float[1,3,8,12] image) => (float[1,3] y) { p = Conv (image, w) m = GlobalAveragePool (p) "
         "y = Flatten (m) }", ("w", (4 * np.eye(3, dtype=np.float32)).reshape(3, 3, 1, 1)))
    Path("before.json").write_text(json.dumps(IMAGE.to_dict()))
    edgeq("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "images", "--preprocess", "before.json",
          "--postprocess", "classify", "--labels", "labels.txt", "-o", "net.edgeq")
    found = json.loads(edgeq("run", "net.edgeq", "--input", "images/1.png", "--json").stdout)["found"]
    assert found[0]["label"] == "green"
    assert sum(one["score"] for one in found) == pytest.approx(1)
    assert "green" in edgeq("run", "net.edgeq", "--input", "images/1.png").stdout
    only = json.loads(edgeq("run", "net.edgeq", "--input", "images/1.png", "--top", 1, "--json").stdout)
    assert [one["label"] for one in only["found"]] == ["green"]
    with edgeq_runtime.load("net.edgeq") as model:
        pixels = np.zeros((30, 20, 3), np.uint8)
        pixels[..., 2] = 255
        assert model.predict(pixels)[0].label == "blue"
    assert edgeq("inspect", "net.edgeq").stdout.count("processing") == 2


def test_a_sound_becomes_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network says in which third of the mel scale a sound is loudest."""
    Path("sounds").mkdir()
    for number, hertz in enumerate((150, 900, 3000)):
        data = (1e4 * np.sin(2 * np.pi * hertz * np.arange(800) / 8000)).astype("<i2")
        with wave.open(f"sounds/{number}.wav", "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(data.tobytes())
    save("(float[1,9,3] mels) => (float[1,3] y) { a = Constant <value_ints = [1]> () "
         "m = ReduceMean <keepdims = 0> (mels, a) y = Gemm (m, w) }", ("w", np.eye(3, dtype=np.float32)))
    Path("before.json").write_text(json.dumps(SOUND.to_dict()))
    edgeq("convert", "net.onnx", "--target", "tflite", "--calibration", "sounds", "--preprocess", "before.json",
          "--postprocess", "classify", "--labels", "labels.txt", "-o", "net.edgeq")
    for number, label in enumerate(COLOURS):
        assert device(["net.edgeq", "run", "--input", f"sounds/{number}.wav", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["found"][0]["label"] == label
    assert "does not say how the image" in edgeq("run", "net.edgeq", "--input", "x.png", code=1).stderr


@pytest.mark.parametrize(("declared", "message"), [
    ('{"kind": "classify", "output": "z"}', "--postprocess: no output 'z'; the model gives y"),
    ('{"kind": "detect", "boxes": "y", "form": "?"}', "form is one of"),
    ("[]", "it holds no object of fields"), (None, "neither a file nor one of the presets classify"),
])
def test_a_wrong_declaration_is_refused_before_the_work(folder: Path, declared: str | None, message: str) -> None:
    save("(float[1,3] x) => (float[1,3] y) { y = Gemm (x, w) }", ("w", np.eye(3, dtype=np.float32)))
    if declared is not None:
        Path("after.json").write_text(declared)
    assert message in edgeq("convert", "net.onnx", "--target", "onnxruntime", "--postprocess", "after.json",
                            code=2).stderr


TABLES: list[tuple[str, dict[str, Any], int, str]] = [
    ("float[1,56,30]", {"transposed": True}, 1, "has 52 columns behind the box for 1 labels: give one name a line for "
     'each class, or say "classes": 1 where the other columns are none (keypoints'),
    ("float[1,30,9]", {}, 4, "has 5 columns behind the box for 4 labels"),
    ("float[1,30,9]", {"objectness": True}, 5, "has 4 columns behind the box and the objectness for 5 labels"),
    ("float[1,30,9]", {"classes": 6}, 6, "has 5 columns behind the box, where 6 classes are expected"),
    ("float[1,57,30]", {"transposed": True, "classes": 1, "keypoints": 17}, 1,
     "has 57 numbers for each candidate, where 56 are expected: a box, 1 classes, 17 keypoints"),
    ("float[1,30,9]", {"keypoints": 2}, 0, "has 0 columns behind the box"),
    ("float[1,30,7]", {"end_to_end": True}, 2, "has 7 numbers for each candidate, where 6 are expected"),
    ("float[1,30,4]", {}, 0, "has 0 columns behind the box, where scores of classes are expected"),
    ("float[1,6,30]", {}, 2, 'has 26 columns behind the box for 2 labels'),
    ("float[1,6,30]", {}, 2, '; or say "transposed": true, if candidates are the last axis'),
    ("float[1,3,10,9]", {}, 5, "[1,3,10,9] is no table of one image"),
    ("float[2,30,9]", {}, 5, "[2,30,9] is no table of one image"),
    ("float[1,30,9]", {"scores": "z"}, 3, "'y' [1,30,9] has 9 numbers for each candidate, a box has 4"),
    ("float[1,31,4]", {"scores": "z"}, 3, "'y' [1,31,4] has 31 candidates, output 'z' [1,30,3] has 30"),
    ("float[1,30,4]", {"scores": "z"}, 2, "'z' [1,30,3] has 3 columns for 2 labels"),
    ("float[1,30,4]", {"scores": "z", "form": "cxcywh", "anchors": [[1, 2, 3, 4]]}, 3, "30 candidates for 1 anchors"),
    ("float[1,30,56]", {}, 0, "class 4 scores 194.59, and a score is at most 1"),
]


@pytest.mark.parametrize(("shape", "declared", "labels", "message"), TABLES)
def test_a_table_that_is_not_what_the_declaration_says_is_refused_before_the_work(
        folder: Path, shape: str, declared: dict[str, Any], labels: int, message: str) -> None:
    """The outputs are constants: every 9th number, from the 8th on, is 194.59, as a keypoint's may be."""
    size = [int(d) for d in shape[6:-1].split(",")]
    table = np.full(size, 0.5, np.float32)
    table.reshape(-1)[8::len(table.reshape(-1)) if declared else 56] = 194.59
    save(f"(float[1] x) => ({shape} y, float[1,30,3] z) {{ o = Mul (x, zero) y = Add (o, t) z = Add (o, u) }}",
         ("zero", np.zeros(1, np.float32)), ("t", table), ("u", np.full((1, 30, 3), 0.5, np.float32)))
    Path("after.json").write_text(json.dumps({"kind": "detect", "boxes": "y", **declared}))
    Path("labels.txt").write_text("\n".join(map(str, range(labels))))
    words = ["--labels", "labels.txt"] if labels else []
    assert message in edgeq("convert", "net.onnx", "--target", "onnxruntime", "--bits", "32", "--postprocess",
                            "after.json", *words, code=2).stderr


def test_keypoints_behind_the_classes_are_left_alone(folder: Path) -> None:
    """And `edgeq run` says whose pixels a box is in, and shows as many as are asked for."""
    rows = np.array([[[0, 0, 4, 4, .9, .1, 99, 9], [8, 8, 12, 12, .2, .8, 77, 7], [20, 20, 24, 24, .6, .1, 66, 6]]])
    save("(float[1,3,8,12] image) => (float[1,3,8] y) { m = ReduceMean (image) z = Mul (m, zero) "
         "r = Reshape (z, s) y = Add (r, t) }", ("zero", np.zeros(1, np.float32)), ("s", np.array([1, 1, 1])),
         ("t", rows.astype(np.float32)))
    Path("after.json").write_text(json.dumps({"kind": "detect", "boxes": "y", "classes": 2}))
    Path("before.json").write_text(json.dumps(IMAGE.to_dict()))
    Path("labels.txt").write_text("cat\ndog")
    edgeq("convert", "net.onnx", "--target", "onnxruntime", "--bits", "32", "--preprocess", "before.json",
          "--postprocess", "after.json", "--labels", "labels.txt", "-o", "net.edgeq")
    images((1, 2, 3))
    shown = edgeq("run", "net.edgeq", "--input", "images/0.png", "--top", 2).stdout
    assert "box in pixels of the image" in shown
    assert [word for word in shown.split() if word in ("cat", "dog")] == ["cat", "dog"], "the best two of three"
    np.save("x.npy", np.zeros((1, 3, 8, 12), np.float32))
    assert "box in pixels of the model's input" in edgeq("run", "net.edgeq", "--input", "x.npy").stdout


def test_sounds_and_images_are_not_mixed_up(folder: Path) -> None:
    images((1, 2, 3))
    save("(float[1,9,3] x) => (float[1,9,3] y) { y = Relu (x) }")
    Path("before.json").write_text(json.dumps(SOUND.to_dict()))
    failed = edgeq("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "images", "--preprocess",
                   "before.json", code=1)
    assert "'images' holds images; --preprocess describes something else" in failed.stderr
