"""Metrics: pure numpy functions of predictions and targets, one entry each per sample; -> a float.

A prediction is the model's first output for one sample, as the model gives it, with its batch axis. A target is what
the function's docstring says; where it counts or classifies, negative numbers are padding, so that targets of uneven
length fit into one array. Every function raises ValueError, naming the sample, for a target that does not fit.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
VOID: Final = 255  # of a segmentation's labels: not scored, as in Pascal VOC
CEILING_DB: Final = 200.0  # of arrays that are equal: a score is a finite number
_INFINITE: Final = 3.4e38  # float32's largest number, rounded down


@dataclass(frozen=True, slots=True)
class ErrorPower:
    """How far arrays are from their reference. noise, signal: sums of squares, of the difference and of the reference,
    over all samples. NaN in `noise` counts as the worst error there is; see `comparable`.
    """

    noise: float
    signal: float

    @classmethod
    def of(cls, reference: Iterable[Array], got: Iterable[Array]) -> ErrorPower:
        """Arrays of the same shapes, one pair for each sample; computed in float64."""
        noise = signal = 0.0
        for r, g in zip(reference, got, strict=True):
            exact, found = comparable(r, g)
            noise += float(np.square(found - exact).sum())
            signal += float(np.square(exact).sum())
        return cls(noise, signal)

    @property
    def ratio(self) -> float:
        """Noise over signal, in power; 1 for noise without a signal."""
        if math.isnan(self.noise):
            return math.inf
        return self.noise / self.signal if self.signal else float(self.noise > 0)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio: 10 log10(signal / noise), within 200 dB either way."""
        if self.noise == 0:
            return CEILING_DB
        if not math.isfinite(self.noise) or self.signal == 0:
            return -CEILING_DB
        return float(np.clip(10 * math.log10(self.signal / self.noise), -CEILING_DB, CEILING_DB))


def comparable(reference: Array, got: Array) -> tuple[NDArray[np.float64], Array]:
    """Two arrays of one shape, of which a difference can be taken -> the reference as float64, and the other.

    A NaN or infinity that both have counts as equal, 0 in both, and so does float32's largest number, which masks hold
    for infinity; one that the reference alone has is NaN in the second.
    """
    exact = reference.astype(np.float64, copy=False)
    special = ~(np.abs(exact) < _INFINITE)
    if not special.any():
        return exact, got
    found = got.astype(np.float64, copy=False)
    same = special & (((np.abs(found) >= _INFINITE) & (np.sign(exact) == np.sign(found)))
                      | (np.isnan(exact) & np.isnan(found)))
    return np.where(special, 0.0, exact), np.where(same, 0.0, np.where(special, np.nan, found))


@dataclass(frozen=True, slots=True)
class Metric:
    """score: predictions, targets, one each per sample -> a number in `unit`."""

    name: str
    unit: str
    score: Callable[[Sequence[Any], Sequence[Any]], float]
    higher_is_better: bool = True

    def drop(self, reference: float, score: float) -> float:
        """How much worse `score` is than `reference`, in the metric's unit; negative where it is better."""
        return reference - score if self.higher_is_better else score - reference


def top1(predictions: Sequence[Array], targets: Sequence[Any]) -> float:
    """Share of the highest scores that are the target's class, in %.

    prediction: scores [batch, classes(, 1, 1)]. target: the class, [batch] or one number.
    """
    return _top(predictions, targets, 1)


def top5(predictions: Sequence[Array], targets: Sequence[Any]) -> float:
    """As top1, of the five highest scores."""
    return _top(predictions, targets, 5)


def _top(predictions: Sequence[Array], targets: Sequence[Any], count: int) -> float:
    hits: list[bool] = []
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        labels = _integers(target, number).ravel()
        if not labels.size or prediction.size % labels.size or len(prediction) != labels.size:
            raise ValueError(f"sample {number}: {labels.size} labels for scores of shape {prediction.shape}; "
                             "give one class for each row")
        rows = prediction.reshape(labels.size, -1)
        _check_classes(labels, rows.shape[1], number)
        best = np.argsort(-rows, axis=1, kind="stable")[:, :count]
        hits += (best == labels[:, None]).any(1).tolist()
    return 100 * float(np.mean(hits))


