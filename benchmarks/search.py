"""The search over bits on real models: the smallest bundle that keeps a score, and a demand that nothing can meet.

    python benchmarks/search.py [--targets onnxruntime,tflite] [--items fsrcnn_x2,coco_fastestdet] [--json FILE]

The score is the model's own scorer, given to `--eval` as a function. `met` False is exit code 3 on the command line.
Above the table: the bits of each layer's weights, a * where the layer computes in float, and every assignment
that was tried.
"""
from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import open_zoo, parser, report, shapes

from edgeq.bundle.folder import Bundle
from edgeq.conversion.pipeline import Options, convert_all

# (model, score of the zoo, its scale: points of 100 for shares, demand)
CASES: tuple[tuple[str, str, float, dict[str, Any]], ...] = (
    ("fsrcnn_x2", "psnr", 1.0, {"max_drop": 0.15}),
    ("fsrcnn_x2", "psnr", 1.0, {"max_drop": -1.0}),
    ("coco_fastestdet", "map50", 100.0, {"max_drop": 1.0}),
    ("coco_fastestdet", "map50", 100.0, {"max_bytes": "350kB"}),
)


@dataclass(frozen=True)
class Row:
    """float_score, score, allowed: in points of 100, or dB. trials: how many were scored. seconds: of
    everything."""

    model: str
    demand: str
    target: str
    float_score: float
    allowed: float | None
    score: float
    met: bool
    artifact_bytes: int
    float_bytes: int
    float_share: float
    trials: int
    seconds: float


def scorer(zoo: Any, item: str, name: str, scale: float) -> Callable[[Any], float]:
    def score(predict: Any) -> float:
        return scale * float(zoo.score(item, lambda feed: list(predict(feed).values()))[name])

    return score


def convert(zoo: Any, item: str, name: str, scale: float, demand: dict[str, Any], targets: list[str], folder: Path,
            ) -> Iterator[tuple[Row, Bundle]]:
    options = Options(calibration=list(zoo.feeds(item, "calib", 100)), inputs=shapes(zoo, item),
                      eval=scorer(zoo, item, name, scale), force=True, **demand)
    started = time.perf_counter()
    bundles = convert_all(zoo.model(item), targets, options, folder / item)
    seconds = time.perf_counter() - started
    for bundle in bundles:
        found, search = bundle.report["evaluation"], bundle.report["mixed_precision"]
        yield Row(item, " ".join(f"{key} {value}" for key, value in demand.items()), bundle.manifest.target,
                  found["float_score"], found["worst_score_allowed"], found["score"], found["met"],
                  bundle.artifact_bytes, zoo.model(item).stat().st_size, search["float_share"],
                  len(search["measured"][0]["trials"]), seconds), bundle


def show(row: Row, bundle: Bundle) -> None:
    search = bundle.report["mixed_precision"]
    bits = " ".join(f"{layer['node']}:{layer['weight_bits']}{'*' if layer['float'] else ''}"
                    for layer in search["layers"])
    print(f"{row.model}, {row.demand}: {bits}")
    for point in sorted(search["measured"][0]["trials"], key=lambda point: point["bytes"]):
        print(f"  {point['bytes']:8d} bytes {point['score']:8.3f}  {point['float_share']:.3f} in float"
              f"{'  <- chosen' if point['chosen'] else ''}", flush=True)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--targets", default="onnxruntime,tflite")
    options.add_argument("--items", default=",".join(dict.fromkeys(case[0] for case in CASES)))
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for item, name, scale, demand in CASES:
            if item in chosen.items.split(","):
                found = list(convert(zoo, item, name, scale, demand, chosen.targets.split(","), Path(folder)))
                show(*found[0])
                rows += [row for row, _ in found]
    report(rows, "search over bits, at most 100 calibration samples", chosen.json)


if __name__ == "__main__":
    main()
