"""A decoder's weights by role, whatever the checkpoint calls them and however it fuses them."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.frontends.decoder.architectures import Architecture
from edgeq.frontends.decoder.spec import LayerNorm, Spec
from edgeq.quant.codes import Codes

Array: TypeAlias = NDArray[np.float32]
_PREFIXES: Final = ("", "model.", "transformer.")  # a file may hold the bare model, or the one inside of a head
_FUSED: Final = re.compile(r"(.+)\[(.+)\]")


@dataclass(frozen=True, slots=True)
class Weights:
    """Read one at a time. tensors: name -> float32 array. codes_of: name -> the codes of a weight that another tool
    quantized, None of one in floats.

    Raises:
        ModelError: a tensor is missing, or its shape does not fit the configuration.
    """

    spec: Spec
    row: Architecture
    tensors: Mapping[str, Array]
    codes_of: Callable[[str], Codes | None] = lambda name: None

    def codes(self, role: str, layer: int | None = None) -> Codes | None:
        """Of a matrix, where another tool quantized it."""
        name = self._name("embedding" if role == "head" and self.spec.tied else role, "weight", layer)
        found = None if name is None else self.codes_of(name)
        if found is None:
            return None
        fused, expected = _FUSED.fullmatch(self.row.names[role]), shape_of(self.spec, role, "weight")
        found = found if fused is None else found.rows(self._part(len(found.codes), fused[2]))
        if found.codes.shape != expected:
            raise ModelError(f"'{name}' has {found.codes.shape} codes where config.json says {expected}")
        return found

    def matrix(self, role: str, layer: int | None = None) -> Array:
        """A linear layer or a table, [outputs, inputs] or [rows, width]. A tied head is the embedding's table."""
        return self._read("embedding" if role == "head" and self.spec.tied else role, "weight", layer)

    def vector(self, role: str, part: str, layer: int | None = None) -> Array:
        """A bias, or the weight of a norm."""
        return self._read(role, part, layer)

    def _read(self, role: str, part: str, layer: int | None) -> Array:
        name = self._name(role, part, layer)
        if name is None:
            raise ModelError(f"the checkpoint has no tensor '{self._template(role, part, layer)}'")
        codes = self.codes_of(name)  # of which rows are outputs, whatever the floats' are
        found = np.asarray(self.tensors[name], np.float32) if codes is None else codes.real()
        if codes is None and self.row.transposed and part == "weight" and role in ("q", "k", "v", "o", "up", "down"):
            found = np.ascontiguousarray(found.T)
        fused = _FUSED.fullmatch(self.row.names[role])
        found = found if fused is None else found[self._part(len(found), fused[2])]
        expected = shape_of(self.spec, role, part)
        if found.shape != expected:
            raise ModelError(f"tensor '{name}' has shape {found.shape} where config.json says {expected}")
        return found

    def _part(self, rows: int, part: str) -> slice:
        """Which rows of a fused tensor are a role's."""
        query, key = self.spec.heads * self.spec.head_size, self.spec.kv_heads * self.spec.head_size
        if part in "qkv":
            start = {"q": 0, "k": query, "v": query + key}[part]
            return slice(start, start + (query if part == "q" else key))
        number, count = (int(text) for text in part.split("/"))
        size = rows // count
        return slice(number * size, (number + 1) * size)

    def _template(self, role: str, part: str, layer: int | None) -> str:
        name = self.row.names[role]
        fused = _FUSED.fullmatch(name)
        return f"{(name if fused is None else fused[1]).format(layer)}.{part}"

    def _name(self, role: str, part: str, layer: int | None) -> str | None:
        wanted = self._template(role, part, layer)
        bare = wanted.removeprefix("model.")
        return next((name for prefix in _PREFIXES for stem in (wanted, bare)
                     if (name := prefix + stem) in self.tensors), None)


def shape_of(spec: Spec, role: str, part: str) -> tuple[int, ...]:
    """What a tensor must have, by role; [outputs, inputs]."""
    query, key = spec.heads * spec.head_size, spec.kv_heads * spec.head_size
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (spec.vocabulary, spec.hidden), "positions": (spec.learned_positions, spec.hidden),
        "head": (spec.vocabulary, spec.hidden), "q": (query, spec.hidden), "k": (key, spec.hidden),
        "v": (key, spec.hidden), "o": (spec.hidden, query), "gate": (spec.inner, spec.hidden),
        "up": (spec.inner, spec.hidden), "down": (spec.hidden, spec.inner),
    }
    if role in shapes:
        return shapes[role] if part == "weight" else shapes[role][:1]
    if role in ("q_norm", "k_norm"):
        width = query if role == "q_norm" else key
        return (spec.head_size,) if spec.qk_norm == "head" else (width,)
    return (spec.hidden,)


def linear_roles(spec: Spec) -> tuple[str, ...]:
    """The linear layers of one block, in the order of computation."""
    return ("q", "k", "v", "o", *(("gate",) if spec.gated else ()), "up", "down")


def norm_roles(spec: Spec) -> tuple[str, ...]:
    """The norms of one block."""
    return (*(("attention_norm", "mlp_norm") if spec.pre_norm else ()),
            *(("attention_post_norm", "mlp_post_norm") if spec.post_norm else ()),
            *(("q_norm", "k_norm") if spec.qk_norm else ()))


def norm_parts(spec: Spec) -> tuple[str, ...]:
    return ("weight", "bias") if isinstance(spec.norm, LayerNorm) else ("weight",)
