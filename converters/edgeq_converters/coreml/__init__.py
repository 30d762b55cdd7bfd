"""Core ML: the QDQ graph as a MIL program in an .mlpackage, built with coremltools' MIL builder on any system."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.backend import Arithmetic, Artifact, Available, Backend, EmitOptions, Finding, Probe
from edgeq_converters.coreml.target import COREML, SYSTEMS

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.inference.reference import Arrays
    from edgeq_runtime.manifest import Manifest

__all__ = ["BACKEND", "emit"]


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    from edgeq_converters.coreml import backend

    return backend.emit(model, folder, options)


def _probe(path: Path, network: ir.Model, manifest: Manifest) -> Probe:
    from edgeq_converters.coreml.probe import CoreMLProbe

    return CoreMLProbe(path, network, manifest)


def _explain(folder: Path, manifest: Manifest, feeds: Sequence[Arrays]) -> str:
    from edgeq_converters.coreml.overflow import said_of_overflow

    return said_of_overflow(folder, manifest, feeds)


def _lint(package: Path) -> list[Finding]:
    from edgeq_converters.coreml.ane import lint

    return lint(package)


BACKEND: Final = Backend(
    target=COREML, emit=emit, probe=_probe, lint=_lint, explain=_explain, arithmetic=Arithmetic(half=True),
    options=frozenset({"min_os", "compute"}), systems=SYSTEMS, devices={"iphone": Available(preferred=True)},
    no_boards="Core ML runs on Apple's devices only, and boards are reached as Linux machines: test this bundle on a "
              "Mac with `python -m edgeq_runtime BUNDLE self-test`")
