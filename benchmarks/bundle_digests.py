"""Whether a change of edgeq changes what it writes: the sha256 of every artifact of the real models, kept and compared.

    python benchmarks/bundle_digests.py --json before.json        # at the commit before
    python benchmarks/bundle_digests.py --json after.json --against before.json

Ten models at 8 and 4 bits for four targets, default options, the first 32 calibration samples. Exit code 1 where an
artifact differs.
"""
from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from common import open_zoo, padded, parser, report, shapes

from edgeq.errors import EdgeqError

SAMPLES = 32
TOGETHER = (("onnxruntime", "tflite", "coreml"), ("tensorrt",))


@dataclass(frozen=True)
class Row:
    """sha256: over the names and bytes of the artifact's files, without manifest and report; or the refusal."""

    model: str
    bits: int
    target: str
    sha256: str


def rows(zoo: Any, item: str, bits: int) -> Iterator[Row]:
    from edgeq.conversion.pipeline import Options, convert_all

    feeds = [padded(item, feed) for feed in islice(zoo.feeds(item, "calib"), SAMPLES)]
    options = Options(bits=bits, calibration=feeds, inputs=shapes(zoo, item), verify=False)
    for targets in TOGETHER:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = convert_all(zoo.model(item), targets, options, Path(folder) / "bundles" / "one")
            except EdgeqError as error:
                yield from (Row(item, bits, name, str(error)) for name in targets)
                continue
            yield from (Row(item, bits, bundle.manifest.target, digest(bundle.path)) for bundle in found)


def digest(bundle: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(bundle.rglob("*")):
        if path.is_file() and path.name not in ("manifest.json", "report.json", "report.html", "selftest.npz"):
            found.update(path.relative_to(bundle).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def main() -> None:
    import json

    options = parser(__doc__)
    options.add_argument("--items", help="all by default")
    options.add_argument("--against", type=Path, help="the JSON of an earlier run")
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    found = [row for item in (chosen.items.split(",") if chosen.items else zoo.ids) for bits in (8, 4)
             for row in rows(zoo, item, bits)]
    report(found, f"artifacts, {SAMPLES} calibration samples", chosen.json)
    if chosen.against is not None:
        known = {(row["model"], row["bits"], row["target"]): row["sha256"]
                 for row in json.loads(chosen.against.read_text())["rows"]}
        changed = [row for row in found if known.get((row.model, row.bits, row.target)) != row.sha256]
        print(f"{len(found) - len(changed)} of {len(found)} artifacts are the same bytes as before",
              *(f"changed: {row.model} {row.bits} bits {row.target}" for row in changed), sep="\n")
        sys.exit(bool(changed))


if __name__ == "__main__":
    main()
