"""How exactly the interpreter of edgeq.verification.mlpackage computes packages that Apple's own converter wrote.

    python benchmarks/coreml_interpreter.py [--only NAME]... [--json FILE]

Three tables: torch modules (float32 and float16 programs, against torch); schemes of coremltools.optimize (weights
against coremltools' decompress_weights, outputs against the decompressed package); and, where the real models are at
hand, a package released by its authors against the ONNX model of the same network.
"""
from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, parser, report

sys.path[:0] = [str(ROOT), str(ROOT / "converters"), str(ROOT / "runtime"), str(ROOT / "tests")]


@dataclass
class ModuleRow:
    """Largest error over all outputs; `relative` to the largest value of its output; SNR over all outputs.

    `unrounded` is the relative error of precision="float32": what is left without the emulation of float16.
    """

    module: str
    program: str
    max_abs_error: float
    relative: float
    snr_db: float | None
    unrounded: float
    run_ms: float


@dataclass
class SchemeRow:
    scheme: str
    target: str
    weights: int
    unequal: int
    output_error: float
    file_bytes: int
    dense_bytes: int


@dataclass
class ReleasedRow:
    model: str
    max_abs_error: float
    relative: float
    snr_db: float | None


def errors(outputs: Iterable[Any], wanted: Iterable[Any]) -> tuple[float, float, float | None]:
    """-> largest absolute error, largest error relative to its output's largest value, SNR in dB (None: no error)."""
    pairs = [(ours.astype(np.float64), want.astype(np.float64)) for ours, want in zip(outputs, wanted, strict=True)]
    absolute = max(float(np.abs(ours - want).max()) for ours, want in pairs)
    relative = max(float(np.abs(ours - want).max() / max(np.abs(want).max(), 1e-30)) for ours, want in pairs)
    noise = sum(float(((ours - want) ** 2).sum()) for ours, want in pairs)
    signal = sum(float((want**2).sum()) for _, want in pairs)
    return absolute, relative, float(10 * np.log10(signal / noise)) if noise else None


def module_rows(only: list[str], folder: Path) -> Iterable[ModuleRow]:
    from verification.mlpackage_modules import CASES, build, convert, expected, feeds, save

    from edgeq.verification.mlpackage import open_package

    for case in CASES:
        if only and case.name not in only:
            continue
        module, inputs = build(case)
        wanted = expected(module, inputs)
        for precision in ("float32", "float16"):
            path = save(convert(module, inputs, precision), folder / f"{case.name}.{precision}.mlpackage")
            program = open_package(path)
            plain = open_package(path, precision="float32").run(feeds(inputs))
            outputs = program.run(feeds(inputs))
            started = time.perf_counter()
            program.run(feeds(inputs))
            milliseconds = 1000 * (time.perf_counter() - started)
            unrounded = errors(plain.values(), wanted)[1]
            yield ModuleRow(case.name, precision, *errors(outputs.values(), wanted), unrounded, milliseconds)


def scheme_rows(only: list[str], folder: Path) -> Iterable[SchemeRow]:
    from coremltools.optimize.coreml import decompress_weights
    from verification.mlpackage_modules import COMPRESSIBLE, SCHEMES, SCHEMES_IOS16, build, convert, feeds, save

    from edgeq.verification.mlpackage import open_package

    module, inputs = build(COMPRESSIBLE)
    rows = [("iOS18", *row) for row in SCHEMES.items()] + [("iOS16", *row) for row in SCHEMES_IOS16.items()]
    for number, (target, name, compress) in enumerate(rows):
        if only and name not in only:
            continue
        compressed = compress(convert(module, inputs, "float16", target))
        small = save(compressed, folder / f"{number}.mlpackage")
        dense = save(decompress_weights(compressed), folder / f"{number}.dense.mlpackage")
        ours, theirs = open_package(small), open_package(dense)
        dense_constants = theirs.constants
        pairs = [(array, dense_constants[key]) for key, array in ours.constants.items() if key[1] in ("weight", "bias")]
        unequal = sum(int((left != right).sum()) for left, right in pairs)
        error = errors(ours.run(feeds(inputs)).values(), theirs.run(feeds(inputs)).values())[0]
        yield SchemeRow(name, target, sum(left.size for left, _ in pairs), unequal, error, weight_bytes(small),
                        weight_bytes(dense))


def weight_bytes(package: Path) -> int:
    return (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def released_rows(models: Path) -> Iterable[ReleasedRow]:
    """Spotify's basic-pitch: nmp.mlpackage (coremltools 7, from TensorFlow) against onnxruntime on model.onnx."""
    import onnxruntime

    from edgeq.verification.mlpackage import open_package

    folder = models / "basic_pitch"
    if not folder.is_dir():
        return
    program = open_package(folder / "nmp.mlpackage")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feed = np.load(folder / "data.npz")["x"][:1].astype(np.float32)
    names = [f"StatefulPartitionedCall:{number}" for number in range(3)]
    wanted = session.run(names, {session.get_inputs()[0].name: feed})
    yield ReleasedRow("basic_pitch", *errors(program.run({program.inputs[0].name: feed}).values(), wanted))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", action="append", default=[], metavar="NAME", help="a module or scheme (repeatable)")
    chosen = options.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    # The converter's progress bars are kept away from the tables.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        tables = {
            "packages of Apple's converter against torch": list(module_rows(chosen.only, Path(folder))),
            "compressed packages against decompress_weights": list(scheme_rows(chosen.only, Path(folder))),
            "a released package against onnxruntime": list(released_rows(chosen.models)),
        }
    for title, rows in tables.items():
        if rows:
            report(rows, title, None)
    if chosen.json is not None:
        content = {title: [asdict(row) for row in rows] for title, rows in tables.items()}
        chosen.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
