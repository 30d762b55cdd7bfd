"""What the targets make of a quantized graph: into a bundle, or into nowhere, to see what they would say."""
from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions, backend_named
from edgeq.conversion.interface import public
from edgeq.conversion.request import Request
from edgeq.errors import Problem, UnsupportedModel


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a backend wrote, and how many bytes of it, before it was thrown away."""

    artifact: Artifact
    bytes: int


def refuse_artifact(target: str, artifact: Artifact, folder: Path, request: Request) -> None:
    """Raises UnsupportedModel where --full-integer was asked for and something computes in float, or where the device
    cannot run what was written; all of it is named.
    """
    if request.options.full_integer and artifact.float_nodes:
        raise UnsupportedModel(target, [Problem(node.node, node.op, f"computes in float: {node.reason}",
                                                "leave --full-integer out") for node in artifact.float_nodes])
    if request.device is not None:
        request.device.targets[target].refuse(folder / artifact.entry)


def emit_as_asked(target: str, graph: ir.Model, request: Request) -> Emitted:
    """What a target would write of a quantized graph, with the interface that was asked for. Raises as public does, and
    as emit_into_nowhere and refuse_artifact.
    """
    made = public(graph, request, target)
    return emit_into_nowhere(target, made.graph, made.options, request)


def emit_into_nowhere(target: str, graph: ir.Model, options: EmitOptions, request: Request | None = None) -> Emitted:
    """What a target would write. request: that may refuse it.

    Raises:
        UnsupportedModel: nodes that it refuses. MissingExtra: it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        artifact = backend_named(target).emit(graph, Path(folder), options)
        if request is not None:
            refuse_artifact(target, artifact, Path(folder), request)
        return Emitted(artifact, sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()))
