"""How large is an environment with edgeq, and how long does pip take?

    python benchmarks/install_size.py [--extra tflite] [--json FILE]
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, parser, report

LIMIT_MB = {"tflite": 400}


@dataclass(frozen=True)
class Row:
    """megabytes: 10^6 bytes of all files, with pip's own."""

    extra: str
    megabytes: float
    seconds: float


def measured(extra: str) -> Row:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        began = time.perf_counter()
        subprocess.run([Path(place) / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check", "install",
                        f"{ROOT}[{extra}]" if extra else ROOT], check=True)
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file() and not path.is_symlink())
    return Row(extra or "none", round(size / 1e6, 1), round(seconds, 1))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--extra", action="append")
    arguments = options.parse_args()
    rows = [measured(extra) for extra in arguments.extra or ["", "tflite"]]
    report(rows, "Environments", arguments.json)
    if any(row.megabytes > LIMIT_MB.get(row.extra, row.megabytes) for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
