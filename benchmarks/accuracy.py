"""What quantization costs the user's metric: every real model, float, onnxruntime's quantize_static, and edgeq.

    python benchmarks/accuracy.py [--bits 8,4] [--only ITEM,...] [--targets onnxruntime,tflite,coreml] [--samples N]
                                  [--methods nearest,auto] [--json FILE]

Everything sees the same at most 100 calibration samples, and is scored on the same evaluation samples (--samples: at
most so many, for a quick look). quantize_static quantizes per channel, min-max, QDQ, and runs on onnxruntime. edgeq's
bundles are run by edgeq_runtime, Core ML's by the interpreter. Sequences of many lengths are padded to the longest. At
4 bits the language model keeps float activations, as published quantizations of such models do. A row that has no score
says why. seconds: to convert for all targets, without verification.
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
from common import open_zoo, padded, parser, report, shapes
from zoo import METRICS, Recorder

import edgeq_runtime
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.errors import EdgeqError

LANGUAGE = "lm_stories260k"


@dataclass(frozen=True)
class Row:
    """agreement: share of samples whose largest output is the float model's. of_float: bytes, to those of the model."""

    model: str
    bits: int
    quantizer: str
    target: str
    metric: str
    score: float | None
    agreement: float | None
    of_float: float | None
    seconds: float | None
    note: str = ""


class Bench:
    """One model, scored in float once."""

    def __init__(self, zoo: Any, item: str):
        self.zoo, self.item, self.model = zoo, item, zoo.model(item)
        self.calibration = [padded(item, feed) for feed in zoo.feeds(item, "calib", 100)]
        self.expected: list[Any] = []
        self.float_score, _ = self.score(self._session(self.model))
        self.expected = self.seen

    def _session(self, path: Path) -> Any:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda feed: session.run(None, feed)

    def score(self, predict: Any) -> tuple[float, float]:
        """(the metric, of the worst output where each has one; agreement with float)."""
        recorder = Recorder(self.item, lambda feed: predict(padded(self.item, feed)))
        found = self.zoo.score(self.item, recorder)
        self.seen = [outputs["0"].argmax(-1) for outputs in recorder.seen]
        self.metric = next(name for name in METRICS if name in found)
        agreement = [np.mean(a == b) for a, b in zip(self.expected or self.seen, self.seen, strict=True)]
        return float(np.min(found[self.metric])), float(np.mean(agreement))

    def row(self, bits: int, quantizer: str, target: str, predict: Any, size: int, seconds: float | None) -> Row:
        score, agreement = self.score(predict)
        return Row(self.item, bits, quantizer, target, self.metric, score, agreement,
                   size / self.model.stat().st_size, seconds)

    def static(self, bits: int, folder: Path) -> Row:
        """onnxruntime's own quantizer."""
        path, started = folder / f"static{bits}.onnx", time.perf_counter()
        try:
            quantize_static(self.model, path, self.calibration, bits)
            seconds = time.perf_counter() - started
            return self.row(bits, "quantize_static", "onnxruntime", self._session(path), path.stat().st_size, seconds)
        except Exception as error:  # it has no base class; whatever it is, it is the row's answer
            reason = str(error).strip().splitlines()[-1][:90]
            return Row(self.item, bits, "quantize_static", "onnxruntime", self.metric, None, None, None, None, reason)

    def edgeq(self, bits: int, method: str, targets: list[str], folder: Path) -> Iterator[Row]:
        activations = "float" if bits == 4 and self.item == LANGUAGE else "auto"
        options = Options(bits=bits, method=method, calibration=self.calibration, activations=activations,
                          inputs=shapes(self.zoo, self.item), verify=False)
        started = time.perf_counter()
        try:
            bundles = convert_all(self.model, targets, options, folder / f"{method}{bits}")
        except EdgeqError as error:
            yield Row(self.item, bits, method, ",".join(targets), self.metric, None, None, None, None, str(error)[:90])
            return
        seconds = time.perf_counter() - started
        for bundle in bundles:
            with edgeq_runtime.load(bundle.path) as model:
                yield self.row(bits, method, bundle.manifest.target, lambda feed, run=model.run: run(feed).values(),
                               bundle.artifact_bytes, seconds)


def quantize_static(model: Path, result: Path, samples: list[Any], bits: int) -> None:
    import contextlib
    import io
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(samples)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    logging.disable(logging.WARNING)
    prepared = result.with_suffix(".prepared.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize(prepared, result, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                 activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8 if bits == 8 else QuantType.QInt4)


def rows(bench: Bench, bits: list[int], methods: list[str], targets: list[str], folder: Path) -> Iterator[Row]:
    yield Row(bench.item, 32, "float", "onnxruntime", bench.metric, bench.float_score, 1.0, 1.0, None)
    for width in bits:
        yield bench.static(width, folder)
        for method in methods:
            yield from bench.edgeq(width, method, targets, folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bits", default="8,4")
    options.add_argument("--only", help="names of items, separated by commas")
    options.add_argument("--targets", default="onnxruntime,tflite,coreml")
    options.add_argument("--methods", default="nearest,auto")
    options.add_argument("--samples", type=int, help="score at most so many")
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    if chosen.samples is not None:
        every = zoo.samples
        zoo.samples = lambda item, split="eval": islice(every(item, split), chosen.samples)
    found: list[Row] = []
    for item in chosen.only.split(",") if chosen.only else zoo.ids:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Bench(zoo, item), [int(width) for width in chosen.bits.split(",")],
                            chosen.methods.split(","), chosen.targets.split(","), Path(folder)):
                print(" ", row, flush=True)
                found.append(row)
    report(found, "at most 100 calibration samples; scores on the evaluation samples", chosen.json)


if __name__ == "__main__":
    main()
