"""How everything is printed: tables that fit the terminal, bytes and shares."""
from __future__ import annotations

import sys
from typing import Any, Final

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from edgeq_runtime.errors import printable

PIPE_WIDTH: Final = 160  # a table that nobody's screen limits


class _Printable(Console):
    """Names come from files: what in them would steer a terminal is printed as numbers."""

    def render_str(self, text: str, **words: Any) -> Text:
        return super().render_str(printable(text), **words)


def console() -> Console:
    """stdout. Node names hold brackets, which are no markup."""
    return _Printable(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, highlight=False)


def table(*columns: str, title: str = "") -> Table:
    """An empty table; columns that start with > are numbers."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold",
                 show_header=any(column.removeprefix(">") for column in columns))
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left",
                        overflow="fold")
    return made


def print_rows(out: Console, found: Table) -> None:
    """A table, or a block for each of its rows where the terminal is narrower than its lines."""
    unlimited = out.options.update(max_width=PIPE_WIDTH)
    if Measurement.get(out, unlimited, found).maximum <= out.width:
        out.print(found)
        return
    names = [str(column.header) for column in found.columns]
    for first, *rest in zip(*(column.cells for column in found.columns), strict=True):
        block = table("", "")
        for name, cell in zip(names[1:], rest, strict=True):
            if cell != "-":
                block.add_row(f"  {name}", cell)
        out.print(first, style="bold")
        out.print(block)


def size(count: int | None) -> str:
    """Bytes in decimal units, three digits."""
    if count is None:
        return "-"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{f'{value:#.3g}'.rstrip('.')} {units[0]}" if units[0] != "B" else f"{count} B"


def share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
