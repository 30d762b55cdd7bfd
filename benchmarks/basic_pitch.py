"""Our bundles of basic_pitch beside the TFLite and Core ML files that its authors ship, both against float ONNX.

    python benchmarks/basic_pitch.py [--models FOLDER] [--json FILE]

Each file is run on the evaluation samples: TFLite by LiteRT, Core ML by the interpreter. The shipped files are float.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from common import open_zoo, parser, report, shapes

import edgeq_runtime
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.verification.compare import compare

ITEM = "basic_pitch"
# What each file calls the outputs.
NAMES = {
    "contour": ("StatefulPartitionedCall:0", "contour", "Identity"),
    "note": ("StatefulPartitionedCall:1", "note", "Identity_1"),
    "onset": ("StatefulPartitionedCall:2", "onset", "Identity_2"),
}
Run: TypeAlias = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """sqnr_db, max_abs: against onnxruntime with the float model, worst of all samples; the outputs lie in 0 to 1."""

    file: str
    output: str
    bytes: int
    sqnr_db: float
    max_abs: float


def shipped(folder: Path) -> Iterator[tuple[str, int, Run]]:
    from ai_edge_litert.interpreter import Interpreter

    from edgeq.verification.mlpackage import open_package

    path = folder / "nmp.tflite"
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    yield "shipped .tflite", path.stat().st_size, lambda audio: dict(runner(**{name: audio}))
    path = folder / "nmp.mlpackage"
    program = open_package(path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    yield "shipped .mlpackage", size, lambda audio: dict(program.run({program.inputs[0].name: audio}))


def ours(zoo: Any, folder: Path) -> Iterator[tuple[str, int, Run]]:
    for bits in (32, 8):
        samples = list(zoo.feeds(ITEM)) if bits == 8 else None
        options = Options(bits=bits, calibration=samples, inputs=shapes(zoo, ITEM))
        for bundle in convert_all(zoo.model(ITEM), ["onnxruntime", "tflite", "coreml"], options, folder / str(bits)):
            with edgeq_runtime.load(bundle.path) as model:
                name = model.inputs[0].name
                yield (f"{bundle.manifest.target}, {bits} bits", bundle.artifact_bytes,
                       lambda audio, run=model.run, name=name: run({name: audio}))


def rows(zoo: Any, folder: Path) -> Iterator[Row]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(zoo.model(ITEM)), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    audio = [np.asarray(feed[zoo.input_name(ITEM)]) for feed in zoo.feeds(ITEM, "eval")]
    expected = [by_meaning(dict(zip(names, session.run(None, {zoo.input_name(ITEM): a}), strict=True))) for a in audio]
    for file, size, run in chain(shipped(zoo.root / ITEM), ours(zoo, folder)):
        for found in compare(expected, [by_meaning(run(a)) for a in audio]):
            yield Row(file, found.output, size, found.sqnr_db, found.max_abs)


def by_meaning(outputs: dict[str, Any]) -> dict[str, Any]:
    return {meaning: outputs[next(name for name in names if name in outputs)] for meaning, names in NAMES.items()}


def main() -> None:
    chosen = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(open_zoo(chosen.models), Path(folder)))
    report(found, "basic_pitch against onnxruntime's float", chosen.json)


if __name__ == "__main__":
    main()
