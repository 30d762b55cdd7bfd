"""How much faster two workers of `edgeq sweep` are than one, and whether their tables are the same bit for bit.

    python benchmarks/sweep.py --repeat 2

A grid of 12: ResNet-20 on ONNX Runtime and TFLite, 8 and 4 bits, three methods. Wall time of everything, the start of
the workers included; wants a machine with two free cores.
"""
from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, report

from edgeq.sweeps.cluster import run_cells
from edgeq.sweeps.grid import read_grid

GRID = """
[common]
calibration = "samples.npy"
[model.resnet20]
path = "{model}"
[grid]
target = ["onnxruntime", "tflite"]
bits = [8, 4]
method = ["gptq", "gptq+refit", "auto"]
"""


@dataclass(frozen=True, slots=True)
class Row:
    workers: int
    seconds: float
    ratio: float
    same_table: bool


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeat", type=int, default=1)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = np.load(given.models / "cifar10/data.npz")
        pictures = data["x"][data["calib"][:64]].transpose(0, 3, 1, 2).astype(np.float32) / 255
        np.save(Path(folder) / "samples.npy", (pictures - 0.45) / 0.25)
        file = Path(folder) / "sweep.toml"
        file.write_text(GRID.format(model=(given.models / "cifar10_resnet20/model.onnx").resolve()))
        runs = {workers: [timed(file, workers) for _ in range(given.repeat)] for workers in (1, 2)}
    best = {workers: min(seconds for seconds, _ in found) for workers, found in runs.items()}
    tables = [table for found in runs.values() for _, table in found]
    report([Row(workers, seconds, best[1] / seconds, all(table == tables[0] for table in tables))
            for workers, seconds in best.items()], "12 conversions of ResNet-20", given.json)


def timed(file: Path, workers: int) -> tuple[float, list[dict[str, Any]]]:
    begun = time.perf_counter()
    table = run_cells(read_grid(file), None, workers, lambda count: None)
    return time.perf_counter() - begun, table


if __name__ == "__main__":
    main()
