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


def refuse_any_float(target: str, artifact: Artifact, request: Request) -> None:
    """Raises UnsupportedModel where --full-integer was asked for and something computes in float, which is all named.
    """
    if request.options.full_integer and artifact.float_nodes:
        raise UnsupportedModel(target, [Problem(node.node, node.op, f"computes in float: {node.reason}",
                                                "leave --full-integer out") for node in artifact.float_nodes])


def emit_as_asked(target: str, graph: ir.Model, request: Request) -> Emitted:
    """What a target would write of a quantized graph, with the interface that was asked for. Raises as public does, and
    as emit_into_nowhere.
    """
    made = public(graph, request, target)
    found = emit_into_nowhere(target, made.graph, made.options)
    refuse_any_float(target, found.artifact, request)
    return found


def emit_into_nowhere(target: str, graph: ir.Model, options: EmitOptions) -> Emitted:
    """What a target would write.

    Raises:
        UnsupportedModel: nodes that it refuses. MissingExtra: it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        artifact = backend_named(target).emit(graph, Path(folder), options)
        return Emitted(artifact, sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()))
