"""What boards found, as text for people; every function takes the plain data that `--json` prints."""
from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from edgeq.report.console import console, print_rows, size, table
from edgeq_runtime.selftest import Difference

EMULATION_NOTE: Final = "* emulated: what it computes counts, how long it takes means nothing"
OLD_DAYS: Final = 30  # onnxruntime and LiteRT bring out a release every month or two


class Progress:
    """A line for each board with what happens there now."""

    def __init__(self, names: Sequence[str]):
        self._states = dict.fromkeys(names, "")

    def __call__(self, board: str, what: str) -> None:
        self._states[board] = what

    def __rich__(self) -> Table:
        found = table("", "")
        found.columns[0].overflow, found.columns[1].no_wrap = "ellipsis", True  # a name gives way to what happens
        for name, state in self._states.items():
            found.add_row(name, state)
        return found


@contextmanager
def live_table(names: Sequence[str]) -> Iterator[Progress]:
    """Shown on stderr while boards work; silent when that is not a terminal."""
    progress = Progress(names)
    if not sys.stderr.isatty():
        yield progress
        return
    with Live(get_renderable=progress.__rich__, console=Console(stderr=True), transient=True):
        yield progress


def test_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line for each board, then what failed."""
    found = table("board", "cpu", "python", "engine", "self-test", ">largest error", ">pushed", ">seconds")
    for row in rows:
        found.add_row(_name(row), *_machine(row), row.get("engine") or "-", *_verdict(row),
                      size(row["pushed_bytes"]) if "pushed_bytes" in row else "-", _seconds(row))
    _print(found, rows)


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line for each board: latency in milliseconds, memory."""
    found = table("board", "cpu", "engine", "accelerator", ">first ms", ">p50 ms", ">p90 ms", ">p99 ms", ">peak memory")
    for row in rows:
        times = row.get("benchmark")
        shown = (f"{times[key]:.2f}" for key in ("first_ms", "p50_ms", "p90_ms", "p99_ms")) if times else "----"
        found.add_row(_name(row), _machine(row)[0], row.get("engine") or "-", row.get("accelerator") or "-", *shown,
                      size(times["peak_rss_bytes"]) if times else "-")
    _print(found, rows)


def board_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """The user's boards, then those that can be emulated."""
    out = console()
    found = table("board", "address", "")
    for row in rows:
        found.add_row(row["board"], row["address"], row["note"])
    print_rows(out, found)


def forgotten(rows: Sequence[Mapping[str, Any]]) -> None:
    """What `edgeq board refresh` removed."""
    out = console()
    for row in rows:
        out.print(f"forgot {row['kind']}: {row['entries']}, {size(row['bytes'])}, the oldest of "
                  f"{row['oldest_days']} days ago", soft_wrap=True)
    if not rows:
        out.print("nothing was fetched yet")


def board_facts(found: Mapping[str, Any]) -> None:
    """What one board is."""
    rows = table("", "")
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    for name, value in (("model", found["model"]), ("cpu", f"{found['cpus']} x {found['core']}"),
                        ("features", " ".join(found["features"])), ("memory", size(found["memory_bytes"])),
                        ("python", f"{found['python']} ({found['tag']}) on {found['machine']}"),
                        ("libc", found["libc"]), ("engines", packages or "none; edgeq brings its own"),
                        ("folder", f"{found['root']}, {size(found['free_bytes'])} free")):
        rows.add_row(name, value or "-")
    console().print(rows)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['board']}{'*' if row['emulated'] else ''}"


def _machine(row: Mapping[str, Any]) -> tuple[str, str]:
    facts = row.get("facts")
    return (facts["model"] or facts["core"], facts["python"]) if facts else ("-", "-")


def _verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    result = row.get("self_test")
    if row.get("error") or result is None:
        return "ERROR", "-"
    status = result["status"]
    return status.upper() if status == "fail" else status, f"{max(result['largest_error'].values()):.3g}"


def _seconds(row: Mapping[str, Any]) -> str:
    return f"{sum(row['seconds'].values()):.1f}" if "seconds" in row else "-"


def _print(found: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    out = console()
    print_rows(out, found)
    if any(row["emulated"] for row in rows):
        out.print(EMULATION_NOTE)
    for row in rows:
        for reason in _reasons(row):
            out.print(f"{row['board']}: {reason}", soft_wrap=not out.is_terminal)


def _reasons(row: Mapping[str, Any]) -> Iterator[str]:
    """Why a board's result is not bit for bit what was promised, or not of today."""
    if row.get("error"):
        yield row["error"]
    if (row.get("engine_age_days") or 0) > OLD_DAYS:
        yield (f"{row['engine']} was the newest {row['engine_age_days']} days ago; `edgeq board refresh` lets the next "
               "run look again")
    result = row.get("self_test") or {}
    if result.get("difference"):
        yield str(Difference(**result["difference"]))
    elif result.get("status") == "within tolerance":
        yield f"within tolerance: {result['tolerance']['source']}"
