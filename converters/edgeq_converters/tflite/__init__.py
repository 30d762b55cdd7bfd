"""LiteRT (TensorFlow Lite): a .tflite file, written without TensorFlow."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.backend import (
    Artifact,
    Available,
    Backend,
    DecoderBackend,
    DecoderWords,
    EmitOptions,
    Probe,
    Recipe,
    Trial,
)
from edgeq_converters.tflite.target import TFLITE

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from edgeq.frontends.decoder.checkpoint import Checkpoint
    from edgeq.frontends.decoder.spec import Spec
    from edgeq.quant.decoder import QuantizedDecoder
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


def _check_decoder(checkpoint: Checkpoint, tokenizer: Path, words: DecoderWords) -> None:
    from edgeq_converters.tflite import decoder

    decoder.check(checkpoint, tokenizer, words)


def _types(spec: Spec, words: DecoderWords) -> Callable[[str, int | None], str]:
    from edgeq_converters.tflite import decoder

    return decoder.types(spec, words)


def _emit_decoder(checkpoint: Checkpoint, tokenizer: Path, weights: QuantizedDecoder, folder: Path, words: DecoderWords,
                  ) -> Artifact:
    from edgeq_converters.tflite import decoder

    return decoder.emit(checkpoint, tokenizer, weights, folder, words)


def _read(entry: Path, spec: Spec) -> Callable[[str, int | None], NDArray[Any]]:
    from edgeq_converters.tflite import decoder

    return decoder.read(entry, spec)


_FIRST: Final = Available(preferred=True)

BACKEND: Final = Backend(
    target=TFLITE, emit=emit, probe=_probe, in_place=True, costs=Path(__file__).with_name("costs.json"),
    decoder=DecoderBackend(bits=(4, 8, 32), check=_check_decoder, types=_types, emit=_emit_decoder, read=_read,
                           file=".litertlm"),
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
