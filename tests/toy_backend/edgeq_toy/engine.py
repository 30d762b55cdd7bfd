"""The engine `toy`, for edgeq_runtime."""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from edgeq_runtime.manifest import Manifest


class Toy:
    description, accelerator = "toy 1.0", "none"

    def __init__(self, path: str, manifest: Manifest):
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._evaluator = ReferenceEvaluator(onnx.load(path, format="protobuf"))
        self._inputs = [spec.name for spec in manifest.inputs]

    def run(self, arrays: Sequence[Any], out: Sequence[Any] | None = None) -> list[Any]:
        outputs: list[Any] = self._evaluator.run(None, dict(zip(self._inputs, arrays, strict=True)))
        return outputs

    def close(self) -> None:
        pass


def open(folder: str, manifest: Manifest, threads: int | None) -> Toy:
    return Toy(os.path.join(folder, manifest.entry), manifest)
