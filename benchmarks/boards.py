"""The self-test of INT8 and INT4 bundles on every emulated board: what passes, what is refused and why, and the wait.

    python benchmarks/boards.py [--boards pi4,pi5,...] [--together] [--models FOLDER --items NAME,...] [--json FILE]

Without --items it converts the digits sample; with it, real models. Core ML is listed once, for its refusal. The first
run fetches qemu, Debian's packages and the engines (cold), the second finds all of them (warm). --together tests one
bundle on all boards at once, as `edgeq test` does, and prints the time for all.
"""
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, open_zoo, parser, report, shapes

from edgeq.boards.board import Board
from edgeq.boards.fleet import run_on_boards
from edgeq.boards.profiles import EMULATED
from edgeq.boards.runner import Found, Job
from edgeq.bundle.folder import Bundle
from edgeq.conversion.pipeline import Options, convert_all

TARGETS = ("onnxruntime", "tflite")


@dataclass(frozen=True)
class Row:
    """error: the largest of the self-test, in the unit of the output; None where nothing ran. seconds: wall clock."""

    model: str
    bits: int
    engine: str
    board: str
    result: str
    error: float | None
    seconds: float


def bundles(folder: Path, items: Sequence[str], models: Path) -> Iterator[tuple[str, int, Bundle]]:
    """(model, bits, bundle), INT8 and INT4 of each model and engine, and one for Core ML."""
    for model, source, options in sources(items, models):
        for bits in (8, 4):
            words = Options(bits=bits, method="nearest", **options)
            yield from ((model, bits, bundle)
                        for bundle in convert_all(source, TARGETS, words, folder / f"{model}{bits}"))
    yield "digits", 8, convert_all(ROOT / "samples/digits/digits.onnx", ["coreml"], Options(), folder / "coreml")[0]


def sources(items: Sequence[str], models: Path) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    if not items:
        sample = ROOT / "samples" / "digits"
        yield "digits", sample / "digits.onnx", {"calibration": str(sample / "calibration.npz")}
        return
    zoo = open_zoo(models)
    for item in items:
        yield item, zoo.model(item), {"calibration": list(zoo.feeds(item, "calib", 16)), "inputs": shapes(zoo, item)}


def rows(model: str, bits: int, bundle: Bundle, boards: Sequence[Board], together: bool) -> Iterator[Row]:
    for group in [boards] if together else [[board] for board in boards]:
        start = time.perf_counter()
        for outcome in run_on_boards(group, Job(bundle.path)):
            seconds = time.perf_counter() - start
            yield Row(model, bits, bundle.manifest.engine, outcome.board.name.partition(":")[2],
                      *told(outcome.found), seconds)


def told(found: Any) -> tuple[str, float | None]:
    if not isinstance(found, Found):
        return f"refused: {found}", None
    if found.self_test is None or found.error:
        return f"error: {found.error}", None
    return f"{found.self_test['status']}, {found.engine}", max(found.self_test["largest_error"].values())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--boards", default=",".join(EMULATED))
    options.add_argument("--items", default="")
    options.add_argument("--together", action="store_true")
    chosen = options.parse_args()
    boards = [Board(f"emulated:{name}", f"emulated:{name}") for name in chosen.boards.split(",")]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        items = [item for item in chosen.items.split(",") if item]
        for model, bits, bundle in bundles(Path(folder), items, chosen.models):
            found += rows(model, bits, bundle, boards[:1] if bundle.manifest.engine == "coreml" else boards,
                          chosen.together)
    report(found, "Self-tests on emulated boards; their times say nothing about the boards", chosen.json)


if __name__ == "__main__":
    main()
