"""Every real model on every target: the user's metric before and after, agreement with float, bytes.

    python benchmarks/zoo.py [--bits 8] [--targets onnxruntime,tflite,coreml] [--items NAME,...] [--json FILE]

Each model is converted once for all targets, calibrated with at most 100 of its calibration samples, and scored on its
evaluation samples through edgeq_runtime; Core ML through the interpreter.
"""
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import SIX, open_zoo, parser, report, shapes

import edgeq_runtime
from edgeq.pipeline import Options, convert_all
from edgeq.verify.compare import sqnr_db

METRICS = ("top1", "psnr", "map50", "ppl", "acc", "agree")


@dataclass(frozen=True)
class Row:
    """agreement: share of samples with the float model's top-1, for classifiers. sqnr_db: of the first output."""

    model: str
    target: str
    bits: int
    metric: str
    float_score: float
    score: float
    agreement: float | None
    sqnr_db: float
    artifact_bytes: int
    of_float: float
    float_ops: int
    score_seconds: float


class Recorder:
    """A predictor that remembers its first output for every sample."""

    def __init__(self, predict: Any):
        self.predict, self.seen = predict, []

    def __call__(self, feed: Any) -> list[Any]:
        outputs = self.predict(feed)
        self.seen.append(np.asarray(outputs[0]))
        return list(outputs)


def float_run(zoo: Any, item: str) -> tuple[dict[str, float], list[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(zoo.model(item)), providers=["CPUExecutionProvider"])
    recorder = Recorder(lambda feed: session.run(None, feed))
    return zoo.score(item, recorder), recorder.seen


def rows(zoo: Any, item: str, targets: list[str], bits: int, folder: Path) -> Iterator[Row]:
    float_score, reference = float_run(zoo, item)
    metric = next(name for name in METRICS if name in float_score)
    options = Options(bits=bits, calibration=list(zoo.feeds(item, "calib", 100)), inputs=shapes(zoo, item))
    for bundle in convert_all(zoo.model(item), targets, options, folder / item):
        with edgeq_runtime.load(bundle.path) as model:
            recorder = Recorder(lambda feed, run=model.run: list(run(feed).values()))
            started = time.perf_counter()
            score = zoo.score(item, recorder)
            seconds = time.perf_counter() - started
        pairs = list(zip(reference, recorder.seen, strict=True))
        noise = sum(float(((r.astype(float) - g) ** 2).sum()) for r, g in pairs)
        signal = sum(float((r.astype(float) ** 2).sum()) for r, _ in pairs)
        agreement = float(np.mean([r.argmax() == g.argmax() for r, g in pairs])) if metric == "top1" else None
        yield Row(item, bundle.manifest.target, bits, metric, float_score[metric], score[metric], agreement,
                  sqnr_db(signal, noise), bundle.artifact_bytes, bundle.artifact_bytes / zoo.model(item).stat().st_size,
                  len(bundle.report["float_on_this_engine"]), seconds)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bits", type=int, default=8)
    options.add_argument("--targets", default="onnxruntime,tflite,coreml")
    options.add_argument("--items", default=",".join(SIX))
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for item in chosen.items.split(","):
            found += rows(zoo, item, chosen.targets.split(","), chosen.bits, Path(folder))
    report(found, f"{chosen.bits} bits, at most 100 calibration samples", chosen.json)


if __name__ == "__main__":
    main()