def miou(predictions: Sequence[Array], targets: Sequence[Any]) -> float:
    """Intersection over union, mean over the classes that the targets hold, in %.

    prediction: scores [1, classes, height, width]. target: classes [height, width]; 255 is not scored.
    """
    classes = predictions[0].shape[1] if predictions[0].ndim == 4 else 0
    confusion = np.zeros((classes, classes), np.int64)  # [true, predicted]
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        truth = _integers(target, number)
        if prediction.ndim != 4 or prediction.shape[2:] != truth.shape[-2:] or len(prediction) * truth[0].size == 0:
            raise ValueError(f"sample {number}: a label of shape {truth.shape} for scores of shape {prediction.shape}; "
                             "give one class for each pixel")
        found, truth = prediction.argmax(1).ravel(), truth.ravel()
        scored = (truth != VOID) & (truth >= 0)
        _check_classes(truth[scored], classes, number)
        np.add.at(confusion, (truth[scored], found[scored]), 1)
    both, present = np.diag(confusion), confusion.sum(1) > 0
    union = confusion.sum(0) + confusion.sum(1) - both
    return 100 * float(np.mean(both[present] / union[present]))


def psnr(predictions: Sequence[Array], targets: Sequence[Any]) -> float:
    """Peak signal to noise ratio, mean over the samples, in dB.

    prediction: an image with values from 0 to 1. target: as many values, as float from 0 to 1; or uint8, against which
    the prediction is scaled by 255, clipped and rounded, as when it is saved.
    """
    values = []
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        truth = np.asarray(target)
        if truth.size != prediction.size or not truth.size:
            raise ValueError(f"sample {number}: an image of shape {truth.shape} for one of shape {prediction.shape}")
        image = prediction.astype(np.float64).reshape(truth.shape)
        peak = 1.0
        if truth.dtype == np.uint8:
            image, peak = np.clip(np.rint(image * 255), 0, 255), 255.0
        error = float(np.mean((image - truth) ** 2))
        values.append(CEILING_DB if error == 0 else min(CEILING_DB, 10 * float(np.log10(peak**2 / error))))
    return float(np.mean(values))


def perplexity(predictions: Sequence[Array], targets: Sequence[Any]) -> float:
    """exp of the mean negative log-likelihood of a token. prediction: logits [1, length, vocabulary]. target: the next
    token at the first positions; negative ones are not scored.
    """
    total, tokens = 0.0, 0
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        next_ = _integers(target, number).ravel()
        logits = prediction.reshape(-1, prediction.shape[-1]).astype(np.float64)
        if next_.size > len(logits):
            raise ValueError(f"sample {number}: {next_.size} tokens for logits of shape {prediction.shape}")
        scored = np.flatnonzero(next_ >= 0)
        _check_classes(next_[scored], logits.shape[1], number)
        rows = logits[scored]
        rows = rows - rows.max(1, keepdims=True, initial=-np.inf)
        likelihood = rows[np.arange(len(rows)), next_[scored]] - np.log(np.exp(rows).sum(1))
        total, tokens = total - float(likelihood.sum()), tokens + len(rows)
    if not tokens:
        raise ValueError("the targets hold no token to score")
    return float(np.exp(min(total / tokens, 700.0)))  # beyond, float64 overflows


def wer(predictions: Sequence[Any], targets: Sequence[Any]) -> float:
    """Word error rate: insertions, deletions and replacements per word of the targets, in %.

    prediction and target: a string, whose words are split at spaces; or token ids, each a word, negative ones padding.
    """
    edits = words = 0
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        said, heard = _words(target, number), _words(prediction, number)
        edits, words = edits + edit_distance(heard, said), words + len(said)
    if not words:
        raise ValueError("the targets hold no words")
    return 100 * edits / words


