"""Boxes from a JSON file as COCO's: the score of a detector, known by hand, and what is refused."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import edgeq
from edgeq.cli import main
from edgeq.errors import EdgeqError
from edgeq.quant.feeds import InputSpec
from edgeq.verification.evaluate import labelled_data
from edgeq_runtime.postprocess import Classify, Detect
from edgeq_runtime.preprocess import Preprocess

LABELS = ("blue", "red", "green")
CATEGORIES = {"red": 7, "green": 3, "blue": 90}
BEFORE, AFTER = Preprocess(letterbox=(16, 16), pad=0, scale=1 / 255), Detect("y")
SPECS = {"image": InputSpec("float32", (1, 3, 16, 16))}
# The network finds one box, always, 4 4 12 12 of its 16 x 16 pixels, with the brightness of each colour as scores.
# height, width, colour, brightness, the box in pixels of the image: behind a letterbox about that box, or one elsewhere
IMAGES = (("a", 32, 16, "red", 200, (0, 9, 16, 16)), ("b", 16, 16, "green", 200, (0, 0, 4, 4)),
          ("c", 16, 16, "blue", 250, (0, 0, 4, 4)), ("d", 16, 32, "blue", 250, (9, 0, 16, 16)),
          ("e", 16, 16, "red", 0, None))
# red: found. green: missed. blue: the first is missed with the better score, so that half of what is found is right,
# and that is half of what is there.
SCORE = (100 + 0 + 25) / 3


def held(root: Path) -> dict[str, Any]:
    """Writes the images -> what the JSON file holds."""
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the images")
    images, annotations = [], []
    for number, (name, height, width, colour, brightness, box) in enumerate(IMAGES, 40):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., ("red", "green", "blue").index(colour)] = brightness
        image.fromarray(pixels).save(root / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "height": height, "width": width})
        if box is not None:
            annotations.append({"image_id": number, "category_id": CATEGORIES[colour], "bbox": list(box), "iscrowd": 0})
    crowd = {"image_id": 40, "category_id": 7, "bbox": [0, 0, 2, 2], "iscrowd": 1, "segmentation": {}}
    return {"images": images, "annotations": [*annotations, crowd],
            "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()]}


def save_net(path: Path) -> None:
    net = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> net (float[1,3,16,16] image) => '
                                  "(float[1,1,7] y) { p = GlobalAveragePool (image) f = Flatten (p) "
                                  "g = Gemm (f, w, b) y = Reshape (g, s) }")
    weights = np.zeros((3, 7), np.float32)
    weights[[2, 0, 1], [4, 5, 6]] = 1
    net.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in {
        "w": weights, "b": np.array([4, 4, 12, 12, 0, 0, 0], np.float32), "s": np.array([1, 1, 7])}.items())
    onnx.save(net, path)


def test_the_score_of_a_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_net(tmp_path / "net.onnx")
    for name, data in {"boxes": held(tmp_path), "before": BEFORE.to_dict(), "after": AFTER.to_dict()}.items():
        Path(f"{name}.json").write_text(json.dumps(data))
    Path("labels.txt").write_text("\n".join(LABELS))
    done = CliRunner().invoke(main, ["convert", "net.onnx", "--target", "onnxruntime", "--bits", "32", "--preprocess",
                                     "before.json", "--postprocess", "after.json", "--labels", "labels.txt", "--eval",
                                     "boxes.json", "--metric", "map50", "-o", "net.edgeq", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["evaluation"]["score"] == pytest.approx(SCORE)
    found = edgeq.evaluate("net.edgeq", data="boxes.json", metric="map50", reference="net.onnx")
    assert found.score == found.float_score == pytest.approx(SCORE)


def fixed(feed: Any) -> dict[str, Any]:
    return {"y": np.array([[[4, 4, 12, 12, *feed["image"].mean((0, 2, 3))[[2, 0, 1]]]]])}


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], str]:
    def write(root: Path) -> str:
        data = held(root)
        change(data)
        return json.dumps(data)
    return write


@pytest.mark.parametrize(("text", "labels", "after", "message"), [
    (edited(lambda data: None), (), AFTER, "which score is of which category, --labels says"),
    (edited(lambda data: None), ("red", "green", "grey"), AFTER, r"no label 'blue' among the 3 of --labels"),
    (edited(lambda data: None), LABELS, Classify(), "boxes need --preprocess of an image and --postprocess"),
    (edited(lambda data: data["images"][1].update(file_name="z.png")), LABELS, AFTER,
     r"no image '.*z\.png'; file_name is relative"),
    (edited(lambda data: data["images"][0].update(height=31)), LABELS, AFTER,
     r"a\.png' has the height and width \(32, 16\), and \(31, 16\) is said of it"),
    (edited(lambda data: data.pop("categories")), LABELS, AFTER, "is not as COCO's are: 'categories' is missing"),
    (edited(lambda data: data["annotations"][0].update(image_id=9)), LABELS, AFTER, "COCO's are: 9 is missing in it"),
    (edited(lambda data: data["annotations"][0].update(bbox=[1, 2])), LABELS, AFTER, "cannot be read as COCO's"),
    (lambda root: "[", LABELS, AFTER, "cannot be read as COCO's"),
    (lambda root: "[]", LABELS, AFTER, "cannot be read as COCO's"),
    (edited(lambda data: data["images"].clear() or data["annotations"].clear()), LABELS, AFTER, "holds no .*image"),
])
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: Callable[[Path], str], labels: tuple[str, ...],
                                           after: Any, message: str) -> None:
    (tmp_path / "boxes.json").write_text(text(tmp_path))
    with pytest.raises(EdgeqError, match=message) as error:
        labelled_data(tmp_path / "boxes.json", "map50", labels=labels, postprocess=after).open(
            SPECS, preprocess=BEFORE).score(fixed)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"the evaluation file '{tmp_path / 'boxes.json'}'")
