"""Where a conversion writes to."""
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def output_path(name: str, target: str, output: str | Path | None, *, alone: bool) -> Path:
    """`<name>.<target>.edgeq` in the current folder; with several targets, -o names the folder of the bundles."""
    if output is not None and alone:
        return Path(output)
    return Path(output or ".") / f"{name}.{target}.edgeq"


@contextmanager
def destination(output: str | Path | None, *, dry_run: bool) -> Iterator[str | Path | None]:
    """What -o names; in a dry run a folder that vanishes."""
    if not dry_run:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        yield Path(folder) / "dry-run"
