"""The user's metric, measured on the user's data.

    data.npz                        the inputs by name, and `labels` or `targets`; the first axis counts the samples
    folder/*.npz                    each file one feed with its batch axis, and its `labels` or `targets`
    folder/CLASS/*.jpg ...          one subfolder for each class, with images, sounds or arrays
    data.csv                        the columns file and label; see edgeq.verification.labelled_files
    data.json                       images with boxes, as COCO's; see edgeq.verification.coco
    "module:function"               without parameters: gives (feed, target) pairs, one a sample
    "module:function"               with one parameter: gives the score of a predictor; what a detector needs, whose
                                    outputs must be decoded first
    {input name: array, "labels": array}, as in an .npz; an iterable of pairs, such as a data loader; or such a function

A feed maps input names to arrays with a batch axis; a predictor maps a feed to the outputs, by name, in the model's
order.
"""
from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import EdgeqError, EvaluationError, UsageError
from edgeq.inference.columns import apart
from edgeq.metrics import METRICS, Metric
from edgeq.quant.feeds import Feed, InputSpec, as_array, samples_of
from edgeq.quant.samples import ARRAYS, Preprocess, Samples, import_function, is_nth, is_reference, open_samples
from edgeq.verification.coco import LabelledBoxes, labelled_boxes
from edgeq.verification.compare import compare
from edgeq.verification.labelled_files import LabelledFiles, labelled_files
from edgeq.verification.row_sets import row_sets
from edgeq_runtime.postprocess import Classify, Detect

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
Predict: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], Outputs]
LABELS: Final = ("labels", "targets", "label")
DATA: Final = "the evaluation data"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A metric with its data. run: predictor -> score."""

    metric: Metric
    run: Callable[[Predict], float]

    def score(self, predict: Predict) -> float:
        """What a predictor scores, in the metric's unit.

        Raises:
            EvaluationError: the metric raised, or its score is not a number; says what and where.
        """
        try:
            value = float(self.run(predict))
        except EdgeqError:
            raise
        except Exception as error:  # anything may come out of the user's own function
            raise EvaluationError(f"--metric {self.metric.name}: {_told(error)}") from error
        if not math.isfinite(value):
            raise EvaluationError(f"--metric {self.metric.name}: the score is {value}; it must be a finite number")
        return value


@dataclass(frozen=True, slots=True)
class LabelledData:
    """Data of any form listed at the top of this file, not opened yet. metric: None where `data` is, or names, a
    function that gives the score itself. labels: class names in the order of the scores, or none.
    postprocess: what decodes the outputs, of data with boxes.
    """

    data: Any
    metric: Metric | None
    labels: tuple[str, ...] = ()
    postprocess: Classify | Detect | None = None

    def open(self, specs: Mapping[str, InputSpec], *, limit: int | None = None, preprocess: Preprocess | None = None,
             ) -> Evaluation:
        """With the inputs of a model.

        Raises:
            EvaluationError: the data have no labels, or some that are not known. CalibrationError: as for open_samples.
        """
        if self.metric is None:
            scoring = _scoring_function(self.data)
            assert scoring is not None
            return Evaluation(_of_function(scoring, _name(self.data)), scoring)
        return Evaluation(self.metric, _scored(self.metric, self._pairs(specs, limit, preprocess)))

    def feeds(self, specs: Mapping[str, InputSpec], *, preprocess: Preprocess | None = None) -> Iterator[Feed]:
        """What a predictor would be given; nothing of a function that scores."""
        if self.metric is not None:
            yield from (feed for feed, _ in self._pairs(specs, None, preprocess))

    def split(self, specs: Mapping[str, InputSpec], *, preprocess: Preprocess | None = None,
              ) -> tuple[Evaluation, Evaluation | None]:
        """(what a search is led by, what its result is reported on). The second is every third sample, of a streaming
        model the last third, and None where there are too few, or where a function of the user's holds them. Raises as
        `open`.
        """
        if self.metric is None:
            return self.open(specs, preprocess=preprocess), None
        pairs = self._pairs(specs, None, preprocess)
        if pairs.count < policy.HELD_OUT_FROM.value:
            return Evaluation(self.metric, _scored(self.metric, pairs)), None
        step = policy.REPORTED_ONE_IN.value

        def is_reported(number: int) -> bool:
            return number >= pairs.count - pairs.count // step if pairs.streams else is_nth(number, step)

        led = _scored(self.metric, pairs, lambda number: not is_reported(number))
        return Evaluation(self.metric, led), Evaluation(self.metric, _scored(self.metric, pairs, is_reported))

    def _pairs(self, specs: Mapping[str, InputSpec], limit: int | None, preprocess: Preprocess | None) -> _Pairs:
        return _Pairs(self.data, specs, limit, preprocess, self.labels, self.postprocess)


def labelled_data(data: Any, metric: Any, *, flag: str = "--eval", labels: Sequence[str] = (),
                  postprocess: Classify | Detect | None = None) -> LabelledData:
    """metric: a name of METRICS, "module:function" or a function(predictions, targets) -> float, where a prediction is
    the outputs of one sample by name. flag: the word that named the data. labels: class names in the order of the
    scores. postprocess: what decodes the outputs, of data with boxes.

    Raises:
        UsageError: there is no such metric, or there are two or none. CalibrationError: it cannot be imported.
    """
    if _scoring_function(data) is not None:
        if metric is not None:
            raise UsageError(f"--metric {metric}: the function that {flag} names gives the score itself; leave it out")
        return LabelledData(data, None)
    if metric is None:
        raise UsageError(f"{flag} needs --metric: {', '.join(METRICS)} or module:function")
    return LabelledData(data, metric_named(metric), tuple(labels), postprocess)


def evaluation_samples(data: Any, specs: Mapping[str, InputSpec], *, limit: int | None = None,
                       preprocess: Preprocess | None = None) -> Samples:
    """The feeds of evaluation data, for a metric that needs no labels: labelled files, or any form of open_samples.

    Raises as `labelled_files` and `open_samples`.
    """
    files = labelled_boxes(data) or labelled_files(data)
    if files is not None:
        return files.open(specs, limit=limit, preprocess=preprocess)
    return open_samples(data, specs, limit=limit, preprocess=preprocess, what=DATA)


def _scored(metric: Metric, pairs: _Pairs, chosen: Callable[[int], bool] = lambda number: True,
            ) -> Callable[[Predict], float]:
    def run(predict: Predict) -> float:
        predictions, targets = [], []
        for number, (feed, target) in enumerate(pairs):
            if not chosen(number):
                if pairs.streams:
                    predict(feed)  # the state of those behind it
                continue
            predictions.append(pairs.prediction(metric, number, predict(feed)))
            targets.append(target)
        return metric.score(predictions, targets)

    return run


def fidelity(feeds: Iterable[Mapping[str, NDArray[Any]]], expected: Iterable[Outputs], graph: ir.Graph) -> Evaluation:
    """SQNR of the worst output against the outputs that are expected, those of the float model say: needs no labels.
    graph: the float one.
    """
    known = [(feed, dict(outputs)) for feed, outputs in zip(feeds, expected, strict=True)]
    truth = [outputs for _, outputs in known]
    sets, parts = row_sets(graph), apart(graph, truth)

    def run(predict: Predict) -> float:
        got = [dict(predict(feed)) for feed, _ in known]
        return min(difference.sqnr_db for difference in compare(truth, got, sets, parts))

    return Evaluation(METRICS["sqnr"], run)


def metric_named(metric: Any) -> Metric:
    """The metric of a name, of "module:function" or of a function.

    Raises:
        UsageError: there is none. CalibrationError: the function cannot be imported.
    """
    if callable(metric):
        return _of_function(metric, _name(metric))
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    if isinstance(metric, str) and is_reference(metric):
        return _of_function(import_function(metric), metric)
    raise UsageError(f"no metric '{metric}'; there are {', '.join(METRICS)}, or module:function")


def _of_function(function: Callable[..., float], name: str) -> Metric:
    """A function says higher_is_better = False of itself where that is so."""
    return Metric(name, "", function, bool(getattr(function, "higher_is_better", True)))


def _name(function: Any) -> str:
    return function if isinstance(function, str) else getattr(function, "__qualname__", type(function).__name__)


def _scoring_function(data: Any) -> Callable[..., float] | None:
    """The function of one parameter that `data` is or names, or None."""
    if isinstance(data, str) and is_reference(data) and not Path(data).exists():
        data = import_function(data)
    if not callable(data):
        return None
    try:
        parameters = inspect.signature(data).parameters.values()
    except ValueError:  # a builtin
        return None
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return data if len(required) == 1 else None


class _Pairs:
    """(checked feed, target) of every sample; may be iterated any number of times."""

    _feeds: Samples
    _targets: Callable[[], Iterable[Any]]

    def __init__(self, data: Any, specs: Mapping[str, InputSpec], limit: int | None, preprocess: Preprocess | None,
                 names: Sequence[str], after: Classify | Detect | None):
        path = Path(data) if isinstance(data, str | Path) else None
        self.streams = any(spec.state for spec in specs.values())
        self._names, self._files = names, labelled_boxes(data) or labelled_files(data)
        self._decode = self._files.decoder(preprocess, after) if isinstance(self._files, LabelledBoxes) else None
        if self._files is not None:
            self._feeds = self._files.open(specs, limit=limit, preprocess=preprocess)
            found = self._files.targets(names)
            self._targets = lambda: found
        elif path is not None and path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in ARRAYS)
            if not files:
                raise EvaluationError(f"{DATA} '{path}' hold no labels: give .npz files with labels, one subfolder for "
                                      "each class, or a CSV of file,label")
            self._targets = lambda: (label for file in files for label in (
                np.atleast_1d(_labels(file, specs)) if self.streams else [_labels(file, specs)]))
            self._feeds = open_samples(path, specs, limit=limit, preprocess=preprocess)
        elif path is not None and not is_reference(str(data)):
            if not path.exists():
                raise EvaluationError(f"{DATA} '{path}' do not exist; give an .npz, a folder, a CSV of file,label, a "
                                      "COCO .json, or module:function")
            self._feeds = open_samples(path, specs, limit=limit)
            labels = np.atleast_1d(_labels(path, specs))
            self._targets = lambda: labels
            count = open_samples(path, specs).count
            if len(labels) != count:
                raise EvaluationError(f"'{path}' holds {count} samples and {len(labels)} labels")
        elif isinstance(data, Mapping):
            name = next((name for name in LABELS if name in data and name not in specs), None)
            if name is None:
                raise EvaluationError(f"{DATA} hold no labels: add {' or '.join(LABELS[:2])}")
            self._feeds, targets = open_samples(data, specs, limit=limit, what=DATA), as_array(data[name], name)
            self._targets = lambda: targets
            count = open_samples(data, specs, what=DATA).count
            if len(targets) != count:
                raise EvaluationError(f"{DATA} hold {count} samples and {len(targets)} labels")
        else:
            given = _Given(data, specs)
            self._feeds = open_samples(given, specs, limit=limit, what=DATA)
            self._targets = lambda: given.targets

    def prediction(self, metric: Metric, number: int, outputs: Outputs) -> Any:
        """What the metric takes of a sample's outputs. Raises as `LabelledFiles.check_scores`."""
        if self._decode is not None:
            return self._decode(number, outputs)
        if metric.name not in METRICS:
            return outputs
        first = next(iter(outputs.values()))
        if isinstance(self._files, LabelledFiles) and metric.name in ("top1", "top5"):
            self._files.check_scores(first, self._names)
        return first

    @property
    def count(self) -> int:
        return self._feeds.count

    def __iter__(self) -> Iterator[tuple[Feed, Any]]:
        targets: Iterator[Any] | None = None
        for feed in self._feeds:
            targets = targets if targets is not None else iter(self._targets())
            yield feed, next(targets)


