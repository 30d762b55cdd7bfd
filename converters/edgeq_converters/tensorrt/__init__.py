"""TensorRT, through ONNX Runtime's execution provider: the QDQ graph in the only form that its parser takes."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.backend import Arithmetic, Artifact, Available, Backend, EmitOptions, Probe
from edgeq_converters.tensorrt.target import TENSORRT

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq_runtime.manifest import Manifest

__all__ = ["BACKEND", "emit"]


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    from edgeq_converters.tensorrt import backend

    return backend.emit(model, folder, options)


def _probe(path: Path, network: ir.Model, manifest: Manifest) -> Probe:
    from edgeq.verification.probe import GraphProbe

    return GraphProbe.of_bundle(path, network, manifest)


# On Jetson it comes with the onnxruntime of NVIDIA's own index.
BACKEND: Final = Backend(target=TENSORRT, emit=emit, probe=_probe, arithmetic=Arithmetic(half=True),
                         devices={"jetson-orin": Available(preferred=True)})
