"""What the targets make of a quantized graph: into a bundle, or into nowhere, to see what they would say."""
from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions, backend_named
from edgeq.targets import Target


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a backend wrote, and how many bytes of it, before it was thrown away."""

    artifact: Artifact
    bytes: int


def emit_into_nowhere(target: str, graph: ir.Model, options: EmitOptions) -> Emitted:
    """What a target would write.

    Raises:
        UnsupportedModel: nodes that it refuses. MissingExtra: it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        artifact = backend_named(target).emit(graph, Path(folder), options)
        return Emitted(artifact, sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()))


def largest_artifact_bytes(graph: ir.Model, targets: Iterable[Target], options: EmitOptions) -> int:
    """Of what the targets would write."""
    return max(emit_into_nowhere(target.name, graph, options).bytes for target in targets)
