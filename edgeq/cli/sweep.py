"""edgeq sweep."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeq.cli.shared import common, print_result, progress_bar


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--scheduler", metavar="tcp://HOST:8786",
              help="A Dask scheduler whose workers do the work; without, processes of this machine.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True,
              help="Processes of this machine, with one core each.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path),
              help="A folder for sweep.json and sweep.html.")
@common
def sweep(file: Path, as_json: bool, **words: Any) -> None:
    """Convert a grid of models, targets, bits and methods; show which are worth it.

    FILE is TOML: tables [model.NAME] with a path, [common] with words of `edgeq convert`, [grid] with lists of values.
    """
    import edgeq
    from edgeq.report.sweep import sweep_table

    with progress_bar() as progress:
        rows = edgeq.sweep(file, progress=progress, **words)
    print_result(rows, as_json, lambda: sweep_table(rows))
