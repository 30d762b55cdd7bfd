"""The whole of a sweep: read, run, and write one table and one page."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.errors import BundleError
from edgeq.progress import Progress
from edgeq.report.sweep import pareto, sweep_page
from edgeq.sweeps.cluster import run_cells
from edgeq.sweeps.grid import read_grid


def run_sweep(path: str | Path, scheduler: str | None, workers: int, output: Path | None, progress: Progress,
              ) -> list[dict[str, Any]]:
    """A row for each cell, in the order of the file. output: a folder for sweep.json and sweep.html.

    Raises:
        EdgeqError: see `read_grid` and `run_cells`. A conversion that is refused is a row that says why.
    """
    cells = read_grid(path)
    rows = run_cells(cells, scheduler, workers, lambda count: progress("sweeping", count, len(cells)))
    best = pareto(rows)
    found = [row | {"best": row["number"] in best} for row in rows]
    if output is not None:
        _write(output, found, Path(path).stem)
    return found


def _write(folder: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sweep.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        (folder / "sweep.html").write_text(sweep_page(rows, title), encoding="utf-8")
    except OSError as error:
        raise BundleError(f"cannot write {folder}: {error.strerror}") from error
