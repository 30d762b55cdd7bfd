"""One page over all targets of a conversion."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgeq.bundle.folder import PAGE_NAME
from edgeq.report.console import share, size
from edgeq.report.facts import latency_sentence
from edgeq.report.language import is_language, sentences
from edgeq.report.page import document, section, table
from edgeq.report.plots import COLORS
from edgeq.report.verdict import decibels, remedies, verdict


def write_overview(page: Path, rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> None:
    """rows: as of report.json with the bundle's `path` and `bytes`. failed: why other targets have no bundle."""
    title = escape(f"{rows[0]['name']} for {', '.join([*(row['target'] for row in rows), *failed])}")
    largest = max(row["bytes"] for row in rows)
    cells = [_row(page.parent, row, largest) for row in rows]
    cells += [(escape(target), _colored("Broken", "no bundle"), *("-",) * 5) for target in failed]
    said = [f"<li><b>{escape(row['target'])}</b>: {escape('; '.join(_sentences(row)))}.</li>" for row in rows]
    said += [f"<li><b>{escape(target)}</b>: {escape(reason)}</li>" for target, reason in failed.items()]
    source = rows[0].get("source_bytes")
    origin = f"The source model has {size(source)}. " if source else ""
    above = f'<p class="note">{origin}A target\'s name leads to its own report.</p>'
    told = [k for k in range(len(_COLUMNS)) if any(row[k] != "-" for row in cells)]
    shown = table([_COLUMNS[k] for k in told], [[row[k] for k in told] for row in cells])
    page.write_text(document(title, [above, shown, section("In words", f"<ul>{''.join(said)}</ul>")]),
                    encoding="utf-8")


_COLUMNS = ("target", "verdict", ">to the float model", ">same best class", "size", ">of source", ">one call here")


def _row(folder: Path, row: Mapping[str, Any], largest: int) -> tuple[str, ...]:
    there = (Path(row["path"]).relative_to(folder) / PAGE_NAME).as_posix()
    source, found, timed = row.get("source_bytes"), row.get("verification"), row.get("latency") or {}
    said = None if found is None else verdict(found)
    milliseconds = timed.get("p50_ms")
    return (f'<a href="{quote(there)}">{escape(row["target"])}</a>',
            *(("-",) * 3 if said is None else (_colored(said.word, said.word), decibels(said.sqnr_db),
                                               share(said.top1))),
            f'<span class="bar" style="--part: {100 * row["bytes"] / largest:.1f}%">{size(row["bytes"])}</span>',
            f"{row['bytes'] / source:.3f}" if source else "-",
            "-" if milliseconds is None else f"{milliseconds:.3g} ms")


def _colored(word: str, text: str) -> str:
    return f'<b style="color: {COLORS[word]}">{text}</b>'


def _sentences(row: Mapping[str, Any]) -> Iterator[str]:
    if is_language(row):
        yield from sentences(row)
        return
    found = row["verification"]
    yield "not verified" if found is None else verdict(found).sentence
    if found is not None and not verdict(found).is_good:
        yield f"what helps: {', or '.join(remedies(row))}"
    if row.get("latency"):
        yield latency_sentence(row["latency"])
