"""Whether pictures come in the form that a classifier was trained on, by what it answers to them in other forms.

A classifier tells pictures apart best in the form that it knows. What its answers say about the picture is the mutual
information of picture and class, sum of p(class | picture) log(p(class | picture) / p(class)): it falls when answers
become unsure, and when all pictures get the same one. No labels are needed.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import ModelError
from edgeq.external_weights import is_large
from edgeq.graph import real_inputs
from edgeq.inference.reference import predictor
from edgeq.inference.session import Arrays

Pixels = NDArray[np.float64]

_MEAN: Final = np.array([0.485, 0.456, 0.406])  # of ImageNet, https://docs.pytorch.org/vision/stable/models.html
_DEVIATION: Final = np.array([0.229, 0.224, 0.225])


@dataclass(frozen=True, slots=True)
class Form:
    """How pixels from 0 to 1 become numbers: factor * pixel + shift, one of each for a channel."""

    words: str
    factor: Pixels
    shift: Pixels

    @property
    def ends(self) -> tuple[float, float]:
        return float(self.shift.min()), float((self.factor + self.shift).max())

    def of(self, pixels: Pixels, axis: int) -> Pixels:
        return pixels * _along(self.factor, axis) + _along(self.shift, axis)

    def undone(self, numbers: Pixels, axis: int) -> Pixels:
        return (numbers - _along(self.shift, axis)) / _along(self.factor, axis)


def _along(values: Pixels, axis: int) -> Pixels:
    """[3] -> ready to be broadcast over [N,3,H,W] or [N,H,W,3]."""
    return values.reshape([3 if place == axis else 1 for place in range(4)])


_ONES: Final = np.ones(3)
FORMS: Final = (
    Form("pixels from 0 to 1", _ONES, 0 * _ONES),
    Form("pixels from 0 to 255", 255 * _ONES, 0 * _ONES),
    Form("pixels from -1 to 1", 2 * _ONES, -_ONES),
    Form("pixels from -0.5 to 0.5", _ONES, -0.5 * _ONES),
    Form("pixels with ImageNet's mean and deviation taken out", 1 / _DEVIATION, -_MEAN / _DEVIATION),
    Form("pixels from 0 to 255 with the mean taken out", 255 * _ONES, -255 * _MEAN),
)


def form_of(low: float, high: float) -> Form | None:
    """The form whose range holds these ends and is filled best by them; None where that leaves a doubt."""
    def fill(form: Form) -> float:
        first, last = form.ends
        slack = (last - first) / 50  # means and resizing filters differ
        return (high - low) / (last - first) if first - slack <= low and high <= last + slack else 0.0

    best = max(FORMS, key=fill)
    return best if fill(best) > 0.8 else None  # a set of pictures has nearly black pixels, and nearly white ones


def response_warnings(network: ir.Model, samples: Iterable[Arrays]) -> list[str]:
    """What a classifier of pictures with three channels knows better than what its calibration samples hold.

    network: in float, with one input and one row of scores. Of others, and of few samples, nothing is said.
    """
    inputs = real_inputs(network.graph)
    axis = _channels(inputs[0]) if len(inputs) == 1 else None
    if axis is None or len(network.graph.outputs) != 1 or is_large(network):
        return []
    name = inputs[0].name or ""
    most = int(policy.RESPONSE_ORDER_SAMPLES.value[-1])
    pictures = [np.asarray(feed[name], np.float64) for feed in itertools.islice(samples, most)]
    if len(pictures) < policy.RESPONSE_LEAST_SAMPLES.value or np.asarray(pictures[0]).shape[0] != 1:
        return []
    try:
        return _said(Classifier.of(network, name), pictures, axis)
    except (ModelError, NoScores):
        return []


def _said(classifier: Classifier, pictures: Sequence[Pixels], axis: int) -> list[str]:
    return [said for said in (_said_of_scale(classifier, pictures, axis), _said_of_order(classifier, pictures, axis))
            if said]


def _said_of_scale(classifier: Classifier, pictures: Sequence[Pixels], axis: int) -> str:
    form = form_of(min(float(one.min()) for one in pictures), max(float(one.max()) for one in pictures))
    if form is None:
        return ""
    count = policy.RESPONSE_SCALE_SAMPLES.value
    few = pictures[::max(len(pictures) // count, 1)][:count]
    given = classifier.information(few)
    others = {other.words: classifier.information([other.of(form.undone(one, axis), axis) for one in few])
              for other in FORMS if other is not form}
    words, best = max(others.items(), key=lambda item: float(item[1].mean()))
    is_clear = best.mean() > max(policy.RESPONSE_GAIN.value * given.mean(), policy.RESPONSE_LEAST.value)
    if errors_above(best, given) < policy.RESPONSE_SURE.value or not is_clear:
        return ""
    return (f"input '{classifier.name}' holds {form.words}: given {words}, the model tells the samples apart far "
            f"better ({best.mean():.2f} nats for {given.mean():.2f}); scale them as in training (--preprocess)")


def _said_of_order(classifier: Classifier, pictures: Sequence[Pixels], axis: int) -> str:
    """A picture and its mirror image count as one, which leaves less to chance."""
    for count in map(int, policy.RESPONSE_ORDER_SAMPLES.value):
        given = classifier.information(pictures[:count], mirrored=True)
        turned = classifier.information([np.flip(picture, axis) for picture in pictures[:count]], mirrored=True)
        surplus = errors_above(turned, given)
        if surplus > policy.RESPONSE_SURE.value:
            return (f"input '{classifier.name}' seems to hold its channels in the wrong order: reversed (RGB for BGR, "
                    f"or BGR for RGB), the model tells the samples apart better ({turned.mean():.2f} nats for "
                    f"{given.mean():.2f}); check \"order\" of --preprocess")
        if surplus < -1 or count >= len(pictures):
            break
    return ""


def errors_above(one: Pixels, other: Pixels) -> float:
    """By how many standard errors the mean of paired numbers is larger."""
    gain = one - other
    return float(gain.mean() * np.sqrt(len(gain)) / max(float(gain.std(ddof=1)), 1e-9))


def _channels(value: ir.Value) -> int | None:
    """The axis of three channels of an input [N,3,H,W] or [N,H,W,3] of floats."""
    shape = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
    if shape is None or len(shape) != 4 or value.dtype != ir.DataType.FLOAT:
        return None
    return 1 if shape[1] == 3 else 3 if shape[3] == 3 else None


def _mirrored(picture: Pixels) -> Pixels:
    return np.flip(picture, 3 if picture.shape[1] == 3 else 2)


class NoScores(Exception):
    """The output is no row of scores."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """name: of the input."""

    name: str
    predict: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

    @classmethod
    def of(cls, network: ir.Model, name: str) -> Classifier:
        return cls(name, predictor(network, fused=True))

    def information(self, pictures: Sequence[Pixels], *, mirrored: bool = False) -> Pixels:
        """Nats that the answer to each picture says about it. mirrored: the mean of that and its mirror image's.

        Raises:
            NoScores: the answer is no row of scores.
        """
        answers = np.array([self._probabilities(one) for one in pictures])
        if mirrored:
            answers = (answers + [self._probabilities(_mirrored(one)) for one in pictures]) / 2
        usual = answers.mean(axis=0)
        return np.asarray((answers * (np.log(answers + 1e-12) - np.log(usual + 1e-12))).sum(axis=1))

    def _probabilities(self, picture: Pixels) -> Pixels:
        scores, = self.predict({self.name: np.ascontiguousarray(picture, np.float32)}).values()
        row = np.asarray(scores, np.float64).reshape(-1)
        if row.size < 3 or row.size != max(scores.shape) or not np.isfinite(row).all():
            raise NoScores
        if row.min() >= 0 and abs(row.sum() - 1) < 1e-3:
            return row
        shifted = np.exp(row - row.max())
        return np.asarray(shifted / shifted.sum())
