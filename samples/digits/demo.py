"""Convert digits.onnx for three engines at 8 and 4 bits, then score every bundle as a device would, with edgeq_runtime.

    python samples/digits/demo.py

Exits with 1 when a bundle loses more accuracy than LIMIT allows.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.progress import track
from rich.table import Table

import edgeq
import edgeq_runtime
from edgeq_runtime.benchmark import benchmark

HERE = Path(__file__).parent
MODEL = HERE / "digits.onnx"
BUNDLES = HERE / "bundles"
TARGETS = "onnxruntime", "tflite", "coreml"
LIMIT = {8: 1.0, 4: 3.0}  # bits -> points of accuracy that may be lost
RUNS = 200


@dataclass(frozen=True)
class Row:
    """accuracy in percent; agreement: percent of the images where the float model's answer is given."""

    target: str
    bits: int
    accuracy: float
    agreement: float
    bytes: int
    latency_ms: float | None
    engine: str


def answers(run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], images: np.ndarray) -> np.ndarray:
    """images [N,1,8,8] -> digits [N], one image at a time."""
    return np.array([run({"image": image[None]})["logits"].argmax() for image in images])


def score_float(images: np.ndarray, labels: np.ndarray) -> tuple[Row, np.ndarray]:
    """The model as it was trained, on onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    found = answers(lambda feed: {"logits": session.run(["logits"], feed)[0]}, images)
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        session.run(["logits"], {"image": images[:1]})
        times.append(1e3 * (time.perf_counter() - start))
    row = Row("float", 32, percent(found == labels), 100.0, MODEL.stat().st_size, float(np.median(times)),
              f"onnxruntime {onnxruntime.__version__}")
    return row, found


def score_bundle(
    target: str, bits: int, images: np.ndarray, labels: np.ndarray, reference: np.ndarray, folder: Path = BUNDLES,
) -> Row:
    """Convert, load, run. Off Apple's systems edgeq's interpreter computes Core ML bundles: no latency then."""
    bundle = edgeq.convert(MODEL, target=target, bits=bits, calibration=HERE / "calibration.npz", force=True,
                           output=folder / f"digits.{target}.int{bits}.edgeq")
    with edgeq_runtime.load(bundle.path, threads=1) as model:
        found = answers(model.run, images)
        real = "interpreter" not in model.accelerator
        latency_ms = benchmark(model, RUNS).p50_ms if real else None
        return Row(target, bits, percent(found == labels), percent(found == reference), bundle.artifact_bytes,
                   latency_ms, model.engine)


def percent(right: np.ndarray) -> float:
    return 100 * float(right.mean())


def table(rows: list[Row], count: int) -> Table:
    engines = sorted({f"{row.target}: {row.engine}" for row in rows})
    shown = Table(title=f"{count} test images, one at a time, one thread", caption="\n".join(engines))
    for name in ("target", "bits", "accuracy", "like float", "bytes", "of float", "latency"):
        shown.add_column(name, justify="left" if name == "target" else "right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row.target, str(row.bits), f"{row.accuracy:.2f} %", f"{row.agreement:.2f} %", f"{row.bytes:,}",
            f"{row.bytes / rows[0].bytes:.2f}", f"{row.latency_ms:.3f} ms" if row.latency_ms else "-")
    return shown


def main() -> int:
    test = np.load(HERE / "test.npz")
    images, labels = test["image"], test["label"]
    first, reference = score_float(images, labels)
    jobs = [(target, bits) for bits in LIMIT for target in TARGETS]
    rows = [first, *(score_bundle(target, bits, images, labels, reference)
                     for target, bits in track(jobs, "converting and scoring", console=Console(stderr=True)))]
    console = Console()
    console.print(table(rows, len(labels)))
    lost = [row for row in rows[1:] if first.accuracy - row.accuracy > LIMIT[row.bits]]
    for row in lost:
        console.print(f"{row.target} at {row.bits} bits loses {first.accuracy - row.accuracy:.2f} points")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