def _words(text: Any, number: int) -> list[Any]:
    array = np.asarray(text)
    if array.dtype.kind == "U":
        return " ".join(array.ravel().tolist()).split()
    if array.dtype.kind == "f":
        raise ValueError(f"sample {number}: scores of shape {array.shape} are no words yet; decode them in a scoring "
                         "function, --eval module:function")
    ids: list[Any] = array.ravel().tolist()
    return [word for word in ids if word >= 0]


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Levenshtein, "Binary codes capable of correcting deletions, insertions, and reversals" (1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def map50(predictions: Sequence[Array], targets: Sequence[Any]) -> float:
    """Average precision at an intersection over union of 0.5, area under the whole curve, mean over the classes, in %.

    prediction: detections behind non-maximum suppression, [n, 6] or [1, n, 6]: x1, y1, x2, y2, score, class; a score of
    0 is padding. target: [m, 5] or [1, m, 5]: x1, y1, x2, y2, class. Both in the same unit.
    """
    found, truth = [], []
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        boxes = _table(prediction, 6, number, "detections must be [n, 6]: x1, y1, x2, y2, score, class; decode the "
                       "model's outputs in a scoring function, --eval module:function, that calls edgeq.metrics.map50")
        wanted = _table(target, 5, number, "labels must be [m, 5]: x1, y1, x2, y2, class")
        found.append(boxes[boxes[:, 4] > 0])
        truth.append(wanted[wanted[:, 4] >= 0])
    classes = sorted({int(c) for boxes in truth for c in boxes[:, 4]})
    if not classes:
        raise ValueError("the targets hold no boxes")
    return 100 * float(np.mean([_average_precision(found, truth, c) for c in classes]))


def _table(data: Any, columns: int, number: int, meaning: str) -> Array:
    array = np.asarray(data, np.float64)
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"sample {number}: shape {np.shape(data)}; {meaning}")
    return array


def _average_precision(found: Sequence[Array], truth: Sequence[Array], kind: int) -> float:
    """Of one class. Every detection, the surest first, takes the box that it covers most, if nobody took it before."""
    wanted = [boxes[boxes[:, 4] == kind] for boxes in truth]
    taken = [np.zeros(len(boxes), bool) for boxes in wanted]
    detections = [(box, number) for number, boxes in enumerate(found) for box in boxes[boxes[:, 5] == kind]]
    detections.sort(key=lambda pair: -pair[0][4])
    hits = np.zeros(len(detections))
    for place, (box, number) in enumerate(detections):
        overlap = np.where(taken[number], -1.0, iou(box, wanted[number]))
        if overlap.size and overlap.max() >= 0.5:
            taken[number][overlap.argmax()] = True
            hits[place] = 1
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((hits * envelope).sum() / sum(map(len, wanted)))


def iou(box: Array, boxes: Array) -> Array:
    """box [4 or more], boxes [n, 4 or more]: x1, y1, x2, y2 -> intersection over union [n]."""
    sides = np.clip(np.minimum(box[2:4], boxes[:, 2:4]) - np.maximum(box[:2], boxes[:, :2]), 0, None)
    shared = sides.prod(1)
    both = (box[2:4] - box[:2]).prod() + (boxes[:, 2:4] - boxes[:, :2]).prod(1) - shared
    return np.asarray(shared / np.maximum(both, np.finfo(np.float64).tiny))


def sqnr(predictions: Sequence[Array], targets: Sequence[Any]) -> float:
    """Power of the targets over power of the difference, over all samples together, in dB, at most 200.

    target: an array of the prediction's shape, such as the float model's output.
    """
    truths = [np.asarray(target) for target in targets]
    for number, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        if truth.shape != prediction.shape:
            raise ValueError(f"sample {number}: a target of shape {truth.shape} for an output of {prediction.shape}")
        if not np.isfinite(truth).all():
            raise ValueError(f"sample {number}: the target holds NaN or infinity")
    return ErrorPower.of(truths, predictions).sqnr_db


METRICS: Final[Mapping[str, Metric]] = MappingProxyType({metric.name: metric for metric in (
    Metric("top1", "%", top1), Metric("top5", "%", top5), Metric("map50", "%", map50), Metric("miou", "%", miou),
    Metric("psnr", "dB", psnr), Metric("perplexity", "", perplexity, higher_is_better=False),
    Metric("wer", "%", wer, higher_is_better=False), Metric("sqnr", "dB", sqnr),
)})


def _integers(target: Any, number: int) -> Array:
    array = np.asarray(target)
    if array.dtype.kind not in "iub":
        raise ValueError(f"sample {number}: labels are class numbers, not {array.dtype}")
    return array.astype(np.int64)


def _check_classes(labels: Array, classes: int, number: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise ValueError(f"sample {number}: label {outside[0]} where the model has classes 0 to {classes - 1}")
