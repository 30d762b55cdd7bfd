"""ONNX Runtime: the standard QDQ graph in the forms that its fusions recognize, weights beside it."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.backend import (
    Arithmetic,
    Artifact,
    Available,
    Backend,
    DecoderBackend,
    DecoderWords,
    EmitOptions,
    Probe,
    Recipe,
)
from edgeq_converters.onnxruntime.target import ONNXRUNTIME

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

    from edgeq.frontends.decoder.checkpoint import Checkpoint
    from edgeq.frontends.decoder.spec import Spec
    from edgeq.quant.decoder import QuantizedDecoder, Stored
    from edgeq_runtime.manifest import Manifest, TensorSpec

__all__ = ["BACKEND", "emit"]


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    from edgeq_converters.onnxruntime import backend

    return backend.emit(model, folder, options)


def _probe(path: Path, network: ir.Model, manifest: Manifest) -> Probe:
    from edgeq.verification.probe import GraphProbe

    return GraphProbe.of_bundle(path, network, manifest)


def _run_in_parts(bundle: Path, manifest: Manifest, samples: Sequence[Mapping[str, NDArray[Any]]],
                  ) -> tuple[list[dict[str, Any]], str]:
    """The engine takes three times the weights while it rearranges them, so that of a large model it gets parts."""
    import onnx_ir as ir

    from edgeq.inference.reference import PART, run_parts

    outputs = run_parts(ir.load(bundle / manifest.entry), samples, PART, fused=True,
                        session_options=manifest.options.get("session_options", {}))
    return outputs, "onnxruntime, CPUExecutionProvider, part by part"


def _rounds(graph: ir.Graph, artifact: Artifact) -> bool:
    from edgeq_converters.onnxruntime.arithmetic import rounds

    return rounds(graph, artifact)


def _same_bits(graph: ir.Graph, artifact: Artifact) -> bool:
    from edgeq_converters.onnxruntime.arithmetic import same_bits

    return same_bits(graph, artifact)


def _types(spec: Spec, words: DecoderWords) -> Callable[[str, int | None], str]:
    from edgeq_converters.onnxruntime import decoder

    return decoder.types(spec, words)


def _keeps(role: str, found: Stored) -> Stored | str:
    from edgeq_converters.onnxruntime import decoder_parts

    return decoder_parts.kept(role, found)


def _emit_decoder(checkpoint: Checkpoint, tokenizer: Path, weights: QuantizedDecoder, folder: Path,
                  words: DecoderWords) -> Artifact:
    from edgeq_converters.onnxruntime import decoder

    return decoder.emit(checkpoint, tokenizer, weights, folder, words)


def _read(entry: Path, spec: Spec) -> Callable[[str, int | None], NDArray[Any]]:
    from edgeq_converters.onnxruntime import decoder

    return decoder.read(entry, spec)


def _check(checkpoint: Checkpoint, tokenizer: Path, words: DecoderWords) -> None:
    from edgeq_converters.onnxruntime.decoder_graph import refuse_heads

    refuse_heads(checkpoint.spec)


def _signature(spec: Spec) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from edgeq_runtime.manifest import TensorSpec

    def caches(name: str, length: str) -> list[TensorSpec]:
        return [TensorSpec(f"{name}.{layer}.{kind}", "float32", ("batch", spec.kv_heads, length, spec.head_size))
                for layer in range(len(spec.layers)) for kind in ("key", "value")]

    return ((TensorSpec("input_ids", "int64", ("batch", "tokens")),
             TensorSpec("attention_mask", "int64", ("batch", "length")), *caches("past_key_values", "past")),
            (TensorSpec("logits", "float32", ("batch", "tokens", spec.vocabulary)), *caches("present", "total")))


# 1.21.0 was built for ARMv8.2 and dies of SIGILL on older cores; 1.21.1 mended it.
_NOT_1_21_0: Final = Available(excluded="!=1.21.0", source="https://github.com/microsoft/onnxruntime/issues/24112")

BACKEND: Final = Backend(
    target=ONNXRUNTIME, emit=emit, probe=_probe, run_in_parts=_run_in_parts,
    arithmetic=Arithmetic(rounds=_rounds, same_bits=_same_bits),
    costs=Path(__file__).with_name("costs.json"),
    decoder=DecoderBackend(bits=(4, 8, 16, 32), check=_check, types=_types, emit=_emit_decoder,
                           read=_read, signature=_signature, is_graph=True, ladder=("Q4_0", "Q8_0"), keeps=_keeps),
    devices={
        "pi4": _NOT_1_21_0, "pi5": Available(), "android": _NOT_1_21_0,
        # JetPack 6 has Python 3.10.
        "jetson-orin": Available("onnxruntime", "1.23.2",
                                 source="https://pypi.org/project/onnxruntime/1.23.2/#files"),
    },
    recipes=(
        # https://pypi.org/project/onnxruntime/#files; its other requirements serve its tools, not inference.
        Recipe(frozenset({"x86_64", "aarch64"}), "onnxruntime", ("numpy", "onnxruntime"), ("numpy",)),
        # https://packages.debian.org/trixie/python3-onnxruntime: Debian 13 builds it for armhf, PyPI and piwheels do
        # not.
        Recipe(frozenset({"armv7l", "armv8l"}), "onnxruntime", ("numpy", "onnxruntime"),
               installed=("numpy", "onnxruntime"), remedy="sudo apt install python3-onnxruntime (from Debian 13 on)"),
    ))
