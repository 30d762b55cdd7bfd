"""NVIDIA's own parser and builder on what `--target tensorrt` writes of every real model: built, or refused and why.

    python benchmarks/tensorrt_build.py [--items A,B] [--cache FOLDER] [--json FILE]

No GPU is needed: TensorRT for RTX, from the package index (x86-64, 90 MB), builds ahead of time. It is not the TensorRT
of a Jetson, though both read networks through the same parser and graph compiler: this finds what is built nowhere, and
proves nothing of speed, nor of what Jetson's kernels alone lack. At 8 bits activations are INT8 too; at 4 bits they are
float, with which alone INT4 is multiplied.
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from common import ROOT, environment_of, open_zoo, padded, parser, report, shapes

from edgeq import convert
from edgeq.errors import EdgeqError

PACKAGES: Final = ("tensorrt-rtx-cu12-libs==1.7.1.116", "tensorrt-rtx-cu12-bindings==1.7.1.116")
CACHE: Final = ROOT / "build" / "tensorrt"
BUILDER: Final = Path(__file__).with_name("tensorrt_builder.py")
BITS: Final = (16, 8, 4)
SAMPLES: Final = 8  # ranges decide nothing about what can be built, but for a scale that float16 cannot hold


@dataclass(frozen=True)
class Row:
    """Each "built", or why not."""

    model: str
    bits_16: str
    bits_8: str
    bits_4: str

    @property
    def good(self) -> bool:
        return {self.bits_16, self.bits_8, self.bits_4} == {"built"}


def has_tensorrt(cache: Path) -> Path:
    """The Python that has TensorRT's packages.

    Raises:
        SystemExit: they cannot be had here.
    """
    try:
        return environment_of(sys.executable, PACKAGES, cache)
    except subprocess.CalledProcessError as error:
        why = ((error.stderr or "").strip().splitlines() or [str(error)])[-1]
        raise SystemExit(f"{' and '.join(PACKAGES)} cannot be had here: {why}") from None


def built(python: Path, model: Path) -> str:
    done = subprocess.run([python, "-I", BUILDER, model], capture_output=True, text=True, check=False)
    return done.stdout.strip() or f"exit code {done.returncode}: {done.stderr.strip()[-200:]}"


def measure(zoo: Any, items: Sequence[str], python: Path) -> Iterator[Row]:
    for item in items:
        with tempfile.TemporaryDirectory() as folder:
            yield Row(item, *(_result(zoo, item, bits, python, Path(folder)) for bits in BITS))


def _result(zoo: Any, item: str, bits: int, python: Path, folder: Path) -> str:
    feeds = [padded(item, feed) for feed in islice(zoo.feeds(item, "calib"), SAMPLES)]
    words: Mapping[str, Any] = {"calibration": feeds} if bits == 8 else {}
    try:
        bundle = convert(zoo.model(item), target="tensorrt", bits=bits, inputs=shapes(zoo, item), verify=False,
                         output=folder / str(bits), **words)
    except EdgeqError as error:
        return f"not converted: {error}"
    return built(python, bundle.path / bundle.manifest.entry)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", help="all by default")
    options.add_argument("--cache", type=Path, default=CACHE, help="where the environment is kept")
    chosen = options.parse_args()
    chosen.cache.mkdir(parents=True, exist_ok=True)
    python, zoo = has_tensorrt(chosen.cache), open_zoo(chosen.models)
    rows = list(measure(zoo, chosen.items.split(",") if chosen.items else zoo.ids, python))
    report(rows, f"{PACKAGES[0]}: built without a GPU, and not by a Jetson's TensorRT", chosen.json)
    if not all(row.good for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
