"""GGUF: language models for llama.cpp and what is built on it."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeq.backend import Artifact, Available, Backend, DecoderBackend, DecoderWords, Recipe
from edgeq.targets import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq.frontends.decoder.checkpoint import Checkpoint
    from edgeq.frontends.decoder.spec import Spec
    from edgeq.quant.decoder import QuantizedDecoder, Stored

__all__ = ["BACKEND"]


def _check(checkpoint: Checkpoint, tokenizer: Path, words: DecoderWords) -> None:
    from edgeq_converters.gguf import backend

    backend.check(checkpoint, tokenizer, words)


def _types(spec: Spec, words: DecoderWords) -> Callable[[str, int | None], str]:
    from edgeq_converters.gguf import backend

    return backend.types(spec, words)


def _fused(spec: Spec) -> Mapping[str, str]:
    from edgeq_converters.gguf import backend

    return backend.fused_roles(spec)


def _keeps(role: str, found: Stored) -> Stored | str:
    from edgeq_converters.gguf import backend

    return backend.keeps(found)


def _emit(checkpoint: Checkpoint, tokenizer: Path, decoder: QuantizedDecoder, folder: Path, words: DecoderWords,
          ) -> Artifact:
    from edgeq_converters.gguf import backend

    return backend.emit(checkpoint, tokenizer, decoder, folder, words)


def _read(entry: Path, spec: Spec) -> Callable[[str, int | None], NDArray[Any]]:
    from edgeq_converters.gguf import backend

    return backend.read(entry, spec)


GGUF: Final = Target(
    "gguf", "llamacpp", "language models for llama.cpp: desktop, Raspberry Pi, phones",
    "2 to 8 bits and float16, in blocks", "float; int8 inside of kernels", "decoder", {})
# Its prebuilt wheel is for 64-bit ARM, too: https://pypi.org/project/xllamacpp/#files; apps take llama.cpp itself. The
# runtime knows one release.
_THERE: Final = Available(least_bits=2)
_WHEEL: Final = Recipe(frozenset({"x86_64", "aarch64"}), "xllamacpp", ("numpy", "xllamacpp"),
                       ("numpy", "xllamacpp==2026.10.11549"))
BACKEND: Final = Backend(target=GGUF, devices=dict.fromkeys(
    ("pi4", "pi5", "jetson-orin", "android", "iphone"), _THERE), recipes=(_WHEEL,), decoder=DecoderBackend(
    bits=(2, 3, 4, 5, 6, 8, 16), check=_check, types=_types, emit=_emit, read=_read, file=".gguf",
    ladder=("Q2_K", "Q3_K", "Q4_K", "IQ4_NL", "Q5_K", "Q5_0", "Q6_K", "Q8_0"), fused=_fused, keeps=_keeps))
