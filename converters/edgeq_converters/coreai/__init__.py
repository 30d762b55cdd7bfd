"""Core AI: the QDQ graph as an .aimodel, Core ML's successor, written and run with Apple's coreai-core."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.backend import Arithmetic, Artifact, Available, Backend, EmitOptions, Probe
from edgeq_converters.coreai.target import COREAI, SYSTEM

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq_runtime.manifest import Manifest

__all__ = ["BACKEND", "emit"]


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    from edgeq_converters.coreai import backend

    return backend.emit(model, folder, options)


def _probe(path: Path, network: ir.Model, manifest: Manifest) -> Probe:
    from edgeq_converters.coreai.probe import CoreAIProbe

    return CoreAIProbe(path, network, manifest)


BACKEND: Final = Backend(
    target=COREAI, emit=emit, probe=_probe, arithmetic=Arithmetic(half=True), options=frozenset({"min_os"}),
    systems=(SYSTEM,), devices={"iphone": Available()},
    no_boards="Core AI runs on Apple's devices; where it is verified, on Linux with x86-64, is no board")