class _Given:
    """The feeds of pairs; notes the target of each feed as it is taken. A pair may be a batch of both."""

    def __init__(self, data: Any, specs: Mapping[str, InputSpec]):
        self._specs = specs
        if not callable(data) and not isinstance(data, str | Iterable):
            raise EvaluationError(f"{DATA} are of type {type(data).__name__}; give a path, a dict of "
                                  "arrays, or pairs of a feed and a target")
        self._source = import_function(data) if isinstance(data, str) else data
        self._kept = list(data) if isinstance(data, Iterator) else None
        self._name = _name(data) if isinstance(data, str) else DATA
        self.targets: list[Any] = []

    def __iter__(self) -> Iterator[Feed]:
        self.targets = []
        source = self._kept if self._kept is not None else self._source
        for number, pair in enumerate(source() if callable(source) else source):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise EvaluationError(f"{self._name} sample {number} is no pair of a feed and a target; yield "
                                      "({input name: array}, target)")
            where = f"{self._name} sample {number}"
            feeds = samples_of(pair[0], self._specs, where)
            targets = [pair[1]] if len(feeds) == 1 else as_array(pair[1], where)
            if len(targets) != len(feeds):
                raise EvaluationError(f"{where} is a batch of {len(feeds)} with {len(targets)} targets")
            for feed, target in zip(feeds, targets, strict=True):
                self.targets.append(as_array(target, where) if hasattr(target, "detach") else target)
                yield dict(feed)


def _labels(path: Path, specs: Mapping[str, InputSpec]) -> NDArray[Any]:
    """The labels in one .npz file."""
    names = [name for name in LABELS if name not in specs]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in names:
                if name in arrays:
                    return np.asarray(arrays[name])
    except (OSError, ValueError, TypeError) as error:  # TypeError: an .npy is no archive
        raise EvaluationError(f"'{path}' cannot be read as labelled data: {error}") from error
    raise EvaluationError(f"'{path}' holds no labels: add an array named {' or '.join(names[:2])}, one for each sample")


def _told(error: Exception) -> str:
    """A ValueError of our own metrics is a message already."""
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
