"""Where the network that the passes prepare differs from its source as onnxruntime runs it.

    python benchmarks/passes.py [--json FILE]

ONNX's node tests, and the real models on their first samples. What onnxruntime cannot run has nothing to be compared
with, and is counted. A row for each model below 100 dB; exit code 1 where one is below what verification allows.
"""
from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import open_zoo, padded, parser, report, shapes
from coverage import cases, frozen

from edgeq import policy
from edgeq.errors import EdgeqError, ModelError
from edgeq.frontends import load_source
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq.verification.compare import compare

SHOWN_DB = 100.0


@dataclass(frozen=True)
class Row:
    """sqnr_db: of the worst output of the prepared network, against the source in onnxruntime."""

    model: str
    sqnr_db: float


def compared(name: str, source: Path | onnx.ModelProto, feeds: list[dict[str, Any]], inputs: dict[str, Any],
             ) -> Row | str:
    """-> the row, or the reason why there is none."""
    try:
        network, reference = load_source(source, inputs=inputs, open_sizes=True, exact=True)
        canonicalize(network)
    except EdgeqError:
        return "refused by edgeq"
    if reference is None:
        return "too large"
    try:
        expected = reference.run(feeds)
    except ModelError:
        return "onnxruntime cannot run it"
    return Row(name, min((found.sqnr_db for found in compare(expected, list(run_onnx(network, feeds)))), default=200.0))


def node_tests() -> Iterator[tuple[str, onnx.ModelProto, list[dict[str, Any]], dict[str, Any]]]:
    for case in cases():
        try:
            model, feed, _ = frozen(case)
        except ValueError:  # a sequence or an optional
            continue
        yield case.name, model, [feed], {name: array.shape for name, array in feed.items()}


def real_models(models: Path) -> Iterator[tuple[str, Path, list[dict[str, Any]], dict[str, Any]]]:
    if models.is_dir():
        zoo = open_zoo(models)
        for item in zoo.ids:
            feeds = [dict(padded(item, feed)) for feed in islice(zoo.feeds(item, "calib"), 4)]
            yield item, zoo.model(item), feeds, shapes(zoo, item)


def main() -> None:
    chosen = parser(__doc__).parse_args()
    np.seterr(all="ignore")
    rows, reasons = [], dict[str, int]()
    for row in (compared(*case) for source in (node_tests(), real_models(chosen.models)) for case in source):
        if isinstance(row, str):
            reasons[row] = reasons.get(row, 0) + 1
        else:
            rows.append(row)
    shown = sorted((row for row in rows if row.sqnr_db < SHOWN_DB), key=lambda row: row.sqnr_db)
    report(shown or [Row("none", 200.0)], f"{len(rows)} compared, {len(shown)} below {SHOWN_DB:.0f} dB; not compared: "
           f"{reasons}", chosen.json)
    sys.exit(any(row.sqnr_db < policy.PASSES_DB.value for row in rows))


if __name__ == "__main__":
    main()
