"""Where a program in half precision leaves the numbers that half precision has."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgeq.inference.reference import Arrays
from edgeq.verification.mlpackage import open_package
from edgeq.verification.mlpackage.program import Program
from edgeq_runtime.engines.coreml import interface_shape
from edgeq_runtime.manifest import Manifest


def said_of_overflow(folder: Path, manifest: Manifest, feeds: Iterable[Arrays]) -> str:
    """The first op of a Core ML bundle that passes 65504 on one of the feeds, and what helps; '' where none does."""
    program = open_package(folder / manifest.entry)
    names = {spec.name: spec.engine_name or spec.name for spec in manifest.inputs}
    for feed in feeds:
        inputs = {names[name]: array.astype(np.float32 if array.dtype.kind == "f" else np.int32).reshape(
            interface_shape(array.shape)) for name, array in feed.items()}
        found = _first(program, inputs)
        if found:
            return (f"half precision ends at 65504, and {found} passes it; --calibration with samples as large as the "
                    "device's shows such places in time, and --bits 32 computes all in float32")
    return ""


def _first(program: Program, inputs: Arrays) -> str:
    values = program.run(inputs, keep=program.value_names)
    kept = set(program.value_names)
    for step in program.steps:
        for output in step.outputs:
            half = output.type is not None and output.type.element.name == "float16" and output.name in kept
            if half and not np.isfinite(values[output.name]).all():
                return f"{step.op} '{step.name}'"
    return ""
