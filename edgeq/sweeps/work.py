"""One cell of a sweep, wherever it runs: a conversion into a folder that vanishes, and what is kept of it."""
from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from edgeq.bundle.folder import Bundle
from edgeq.conversion.options import Options
from edgeq.conversion.pipeline import convert_all
from edgeq.errors import EdgeqError
from edgeq.sweeps.grid import Cell


def run_cell(cell: Cell) -> dict[str, Any]:
    """A row of the table, of numbers that do not depend on where and beside what the cell ran; where the conversion is
    refused, with the reason under "error".
    """
    row: dict[str, Any] = {"number": cell.number, "model": cell.model, **cell.varied}
    words = {word: value for word, value in cell.words.items() if word != "target"}
    try:
        with tempfile.TemporaryDirectory(prefix="edgeq-sweep-") as folder:
            bundle, = convert_all(cell.path, cell.words.get("target", ()), Options(**words), Path(folder) / "a.edgeq")
            return row | _figures(bundle)
    except EdgeqError as error:
        return row | {"error": str(error)}


def _figures(bundle: Bundle) -> dict[str, Any]:
    report = bundle.report
    verification, evaluation = report.get("verification"), report.get("evaluation")
    worst = None if verification is None else min(line["sqnr_db"] for line in verification["against_float"])
    entry = bundle.manifest.entry
    digests = "".join(file.sha256 for file in bundle.manifest.files if file.path.partition("/")[0] == entry)
    return {"bytes": bundle.artifact_bytes, "sqnr_db": worst,
            **({} if evaluation is None else {"metric": evaluation["metric"], "score": evaluation["score"],
                                              "higher_is_better": evaluation["higher_is_better"]}),
            "sha256": hashlib.sha256(digests.encode()).hexdigest()}
