"""Which weights of a checkpoint keep the codes that another tool chose, and why others do not."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from edgeq.backend import DecoderBackend, DecoderWords
from edgeq.conversion.decoder_fit import Types, key_groups
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.quant.codes import Codes
from edgeq.quant.decoder import Key, Stored, StoredMatrix
from edgeq.quant.formats import FORMATS


@dataclass(frozen=True, slots=True)
class Kept(Mapping[Key, Stored]):
    """Weights with another tool's codes, read from the checkpoint whenever they are asked for. anew: why -> those that
    are quantized anew although they have codes.
    """

    checkpoint: Checkpoint
    target: DecoderBackend
    keys_kept: tuple[Key, ...] = ()
    anew: Mapping[str, list[Key]] = field(default_factory=lambda: MappingProxyType({}))

    def __getitem__(self, key: Key) -> Stored:
        if key not in self.keys_kept:
            raise KeyError(key)
        found = self.checkpoint.weights.codes(*key)
        assert isinstance(found, StoredMatrix | Codes)
        stored = self.target.keeps(key[0], found)
        assert not isinstance(stored, str)
        return stored

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys_kept)

    def __len__(self) -> int:
        return len(self.keys_kept)

    def __contains__(self, key: object) -> bool:
        return key in self.keys_kept

    def hold_layers(self) -> bool:
        """Whether nothing is left to be fitted."""
        return all(key in self.keys_kept for keys in key_groups(self.checkpoint.spec) for key in keys
                   if key[1] is not None)

    def to_json(self) -> dict[str, Any]:
        return {"by": self.checkpoint.quantized_by, "weights": len(self.keys_kept), "anew": {
            reason: [role if layer is None else f"{role} of layer {layer}" for role, layer in keys]
            for reason, keys in self.anew.items()}}


def kept_codes(checkpoint: Checkpoint, target: DecoderBackend, types: Types, words: DecoderWords) -> Kept:
    """Those whose codes the target holds as they are, and that have no more bits than the words ask for.

    Raises:
        ModelError: tensors of the checkpoint do not belong together.
    """
    kept: dict[Key, str] = {}
    anew: dict[str, list[Key]] = defaultdict(list)
    for key in (key for keys in key_groups(checkpoint.spec) for key in keys):
        found = checkpoint.weights.codes(*key)
        if found is None:
            continue
        stored = found if isinstance(found, str) else _asked_for(found, types(*key), words) or target.keeps(
            key[0], found)
        if isinstance(stored, str):
            anew[stored].append(key)
        elif words.type not in ("", stored.type) and types(*key) != stored.type:
            anew[f"--gguf-type {words.type} asks for another type"].append(key)
        else:
            kept[key] = stored.type
    for keys in _torn(checkpoint, target, kept):
        anew["parts of one tensor would have several types"] += keys
        for key in keys:
            del kept[key]
    return Kept(checkpoint, target, tuple(kept), MappingProxyType(dict(anew)))


def _asked_for(found: Stored, type: str, words: DecoderWords) -> str:
    """Why the words want other codes; '' where they do not."""
    if words.bits >= 16 and not words.type:
        return f"--bits {words.bits} asks for floats"
    wanted = FORMATS[type].code_bits if type in FORMATS else 16
    bits = found.bits if isinstance(found, Codes) else FORMATS[found.type].code_bits
    return f"it has {bits} bits, and {wanted} are asked for" if bits > wanted else ""


def _torn(checkpoint: Checkpoint, target: DecoderBackend, kept: Mapping[Key, str]) -> list[list[Key]]:
    """Keys of tensors that hold several weights, of which not all have one type."""
    groups: dict[tuple[str, int | None], list[Key]] = defaultdict(list)
    for role, tensor in target.fused(checkpoint.spec).items():
        for layer in range(len(checkpoint.spec.layers)):
            groups[tensor, layer].append((role, layer))
    return [[key for key in keys if key in kept] for keys in groups.values()
            if len({kept.get(key) for key in keys}) > 1]
