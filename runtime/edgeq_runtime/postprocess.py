"""From a model's outputs to labels or boxes, as the manifest declares it; the same code on the host and the device."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from .errors import BundleError, InputError
from .manifest import decode_kind


@dataclass(frozen=True)
class Scored:
    """A class and its score. label: its name, or its index as text where there are no labels."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Detection(Scored):
    """A class, its score, its box (x0, y0, x1, y1 in pixels) and its keypoints (x, y in pixels, score of each)."""

    box: Tuple[float, ...]
    keypoints: Tuple[Tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Classify:
    """The best classes of one output with a score for each.

    output: its name; "" is the first. softmax: the output holds logits. top: how many. min_score: of those shown.
    """

    output: str = ""
    softmax: bool = False
    top: int = 5
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if self.top < 1:
            raise BundleError("postprocessing: top is at least 1")

    @property
    def outputs(self) -> Tuple[str, ...]:
        return (self.output,) if self.output else ()

    def to_dict(self) -> Dict[str, Any]:
        return {"kind": "classify", **asdict(self)}

    def __call__(self, outputs: Mapping[str, Any], labels: Sequence[str] = ()) -> List[Scored]:
        """Arrays by name, of one sample -> the best first; of equal scores the lower index."""
        scores = np.asarray(_output(outputs, self.output), np.float64).reshape(-1)
        if self.softmax:
            scores = softmax(scores)
        order = np.argsort(-scores, kind="stable")[:self.top]
        return [Scored(_label(labels, k), int(k), float(scores[k])) for k in order if scores[k] >= self.min_score]


@dataclass(frozen=True)
class Detect:
    """Boxes with classes: decoding, then non-maximum suppression.

    boxes: the output, "" for the first, with 4 numbers for each of N candidates, [1,N,4] or [N,4]; scores: that with
    their classes, [1,N,classes], or "" where these are the columns behind the box. transposed: the candidates are the
    last axis. objectness: a column in front of the classes that their scores are multiplied with. classes: how many
    columns are classes, 0 for all; those behind them, coefficients of masks say, are left alone. keypoints: how many
    the last columns hold, x, y and a score each, nothing between the classes and them. end_to_end: behind the box are
    one score and the number of its class, and the model has suppressed overlaps itself, so that max_iou and agnostic
    mean nothing. sigmoid: on the scores and on objectness. background: class 0 is none. form: "xyxy", "yxyx", "xywh",
    "cxcywh" or "cycxhw". anchors: N rows in that form, where the boxes are offsets from them; variances: the factors of
    the offsets (SSD: center 0.1, size 0.2). size: (height, width) of the model's input where coordinates run from 0 to
    1, None where they are pixels already. Kept is what scores above min_score and overlaps no better box of its class
    (agnostic: of any class) by more than max_iou.
    """

    boxes: str = ""
    scores: str = ""
    form: str = "xyxy"
    transposed: bool = False
    objectness: bool = False
    sigmoid: bool = False
    background: bool = False
    anchors: Tuple[Tuple[float, ...], ...] = ()
    variances: Tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    size: Optional[Tuple[int, ...]] = None
    min_score: float = 0.25
    max_iou: float = 0.45
    max_detections: int = 100
    agnostic: bool = False
    classes: int = 0
    keypoints: int = 0
    end_to_end: bool = False

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise BundleError(f"postprocessing: form is one of {', '.join(_FORMS)}; got {self.form}")
        if any(len(row) != 4 for row in (*self.anchors, self.variances)):
            raise BundleError("postprocessing: an anchor and the variances are 4 numbers each")
        if self.anchors and not self.form.startswith("c"):
            raise BundleError("postprocessing: offsets from anchors have the form cxcywh or cycxhw")
        if (self.size is not None and len(self.size) != 2) or self.max_detections < 1 or not 0 <= self.max_iou <= 1:
            raise BundleError("postprocessing: size is (height, width), max_detections at least 1, max_iou 0 to 1")
        if self.classes < 0 or self.keypoints < 0:
            raise BundleError("postprocessing: classes is how many there are, or 0 for all columns; keypoints too")
        if (self.keypoints or self.end_to_end) and (self.scores or self.anchors):
            raise BundleError("postprocessing: keypoints and end_to_end are of one output, without scores and anchors")
        if self.end_to_end and (self.objectness or self.sigmoid or self.background or self.classes):
            raise BundleError("postprocessing: end_to_end rows hold a score and a class: no objectness, sigmoid, "
                              "background or classes")

    @property
    def outputs(self) -> Tuple[str, ...]:
        return tuple(filter(None, (self.boxes, self.scores)))

    def to_dict(self) -> Dict[str, Any]:
        fields = asdict(self)
        for key in ("classes", "keypoints", "end_to_end"):  # runtimes that do not know these yet read other bundles
            if not fields[key]:
                del fields[key]
        return {"kind": "detect", **fields}

    def __call__(self, outputs: Mapping[str, Any], labels: Sequence[str] = ()) -> List[Detection]:
        """Arrays by name, of one image -> the best first, with boxes in pixels of the model's input."""
        rows = self._rows(outputs, self.boxes)
        boxes = self._decoded(rows[:, :4])
        scores = self.class_scores(outputs)
        if self.end_to_end:
            found = [(scores[k, 0], int(rows[k, 5]), int(k)) for k in np.flatnonzero(scores[:, 0] > self.min_score)]
        else:
            found = [(scores[k, kind], kind, k) for kind, k in _selected(boxes, scores, self)]
        found = sorted(found, key=lambda one: (-one[0], one[1], one[2]))[:self.max_detections]
        shift = int(self.background)
        return [Detection(_label(labels, kind + shift), kind + shift, float(score), tuple(map(float, boxes[k])),
                          self._points(rows[k])) for score, kind, k in found]

    def _points(self, row: Any) -> Tuple[Tuple[float, ...], ...]:
        """One candidate's numbers -> x, y, score of each keypoint."""
        if not self.keypoints:
            return ()
        height, width = self.size or (1, 1)
        points = row[-3 * self.keypoints:].reshape(-1, 3) * (width, height, 1)
        return tuple(tuple(map(float, point)) for point in points)

    def class_scores(self, outputs: Mapping[str, Any]) -> Any:
        """Arrays by name, of one image -> [N, classes without background]."""
        columns = self._rows(outputs, self.scores) if self.scores else self._rows(outputs, self.boxes)[:, 4:]
        if self.end_to_end:
            return columns[:, :1]
        if self.classes:
            columns = columns[:, :self.classes + self.objectness]
        elif self.keypoints:
            columns = columns[:, :-3 * self.keypoints]
        return self._scores(columns)

    def _rows(self, outputs: Mapping[str, Any], name: str) -> Any:
        """One output as float64 [N, columns]."""
        array = np.asarray(_output(outputs, name), np.float64)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 2:
            raise InputError(f"the output '{name}' is of one image and has two axes, got {list(array.shape)}")
        return array.T if self.transposed else array

    def _decoded(self, boxes: Any) -> Any:
        """[N,4] in `form`, or offsets -> x0 y0 x1 y1 in pixels of the model's input."""
        if self.anchors:
            anchors, factors = np.array(self.anchors), np.array(self.variances)
            if len(anchors) != len(boxes):
                raise InputError(f"the output '{self.boxes}' has {len(boxes)} candidates for {len(anchors)} anchors")
            centers = anchors[:, :2] + boxes[:, :2] * factors[:2] * anchors[:, 2:]
            boxes = np.hstack([centers, anchors[:, 2:] * np.exp(boxes[:, 2:] * factors[2:])])
        order, kind = _FORMS[self.form]
        first, second = np.split(boxes[:, order], 2, axis=1)
        if kind == "center":
            first, second = first - second / 2, first + second / 2
        elif kind == "size":
            second = first + second
        height, width = self.size or (1, 1)
        return np.hstack([first, second]) * (width, height, width, height)

    def _scores(self, scores: Any) -> Any:
        """[N, (objectness,) classes] -> [N, classes without background]."""
        if self.sigmoid:
            scores = 1 / (1 + np.exp(-np.clip(scores, -500, 500)))  # exp overflows beyond 709
        if self.objectness:
            scores = scores[:, :1] * scores[:, 1:]
        return scores[:, 1:] if self.background else scores


# form -> (columns in the order x y ..., what the second pair is)
_FORMS = {"xyxy": ([0, 1, 2, 3], "corner"), "yxyx": ([1, 0, 3, 2], "corner"), "xywh": ([0, 1, 2, 3], "size"),
          "cxcywh": ([0, 1, 2, 3], "center"), "cycxhw": ([1, 0, 3, 2], "center")}


def from_dict(data: Mapping[str, Any]) -> Union[Classify, Detect]:
    """What a manifest or a file declares.

    Raises:
        BundleError: a kind or key that is unknown here, or a value that does not fit.
    """
    found: Union[Classify, Detect] = decode_kind({"classify": Classify, "detect": Detect}, data, "postprocessing")
    return found


# As exported, boxes in pixels: https://docs.ultralytics.com/modes/export/, and export.py of YOLOv5
PRESETS: Dict[str, Callable[[], Union[Classify, Detect]]] = {
    "classify": lambda: Classify(softmax=True),
    "yolov5": lambda: Detect(form="cxcywh", objectness=True),
    "yolov8": lambda: Detect(form="cxcywh", transposed=True),
    "yolov8-pose": lambda: Detect(form="cxcywh", transposed=True, classes=1, keypoints=17),
    "yolo26": lambda: Detect(end_to_end=True),
}


def softmax(logits: Any) -> Any:
    """Over the last axis, in float64."""
    shifted = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def nms(boxes: Any, scores: Any, max_iou: float) -> List[int]:
    """Greedy non-maximum suppression: boxes [N,4] x0 y0 x1 y1, scores [N] -> indices of what is kept, the best first.

    A box goes when its intersection over union with a better kept one is above max_iou, as in ONNX's NonMaxSuppression.
    """
    kept: List[int] = []
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    while order.size:
        best, order = order[0], order[1:]
        kept.append(int(best))
        shared = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
        common = np.prod(np.maximum(shared, 0), axis=1)
        union = areas[best] + areas[order] - common
        order = order[common <= max_iou * np.maximum(union, np.finfo(np.float64).tiny)]
    return kept


def _selected(boxes: Any, scores: Any, spec: Detect) -> List[Tuple[int, int]]:
    """(class, candidate) of everything that is kept."""
    if spec.agnostic:
        kinds, best = scores.argmax(axis=1), scores.max(axis=1)
        likely = np.flatnonzero(best > spec.min_score)
        return [(int(kinds[likely[k]]), int(likely[k])) for k in nms(boxes[likely], best[likely], spec.max_iou)]
    found = []
    for kind in np.flatnonzero((scores > spec.min_score).any(axis=0)):
        likely = np.flatnonzero(scores[:, kind] > spec.min_score)
        found += [(int(kind), int(likely[k])) for k in nms(boxes[likely], scores[likely, kind], spec.max_iou)]
    return found


def _output(outputs: Mapping[str, Any], name: str) -> Any:
    if name and name not in outputs:
        raise InputError(f"the postprocessing wants the output '{name}'; there are {', '.join(outputs)}")
    return outputs[name] if name else next(iter(outputs.values()))


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index)
