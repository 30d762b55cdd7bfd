"""Wall time and peak memory of one conversion per target, each in a process of its own.

    python benchmarks/conversion.py [--items NAME,...] [--bits 8] [--json FILE]

`mobilenet_v2` is built here, 224x224 with random weights, and converted without samples; the others get 32.
`imports` is what loading edgeq and the backend's libraries takes; peak memory is of the whole process, beside that of a
process which only does those imports.
"""
from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import SIX, open_zoo, parser, report, shapes

BUILT = "mobilenet_v2"
TARGETS = ("onnxruntime", "tflite", "coreml")
LIBRARIES = {"onnxruntime": (), "tflite": ("ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated"),
             "coreml": ("coremltools",)}


@dataclass(frozen=True)
class Row:
    model: str
    target: str
    bits: int
    imports_seconds: float
    samples: int
    convert_seconds: float  # verification left out
    verify_seconds: float  # how much longer with verification
    peak_megabytes: float
    imports_megabytes: float


def child(models: Path, item: str, target: str, bits: int) -> None:
    """One measurement, printed as JSON."""
    import contextlib
    import importlib
    import os

    started = time.perf_counter()
    import onnxruntime  # noqa: F401

    from edgeq.backend import backend_named
    from edgeq.conversion.pipeline import Options, convert_all

    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        backend_named(target)
        for library in LIBRARIES[target]:
            importlib.import_module(library)
    found = {"imports_seconds": time.perf_counter() - started, "imports_megabytes": peak()}
    samples, inputs = None, None
    if item != BUILT:
        zoo = open_zoo(models)
        samples, inputs = list(zoo.feeds(item, "calib", 32)), shapes(zoo, item)
    found["samples"] = len(samples or ())
    with tempfile.TemporaryDirectory() as folder:
        model = zoo.model(item) if item != BUILT else f"{folder}/{item}.onnx"
        if item == BUILT:
            import onnx_ir as ir
            from calibration import mobilenet_v2

            ir.save(mobilenet_v2(), model)
        for verify in (False, True):
            options = Options(bits=bits, calibration=samples, inputs=inputs, verify=verify)
            started = time.perf_counter()
            convert_all(model, [target], options, f"{folder}/{verify}")
            found["verify_seconds" if verify else "convert_seconds"] = time.perf_counter() - started
            found["peak_megabytes"] = found.get("peak_megabytes", peak())
    found["verify_seconds"] -= found["convert_seconds"]
    print(json.dumps(found))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", default=",".join((*SIX, BUILT)))
    options.add_argument("--bits", type=int, default=8)
    options.add_argument("--child", nargs=2, help="internal")
    chosen = options.parse_args()
    if chosen.child:
        child(chosen.models, *chosen.child, chosen.bits)
        return
    found = []
    for item in chosen.items.split(","):
        for target in TARGETS:
            command = [sys.executable, __file__, "--models", str(chosen.models), "--bits", str(chosen.bits), "--child",
                       item, target]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(Row(item, target, chosen.bits, **json.loads(printed.splitlines()[-1])))
    report(found, "conversion", chosen.json)


if __name__ == "__main__":
    main()
