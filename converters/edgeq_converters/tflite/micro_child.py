"""TensorFlow Lite Micro, in a process of its own: it may end the process where memory is short.

    python -m edgeq_converters.tflite.micro_child MODEL.tflite ARENA_BYTES SELFTEST_FOLDER < manifest.json

Prints what it allocated (its own words) and, last, the result of the self-test in that folder as JSON; null without
one.
"""
from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq_runtime.manifest import Manifest, TensorSpec
from edgeq_runtime.selftest import FILE_NAME, self_test


@dataclass(frozen=True, slots=True)
class MicroModel:
    """A bundle as it runs it. folder: of the self-test. interpreter: inputs and outputs are numbered as in the file."""

    folder: Path
    manifest: Manifest
    interpreter: Any

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.manifest.outputs

    def run(self, inputs: Any) -> dict[str, Any]:
        """One sample."""
        if self.manifest.options.get("variables"):
            self.interpreter.reset()
        for number, spec in enumerate(self.manifest.inputs):
            self.interpreter.set_input(np.ascontiguousarray(inputs[spec.name], spec.dtype), number)
        self.interpreter.invoke()
        return {spec.name: np.array(self.interpreter.get_output(number)) for number, spec in enumerate(self.outputs)}


def main() -> None:
    from tflite_micro.python.tflite_micro import runtime

    path, arena, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    interpreter = runtime.Interpreter.from_file(path, arena_size=arena)
    interpreter.print_allocations()
    model = MicroModel(folder, Manifest.from_json(sys.stdin.read()), interpreter)
    result = self_test(model) if (folder / FILE_NAME).is_file() else None
    said = None if result is None else {"ok": result.ok, "said": result.status if result.ok else str(result)}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
