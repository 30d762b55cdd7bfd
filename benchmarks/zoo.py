"""Every real model on every target: the user's metric before and after, distance from float, bytes.

    python benchmarks/zoo.py [--bits 8] [--targets onnxruntime,tflite,coreml] [--items A,B] [--limit N] [--json FILE]

Each model is converted once for all targets, calibrated with at most 100 of its calibration samples (not at 32 bits),
and scored on its evaluation samples through edgeq_runtime, states fed back step by step; Core ML through the
interpreter. Sentences are padded to the longest of their kind, since TFLite and Core ML take one length.
"""
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from common import PADDED, open_zoo, padded, parser, report, shapes

import edgeq_runtime
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.verification.compare import compare

METRICS = ("top1", "psnr", "map50", "ppl", "acc", "agree")


@dataclass(frozen=True)
class Row:
    """samples: how many were run. agreement: share of samples with the float model's top-1, for classifiers.

    sqnr_db: of the worst output. of_float: of the bytes of the float ONNX file.
    """

    model: str
    target: str
    bits: int
    metric: str
    samples: int
    float_score: float
    score: float
    agreement: float | None
    sqnr_db: float
    artifact_bytes: int
    of_float: float
    float_ops: int
    score_seconds: float


class Recorder:
    """A predictor that pads what comes, cuts what goes, and remembers the outputs for every sample."""

    def __init__(self, item: str, run: Any):
        self.name, self.run, self.seen = PADDED.get(item, ("", 0))[0], run, []

    def __call__(self, feed: Any) -> list[Any]:
        outputs = list(self.run(feed))
        if self.name:
            outputs = [output[:, :feed[self.name].shape[1]] for output in outputs]
        self.seen.append({str(k): np.asarray(output) for k, output in enumerate(outputs)})
        return outputs


def float_run(zoo: Any, item: str) -> tuple[dict[str, float], list[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(zoo.model(item)), providers=["CPUExecutionProvider"])
    recorder = Recorder(item, lambda feed: session.run(None, padded(item, feed)))
    return zoo.score(item, recorder), recorder.seen


def rows(zoo: Any, item: str, targets: list[str], bits: int, folder: Path) -> Iterator[Row]:
    float_score, reference = float_run(zoo, item)
    metric = next(name for name in METRICS if name in float_score)
    feeds = [padded(item, feed) for feed in zoo.feeds(item, "calib", 100)] if bits < 32 else None
    options = Options(bits=bits, calibration=feeds, inputs=shapes(zoo, item))
    for bundle in convert_all(zoo.model(item), targets, options, folder / item):
        with edgeq_runtime.load(bundle.path) as model:
            recorder = Recorder(item, lambda feed, run=model.run: run(padded(item, feed)).values())
            started = time.perf_counter()
            score = zoo.score(item, recorder)
            seconds = time.perf_counter() - started
        first = [(r["0"], g["0"]) for r, g in zip(reference, recorder.seen, strict=True)]
        agreement = float(np.mean([r.argmax() == g.argmax() for r, g in first])) if metric == "top1" else None
        yield Row(item, bundle.manifest.target, bits, metric, len(first), _number(float_score[metric]),
                  _number(score[metric]), agreement, min(found.sqnr_db for found in compare(reference, recorder.seen)),
                  bundle.artifact_bytes, bundle.artifact_bytes / zoo.model(item).stat().st_size,
                  len(bundle.report["float_on_this_engine"]), seconds)


def _number(score: Any) -> float:
    """basic_pitch has a score for each output: the worst."""
    return float(np.min(score))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bits", type=int, default=8)
    options.add_argument("--targets", default="onnxruntime,tflite,coreml")
    options.add_argument("--items", help="all by default")
    options.add_argument("--limit", type=int, help="evaluation samples of each item")
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    if chosen.limit is not None:
        every = zoo.samples
        zoo.samples = lambda item, split="eval": islice(every(item, split), chosen.limit)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for item in chosen.items.split(",") if chosen.items else zoo.ids:
            found += rows(zoo, item, chosen.targets.split(","), chosen.bits, Path(folder))
    limit = f", at most {chosen.limit} evaluation samples" if chosen.limit is not None else ""
    report(found, f"{chosen.bits} bits, at most 100 calibration samples{limit}", chosen.json)


if __name__ == "__main__":
    main()
