"""A checkpoint's quantized weights, its tokenizer and its numbers, in one file that llama.cpp loads."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from edgeq.backend import Artifact, DecoderWords
from edgeq.frontends.decoder.architectures import ARCHITECTURES
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.frontends.decoder.gguf_names import FUSED
from edgeq.frontends.decoder.gguf_source import GgufWeights, open_gguf
from edgeq.frontends.decoder.gguf_tokenizer import gguf_tokenizer_of_folder
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import shape_of
from edgeq.quant.decoder import QuantizedDecoder, Stored, StoredMatrix
from edgeq.quant.formats.mixes import Mix, Place, mix_named, type_of
from edgeq.quant.kept import held
from edgeq_converters.gguf.metadata import metadata
from edgeq_converters.gguf.tensors import tensors
from edgeq_converters.gguf.writer import write

ENTRY: Final = "model.gguf"
# What llama.cpp's documentation recommends at a size:
# https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md
_OF_BITS: Final[Mapping[int, str]] = MappingProxyType({
    2: "Q2_K", 3: "Q3_K_M", 4: "Q4_K_M", 5: "Q5_K_M", 6: "Q6_K", 8: "Q8_0", 16: "F16"})

_SYMMETRIC, _WITH_MINIMA = ("Q4_0", "Q5_0", "Q8_0"), ("Q4_1", "Q5_1")
_ENGINE_VERSION: Final = ">=0"


def mix_of(words: DecoderWords) -> Mix:
    """Raises UsageError: there is no such type."""
    return mix_named(words.type or _OF_BITS[words.bits])


def check(checkpoint: Checkpoint, tokenizer: Path, words: DecoderWords) -> None:
    """Raises what `emit` would, of all but the weights."""
    metadata(checkpoint.spec, checkpoint.row.gguf, checkpoint.name, mix_of(words).number)
    gguf_tokenizer_of_folder(tokenizer)


def types(spec: Spec, words: DecoderWords) -> Callable[[str, int | None], str]:
    """What llama.cpp's own quantizer would store each weight as."""
    mix, fused = mix_of(words), fused_roles(spec)
    sharing = spec.heads // spec.kv_heads

    def type_for(role: str, layer: int | None) -> str:
        place = None if layer is None else Place(layer, len(spec.layers), sharing)
        columns = shape_of(spec, role, "weight")[1]
        return type_of(mix, fused.get(role, role), columns, place, tied=spec.tied)

    return type_for


def fused_roles(spec: Spec) -> Mapping[str, str]:
    """Role -> the tensor of the file that it is a part of."""
    groups = FUSED.get(ARCHITECTURES[spec.architecture].gguf, {})
    return {role: name for name, roles in groups.items() for role in roles}


def keeps(found: Stored) -> StoredMatrix | str:
    """What holds another tool's codes: the type with the fewest bits of those with one level of scales."""
    if isinstance(found, StoredMatrix):
        return found
    return held(found, _SYMMETRIC if found.offset is None else _WITH_MINIMA)


def emit(checkpoint: Checkpoint, tokenizer: Path, decoder: QuantizedDecoder, folder: Path, words: DecoderWords,
         ) -> Artifact:
    """Write `model.gguf`. tokenizer: the folder with tokenizer.json, tokenizer_config.json and config.json.

    Raises:
        ModelError, UnsupportedModel: a tokenizer or a network that llama.cpp cannot be told of.
    """
    spec, architecture = checkpoint.spec, checkpoint.row.gguf
    write(folder / ENTRY, metadata(spec, architecture, checkpoint.name, mix_of(words).number),
          gguf_tokenizer_of_folder(tokenizer), lambda: tensors(spec, architecture, decoder))
    return Artifact(ENTRY, "llamacpp", _ENGINE_VERSION)


def read(entry: Path, spec: Spec) -> Callable[[str, int | None], NDArray[Any]]:
    """The written weights, by the gguf package's dequantizer."""
    return GgufWeights(spec, ARCHITECTURES[spec.architecture], open_gguf(entry)).matrix
