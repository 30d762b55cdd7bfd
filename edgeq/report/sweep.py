"""The table and the page of a sweep."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, Final

from edgeq.report import page
from edgeq.report.console import console, print_rows, size, table
from edgeq.report.plots import COLORS
from edgeq.report.svg import Panel, drawing

Row = Mapping[str, Any]
# What a row holds beside the words of the grid.
_FIGURES: Final = (
    "number", "model", "bytes", "sqnr_db", "metric", "score", "higher_is_better", "sha256", "error", "best")


def pareto(rows: Sequence[Row]) -> set[int]:
    """Numbers of the rows of which no other of the same model is smaller and as good, or better and as small."""
    done = [row for row in rows if quality(row) is not None]
    return {row["number"] for row in done if not any(_beats(other, row) for other in done)}


def quality(row: Row) -> float | None:
    """What is better when larger: the metric's score, else the SQNR in dB; None where nothing was measured."""
    if row.get("score") is None:
        found: float | None = row.get("sqnr_db")
        return found
    return float(row["score"]) if row["higher_is_better"] else -float(row["score"])


def _beats(other: Row, row: Row) -> bool:
    theirs, ours = (other["bytes"], -quality(other)), (row["bytes"], -quality(row))  # type: ignore[operator]
    return bool(other["model"] == row["model"] and theirs != ours and theirs[0] <= ours[0] and theirs[1] <= ours[1])


def sweep_table(rows: Sequence[Row]) -> None:
    columns, cells = _cells(rows)
    found = table(*columns)
    for line in cells:
        found.add_row(*line)
    print_rows(console(), found)


def sweep_page(rows: Sequence[Row], title: str) -> str:
    """HTML: for each model a drawing of quality over bytes, and the table."""
    columns, cells = _cells(rows)
    drawings = [_drawing(model, [row for row in rows if row["model"] == model and quality(row) is not None])
                for model in dict.fromkeys(row["model"] for row in rows)]
    return page.document(escape(title), [
        *drawings, page.table(columns, [[escape(cell) for cell in line] for line in cells]),
        '<p class="note">* of its model, none is both smaller and better.</p>'])


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    varied = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in _FIGURES]
    scored = any("score" in row for row in rows)
    columns = ["", "model", *varied, ">bytes", ">dB", *([">score"] if scored else []), "refused"]
    return columns, [[
        f"{row['number']}{'*' if row.get('best') else ''}", row["model"], *(str(row.get(name, "")) for name in varied),
        size(row.get("bytes")), _number(row.get("sqnr_db")), *([_number(row.get("score"))] if scored else []),
        row.get("error", "").partition("\n")[0]] for row in rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _drawing(model: str, rows: Sequence[Row]) -> str:
    if not rows:
        return f"<p>{escape(model)}: nothing was measured</p>"
    across, up = [row["bytes"] / 1000 for row in rows], [_shown(row) for row in rows]
    panel = Panel(60, 30, 560, 260, (0.0, 1.05 * max(across)), _ends(up))
    panel.axes("kB", rows[0].get("metric", "dB SQNR"), title=model)
    front = sorted((x, y) for x, y, row in zip(across, up, rows, strict=True) if row.get("best"))
    for first, second in pairwise(front):
        panel.line(first, second, COLORS["Good"])
    for x, y, row in zip(across, up, rows, strict=True):
        panel.dot(x, y, 4, COLORS["Good"] if row.get("best") else "gray")
        panel.note(x, y, str(row["number"]), "currentColor", "start")
    return f"<section>{drawing(660, 340, [panel])}</section>"


def _shown(row: Row) -> float:
    value: float = row["sqnr_db"] if row.get("score") is None else row["score"]
    return value


def _ends(values: Sequence[float]) -> tuple[float, float]:
    room = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room
