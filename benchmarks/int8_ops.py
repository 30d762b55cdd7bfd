"""Quantized kernels stay quantized: one-op models with int8 data in and out, on every set of LiteRT's kernels.

    python benchmarks/int8_ops.py [--only REGEX] [--old-python PYTHON] [--json FILE]

A row of the tests' table (tests/opcases) in QDQ form becomes a .tflite file. It passes when nothing inside it is float
(one QUANTIZE for each input, one DEQUANTIZE for each output, and no more), and when the result is within the row's
steps of the output grid (one, where the row gives no reason for more) of the QDQ graph run unfused by ONNX Runtime.
Columns: the largest difference in steps on the default kernels (XNNPACK), without it, on the reference kernels, and on
tflite-runtime 2.14. The last lives in an environment of its own, whose interpreter --old-python names:

    python -m venv OLD && OLD/bin/pip install tflite-runtime==2.14.0 "numpy<2"
"""
from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import ROOT, parser, report
from numpy.typing import NDArray

sys.path.insert(0, str(ROOT / "tests"))

Arrays = Mapping[str, NDArray[Any]]
RESOLVERS: Final = {"default": "AUTO", "plain": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}
ROUNDING: Final = 1.01  # float32 arithmetic on the way back from the grid
# Run by the old interpreter: FILE.tflite and FILE.npz -> FILE.out.npz, for every FILE on the command line.
OLD_WORKER: Final = """
import sys, numpy
from tflite_runtime.interpreter import Interpreter
for file in sys.argv[1:]:
    try:
        interpreter = Interpreter(model_path=file + ".tflite", num_threads=1)
        results = dict(interpreter.get_signature_runner()(**numpy.load(file + ".npz")))
        numpy.savez(file + ".out.npz", **results)
    except Exception as error:
        open(file + ".error", "w").write(str(error))
"""


@dataclass(frozen=True)
class Row:
    """The differences are in steps of the output grid; text says why there is none."""

    row: str
    op: str
    kernels: str
    allowed: float
    default: float | str = "-"
    plain: float | str = "-"
    reference: float | str = "-"
    old: float | str = "-"
    integer: bool = True
    verdict: str = ""


def rows(pattern: str, old_python: str | None, folder: Path) -> list[Row]:
    from opcases import CASES

    from edgeq_converters.tflite.integer import INTEGER

    chosen = [case for case in CASES if case.op in INTEGER and re.search(pattern, case.id)]
    attempts = [made for case in chosen if (made := attempt(case, folder)) is not None]
    if old_python is not None:
        run_old(old_python, [folder / made.case.id for made in attempts])
    return [finished(made, folder, old_python is not None) for made in attempts]


@dataclass(frozen=True)
class Attempt:
    case: Any
    expected: Arrays
    steps: Mapping[str, float]
    found: Mapping[str, Arrays | str]
    operators: list[str]
    old_allowed: bool
    floats: str


def attempt(case: Any, folder: Path) -> Attempt | None:
    """Quantize, emit and run one row; None for rows whose data are no floats or that are refused in any form."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    from opcases import quantize, run_onnxruntime, sample

    from edgeq.backend import EmitOptions
    from edgeq.errors import UnsupportedModel
    from edgeq_converters.tflite import emit

    feeds = sample(case)
    if any(data.dtype != np.float32 for data in feeds.values()):
        return None
    model, steps = quantize(case)
    try:
        artifact = emit(model, folder, EmitOptions())
    except UnsupportedModel:
        return None
    path = (folder / artifact.entry).rename(folder / f"{case.id}.tflite")
    np.savez(folder / f"{case.id}.npz", **feeds)  # type: ignore[arg-type]
    found: dict[str, Arrays | str] = {}
    operators = []
    for name, resolver in RESOLVERS.items():
        try:
            interpreter = Interpreter(model_path=str(path), num_threads=1,
                                      experimental_op_resolver_type=getattr(OpResolverType, resolver))
            found[name] = dict(interpreter.get_signature_runner()(**feeds))
        except (ValueError, RuntimeError) as error:
            found[name] = str(error).splitlines()[0]
            continue
        if name == "plain":
            operators = [details["op_name"] for details in interpreter._get_ops_details()]
    floats = "; ".join(f"{node.op}: {node.reason}" for node in artifact.float_nodes)
    return Attempt(case, run_onnxruntime(model, feeds), steps, found, operators,
                   artifact.options["tflite_runtime"] == ">=2.14", floats)


def run_old(python: str, files: list[Path]) -> None:
    """A kernel that ends the process costs its own file only."""
    left = [str(file) for file in files]
    while left:
        subprocess.run([python, "-c", OLD_WORKER, *left], check=False, capture_output=True)
        done = [file for file in left if Path(f"{file}.out.npz").exists() or Path(f"{file}.error").exists()]
        rest = [file for file in left if file not in done]
        if rest:
            Path(f"{rest[0]}.error").write_text("the process died")
        left = rest[1:]


def finished(made: Attempt, folder: Path, with_old: bool) -> Row:
    def off(found: Arrays) -> float:
        return max((float(np.abs(found[name] - made.expected[name]).max()) / step for name, step in made.steps.items()),
                   default=0.0)

    differences: dict[str, float | str] = {name: found[:40] if isinstance(found, str) else off(found)
                                           for name, found in made.found.items()}
    if with_old and made.old_allowed:
        error = folder / f"{made.case.id}.error"
        differences["old"] = error.read_text()[:60] if error.exists() else off(
            np.load(folder / f"{made.case.id}.out.npz"))
    elif with_old:
        differences["old"] = "needs 2.1"
    inner = made.operators.count("DEQUANTIZE") - len(made.steps)
    allowed = made.case.steps * ROUNDING
    bad = [name for name, number in differences.items()
           if (number > allowed if isinstance(number, float) else number != "needs 2.1")]
    verdict = "float: " + (made.floats or f"{inner} DEQUANTIZE") if inner > 0 or made.floats else "ok"
    kernels = "+".join(name for name in made.operators if name not in ("QUANTIZE", "DEQUANTIZE", "DELEGATE"))
    return Row(made.case.id, made.case.op, kernels[:48], made.case.steps, integer=verdict == "ok",
               verdict=f"off on {', '.join(bad)}" if bad else verdict, **differences)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", default="", help="a regular expression on the names of the rows")
    options.add_argument("--old-python", help="the Python of an environment with tflite-runtime 2.14")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(given.only, given.old_python, Path(folder))
    assert [field.name for field in fields(Row)]
    good = sum(row.verdict == "ok" for row in found)
    report(found, f"{good} of {len(found)} rows on integers and within their steps", given.json)


if __name__ == "__main__":
    main()
