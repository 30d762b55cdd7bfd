"""LiteRT (TensorFlow Lite): a .tflite file, written without TensorFlow."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.backend import Artifact, Available, Backend, EmitOptions, Probe, Recipe, Trial
from edgeq_converters.tflite.target import TFLITE

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq_runtime.manifest import Manifest

__all__ = ["BACKEND", "emit"]


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    from edgeq_converters.tflite import backend

    return backend.emit(model, folder, options)


def _probe(path: Path, network: ir.Model, manifest: Manifest) -> Probe:
    from edgeq_converters.tflite.probe import TFLiteProbe

    return TFLiteProbe(path, network, manifest.inputs)


def _refuse_micro(entry: Path) -> None:
    from edgeq_converters.tflite import micro

    micro.refuse(entry)


def _tried_micro(folder: Path, manifest: Manifest) -> Trial:
    from edgeq_converters.tflite import micro

    return micro.tried(folder, manifest)


def _tried_ethos_u(folder: Path, manifest: Manifest) -> Trial:
    from edgeq_converters.tflite import npu

    return npu.ethos_u(folder, manifest)


def _tried_edge_tpu(folder: Path, manifest: Manifest) -> Trial:
    from edgeq_converters.tflite import npu

    return npu.edge_tpu(folder, manifest)


_FIRST: Final = Available(preferred=True)

BACKEND: Final = Backend(
    target=TFLITE, emit=emit, probe=_probe, in_place=True, costs=Path(__file__).with_name("costs.json"),
    devices={
        "pi4": _FIRST, "pi5": _FIRST, "android": _FIRST, "jetson-orin": Available(),
        # Its CONV_2D, FULLY_CONNECTED and DEQUANTIZE are of versions that know no 4-bit weights.
        "pi-32bit": Available(
            "tflite-runtime", "2.14.0", source="https://pypi.org/project/tflite-runtime/#files", least_bits=8,
            bits_source="https://github.com/tensorflow/tensorflow/blob/v2.14.0/tensorflow/lite/core/kernels/register.cc",
            preferred=True),
        "mcu": Available("tflite-micro", preferred=True, refuse=_refuse_micro, tried=_tried_micro),
        # What Arm's processor leaves, TensorFlow Lite Micro runs.
        "ethos-u": Available("tflite-micro", preferred=True, refuse=_refuse_micro, tried=_tried_ethos_u),
        "edgetpu": Available(preferred=True, tried=_tried_edge_tpu),
    },
    recipes=(
        # https://pypi.org/project/ai-edge-litert/#files; the interpreter imports flatbuffers, not the rest.
        Recipe(frozenset({"x86_64", "aarch64"}), "ai-edge-litert", ("numpy", "ai_edge_litert.interpreter"),
               ("numpy", "flatbuffers")),
        # The only engine with an armv7l wheel: 2.14.0, the last release, for Python up to 3.11.
        # https://pypi.org/project/tflite-runtime/#files. Built against numpy 1.
        Recipe(frozenset({"armv7l", "armv8l"}), "tflite-runtime", ("numpy", "tflite_runtime.interpreter"),
               installed=("numpy",), last="2.14.0", remedy="sudo apt install python3-numpy"),
    ))
