"""What the pages share: one file that needs no network, on a phone as on a desk, in the light as in the dark."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2530; --soft: #566; --box: #f0f3f6; --rule: #ccd;
  --bar: #cfdcec; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --ink: #dfe6ee; --soft: #9ab; --box: #222a33; --rule: #3a4654; --bar: #2c435c; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 62em;
  margin: 2em auto; padding: 0 1em; overflow-wrap: anywhere; }
h1 { font-size: 1.6em; margin-bottom: .3em; } h2 { font-size: 1.15em; margin: 1.8em 0 .4em; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .2em 1em .2em 0; text-align: left; vertical-align: top; overflow-wrap: normal; }
th { font-weight: 600; border-bottom: 1px solid var(--rule); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.verdict { border-left: .5em solid; padding: .6em 1em; background: var(--box); } .verdict p b { font-size: 1.15em; }
.verdict p, .verdict ul { margin: .2em 0; }
section { overflow-x: auto; } svg { max-width: 100%; min-width: 42em; height: auto; }
.bar { display: inline-block; min-width: 9em; padding: 0 .3em; background: linear-gradient(to right, var(--bar)
  var(--part), transparent var(--part)); }
pre { background: var(--box); padding: .6em .8em; overflow-x: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(max(9em, 30%), 1fr)); gap: 1em; }
figure { margin: 0; padding: .7em; border: 1px solid var(--rule); border-radius: .4em; min-width: 0; }
figure.changed { border: 2px solid #e69f00; } figcaption { color: var(--soft); font-size: .9em; }
figure table { display: table; table-layout: fixed; width: 100%; font-size: .9em; }
figure td { overflow-wrap: anywhere; } figure td span { color: var(--soft); }
.picture { position: relative; max-width: 13em; margin: auto; } .picture img { display: block; width: 100%; }
img.rough { image-rendering: pixelated; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; min-width: 0; }
.picture path { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; stroke: #ffd400; }
.picture .float { stroke: #fff; stroke-width: 4; stroke-dasharray: 6 4; }
.note { color: var(--soft); } code { background: var(--box); padding: 0 .25em; }
"""




def document(title: str, parts: Sequence[str]) -> str:
    """A whole page. title, parts: HTML already."""
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
            f'<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n'
            + "\n".join(parts) + "\n</body>\n</html>\n")


def section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}</section>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns that start with > are numbers; cells are HTML already."""
    classes = [' class="number"' if column.startswith(">") else "" for column in columns]

    def line(tag: str, cells: Sequence[str]) -> str:
        inner = "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(classes, cells, strict=True))
        return f"<tr>{inner}</tr>"

    head = line("th", [column.removeprefix(">") for column in columns]) if any(columns) else ""
    return f"<table>{head}{''.join(line('td', row) for row in rows)}</table>"
