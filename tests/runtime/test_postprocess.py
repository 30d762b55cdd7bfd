"""Labels and boxes: non-maximum suppression against onnxruntime's, decoding against the formulas one box at a time."""
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from runtime_bundles import MakeBundle

import edgeq_runtime
from edgeq_runtime import BundleError, InputError
from edgeq_runtime.__main__ import main
from edgeq_runtime.postprocess import PRESETS, Classify, Detect, Scored, from_dict, nms, softmax
from edgeq_runtime.predict import _points_of_image
from edgeq_runtime.preprocess import Preprocess

LABELS = ("ant", "bee", "cat", "dog")


def onnxruntime_nms(boxes: Any, scores: Any, iou: float, score: float) -> list[tuple[int, int]]:
    """boxes [N,4] as x0 y0 x1 y1, scores [N,classes] -> (class, box) of what onnxruntime keeps."""
    import onnxruntime

    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "score"], ["kept"])
    graph = helper.make_graph([node], "nms", [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, None, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, None, None])],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])],
        [helper.make_tensor("most", TensorProto.INT64, [], [10_000]),
         helper.make_tensor("iou", TensorProto.FLOAT, [], [iou]),
         helper.make_tensor("score", TensorProto.FLOAT, [], [score])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    kept = session.run(None, {"boxes": boxes[None, :, [1, 0, 3, 2]].astype(np.float32),
                              "scores": scores.T[None].astype(np.float32)})[0]
    return [(int(kind), int(box)) for _, kind, box in kept]


def crowd(count: int, classes: int, seed: int = 3) -> tuple[Any, Any]:
    """Boxes that overlap a lot, and scores without ties; exact in float32."""
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 60, (count, 2)), rng.integers(5, 50, (count, 2))
    boxes = np.hstack([corner, corner + size]).astype(np.float64)
    return boxes, rng.permutation(count * classes).reshape(count, classes) / (count * classes)


@pytest.mark.parametrize("iou", [0.0, .1, .3, .5, .8, 1.0])
@pytest.mark.parametrize("score", [0.0, .4, .999])
def test_suppresses_as_onnxruntime(iou: float, score: float) -> None:
    boxes, scores = crowd(150, 4)
    spec = Detect("boxes", "scores", min_score=score, max_iou=iou, max_detections=10_000)
    found = spec({"boxes": boxes[None], "scores": scores[None]}, LABELS)
    wanted = onnxruntime_nms(boxes, scores, iou, score)
    assert {(one.index, one.box) for one in found} == {(kind, tuple(boxes[k])) for kind, k in wanted}
    assert [one.score for one in found] == sorted((scores[k, kind] for kind, k in wanted), reverse=True)


def test_the_best_box_wins_and_ties_go_to_the_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30], [1, 0, 11, 10.0]])
    assert nms(boxes, np.array([.5, .5, .4, .9]), .5) == [3, 2]
    assert nms(boxes[:2], np.array([.5, .5]), .5) == [0]
    assert nms(np.zeros((0, 4)), np.zeros(0), .5) == []
    assert nms(np.zeros((2, 4)), np.array([.1, .2]), .5) == [1, 0]  # points share no area


def test_agnostic_boxes_compete_across_classes() -> None:
    outputs = {"b": np.array([[0, 0, 10, 10], [1, 0, 11, 10]]), "s": np.array([[.9, .1], [.2, .8]])}
    assert [one.index for one in Detect("b", "s")(outputs)] == [0, 1]
    assert [one.index for one in Detect("b", "s", agnostic=True)(outputs)] == [0]


@pytest.mark.parametrize(("form", "row"), [
    ("xyxy", (2, 4, 10, 24)), ("yxyx", (4, 2, 24, 10)), ("xywh", (2, 4, 8, 20)), ("cxcywh", (6, 14, 8, 20)),
    ("cycxhw", (14, 6, 20, 8))])
def test_every_form_means_the_same_box(form: str, row: tuple[float, ...]) -> None:
    table = np.array([[*row, .1, .9, .2]])
    found, = Detect("out", form=form)({"out": table}, LABELS)
    assert (found.label, found.index, found.score, found.box) == ("bee", 1, .9, (2, 4, 10, 24))
    turned, = Detect("out", form=form, transposed=True)({"out": table.T[None]}, LABELS)
    assert turned == found


def test_coordinates_from_0_to_1_become_pixels() -> None:
    found, = Detect("out", size=(100, 200))({"out": np.array([[.1, .2, .3, .4, .9]])})
    assert found.box == pytest.approx((20, 20, 60, 40))


def test_objectness_sigmoid_and_background() -> None:
    row = np.array([[0, 0, 8, 8, 2.0, -1.0, 3.0]])
    found, = Detect("out", objectness=True, sigmoid=True)({"out": row})
    assert found.index == 1
    assert found.score == pytest.approx(1 / (1 + np.exp(-2)) / (1 + np.exp(-3)))
    found, = Detect("out", background=True, sigmoid=True, min_score=.5)({"out": row}, LABELS)
    assert (found.label, found.index) == ("cat", 2)  # 2.0 is the background's
    assert Detect("out", sigmoid=True)({"out": np.array([[0, 0, 1, 1, -1e9]])}) == []


def test_offsets_from_anchors_are_ssds() -> None:
    """The decoding of Liu et al., SSD, section 2.2 with the factors of its code, one box at a time."""
    rng = np.random.default_rng(1)
    anchors = np.hstack([rng.uniform(.2, .8, (5, 2)), rng.uniform(.1, .4, (5, 2))])
    offsets = rng.normal(size=(5, 4))
    spec = Detect("b", "s", form="cycxhw", anchors=tuple(map(tuple, anchors)), min_score=0.0, max_iou=1.0,
                  size=(300, 320))
    found = spec({"b": offsets[None], "s": np.array([[.9], [.8], [.7], [.6], [.5]])})
    for detection, (cy, cx, h, w), (ty, tx, th, tw) in zip(found, anchors, offsets, strict=True):
        y, x, high, wide = cy + .1 * ty * h, cx + .1 * tx * w, h * np.exp(.2 * th), w * np.exp(.2 * tw)
        wanted = (x - wide / 2) * 320, (y - high / 2) * 300, (x + wide / 2) * 320, (y + high / 2) * 300
        assert detection.box == pytest.approx(wanted)
    with pytest.raises(InputError, match="4 candidates for 5 anchors"):
        spec({"b": offsets[:4], "s": np.ones((4, 1))})


def test_classifies() -> None:
    outputs = {"first": np.array([[1, 3, 3, 0]], np.float32), "other": np.array([4, 0])}
    assert Classify(top=3)(outputs, LABELS) == [Scored("bee", 1, 3), Scored("cat", 2, 3), Scored("ant", 0, 1)]
    assert Classify(output="other", min_score=1.0)(outputs) == [Scored("0", 0, 4)]
    best = Classify(softmax=True)(outputs, LABELS)[0]
    assert best.score == pytest.approx(np.exp(3) / (np.exp(1) + 2 * np.exp(3) + 1))


def test_keypoints_follow_their_box_into_the_image() -> None:
    """A pose in a letterbox of 40 x 20, as yolov8-pose has it: candidates last, a box, a score, x, y, score of each."""
    rng = np.random.default_rng(2)
    points = np.hstack([rng.uniform(0, 20, (17, 2)) + np.array([0, 10]), rng.uniform(size=(17, 1))])
    row = np.array([10, 20, 6, 8, .9, *points.ravel()])
    table = np.stack([row, row * np.array([1, 1, 1, 1, .5] + [0] * 51)], axis=1)[None]
    found, = PRESETS["yolov8-pose"]()({"y": table})
    assert (found.box, found.score, len(found.keypoints)) == ((7, 16, 13, 24), .9, 17)
    np.testing.assert_allclose(found.keypoints, points)
    before = Preprocess(letterbox=(40, 20))
    np.testing.assert_allclose(_points_of_image(found, before, (100, 100)),
                               (points - (0, 10, 0)) * (5, 5, 1), atol=1e-9)


def test_rows_of_a_model_that_suppresses_itself_stay_as_they_are() -> None:
    """Two equal boxes of one class: suppression would drop one, an end-to-end model has meant both."""
    rows = np.array([[[1, 2, 3, 4, .9, 2], [1, 2, 3, 4, .8, 2], [5, 6, 7, 8, .1, 0]]])
    found = PRESETS["yolo26"]()({"y": rows}, LABELS)
    assert [(one.label, one.score, one.box) for one in found] == [("cat", s, (1, 2, 3, 4)) for s in (.9, .8)]


def test_softmax_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="the reference")
    logits = np.random.default_rng(0).normal(scale=30, size=(3, 7)) + 1000
    np.testing.assert_allclose(softmax(logits), torch.softmax(torch.from_numpy(logits), -1).numpy(), rtol=1e-12)


def test_survives_the_manifest() -> None:
    for spec in (Classify("y", softmax=True), Detect("b", "s", anchors=((1, 2, 3, 4.0),), form="cxcywh", size=(3, 4)),
                 *(make() for make in PRESETS.values())):
        assert from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(("data", "message"), [
    ({}, "no kind ''; this runtime knows classify, detect"), ({"kind": "segment"}, "no kind 'segment'"),
    ({"kind": "classify", "tpo": 3}, "unknown key 'tpo'"), ({"kind": "classify", "top": 0}, "at least 1"),
    ({"kind": "detect", "keypoints": 1, "scores": "s"}, "of one output"),
    ({"kind": "detect", "end_to_end": True, "sigmoid": True}, "no objectness, sigmoid"),
    ({"kind": "detect", "boxes": "b", "form": "ltrb"}, "form is one of"),
    ({"kind": "detect", "boxes": "b", "anchors": [[1, 2, 3]]}, "4 numbers each"),
    ({"kind": "detect", "boxes": "b", "anchors": [[1, 2, 3, 4]]}, "have the form cxcywh"),
    ({"kind": "detect", "boxes": "b", "size": [3]}, r"size is \(height, width\)"),
    ({"kind": "detect", "boxes": "b", "max_iou": 2}, "max_iou 0 to 1"),
])
def test_refuses_a_declaration(data: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        from_dict(data)


@pytest.mark.parametrize(("outputs", "message"), [
    ({"y": np.zeros((1, 3, 5))}, "wants the output 'b'; there are y"), ({"b": np.zeros((2, 3, 5))}, r"got \[2, 3, 5\]"),
])
def test_refuses_outputs(outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detect("b")(outputs)


@pytest.mark.parametrize("preprocess", [
    Preprocess(resize=(20, 40)), Preprocess(resize_shorter=20, crop=(20, 20)), Preprocess(), Preprocess(crop=(31, 17)),
    Preprocess(resize_shorter=64, crop=(50, 64)), Preprocess(letterbox=(70, 41)), Preprocess(letterbox=(51, 200)),
    Preprocess(letterbox=(70, 41), align="corner"), Preprocess(letterbox=(51, 200), align="corner")])
def test_boxes_come_back_to_the_image(preprocess: Preprocess) -> None:
    """A white rectangle goes through the preprocessing; the box around what is white there is the rectangle again."""
    image = np.zeros((50, 80, 3), np.uint8)
    image[20:30, 36:48] = 255
    white = preprocess(image)[0, 0] > 127
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    box = preprocess.to_image([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], 50, 80)[0]
    np.testing.assert_allclose(box, (36, 20, 48, 30), atol=1.3)
    np.testing.assert_array_equal(preprocess.to_image([[-99, -99, 999, 999]], 50, 80), [[0, 0, 80, 50]])


def test_predict_takes_one_input(make_bundle: MakeBundle) -> None:
    with edgeq_runtime.load(make_bundle()) as model, pytest.raises(InputError, match="has image, offset: use run"):
        model.predict(np.zeros((1, 3), np.float32))


def test_the_command_line_shows_what_was_found(make_bundle: MakeBundle, tmp_path: Any,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(postprocessing=Classify("sum", top=2).to_dict(), labels=("a", "b", "c"))
    np.savez(tmp_path / "in.npz", image=np.array([[1, 3, 2]], np.float32), offset=np.zeros(3, np.float32))
    assert main([str(folder), "run", "--input", str(tmp_path / "in.npz")]) == 0
    assert capsys.readouterr().out == "6.0000  b\n4.0000  c\n"
