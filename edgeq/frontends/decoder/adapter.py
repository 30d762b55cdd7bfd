"""LoRA and DoRA adapters of peft, merged into the weights that they were trained for.

Hu et al. 2021, arXiv:2106.09685; Liu et al. 2024, arXiv:2402.09353; files: https://huggingface.co/docs/peft
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np

from edgeq.errors import ModelError
from edgeq.frontends.decoder.tensors import Tensors, places
from edgeq.quant.codes import Array, Codes

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_BEGINNING: Final = "base_model.model."
# Initial values under which the base stays what it was; PiSSA and others take a part away from it.
_BASE_STAYS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
_PARTS: Final = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?")


class Base(Protocol):
    """The weights that an adapter was trained for, by name."""

    def __getitem__(self, name: str) -> Array: ...

    def __contains__(self, name: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def codes(self, name: str) -> Codes | None: ...


@dataclass(frozen=True, slots=True)
class Update:
    """Of one weight: scale * b @ a is added, a [r, inputs], b [outputs, r]. magnitude: of DoRA, the length of every
    row [outputs] afterwards. turned: the weight is [inputs, outputs].
    """

    a: str
    b: str
    scale: float
    magnitude: str | None
    turned: bool


@dataclass(frozen=True, slots=True)
class AdaptedTensors(Mapping[str, Array]):
    """Name -> float32 array, with the adapter merged. replaced: ours of a name that the adapter holds as a whole."""

    base: Base
    adapter: Tensors
    updates: Mapping[str, Update]
    replaced: Mapping[str, str]

    def __getitem__(self, name: str) -> Array:
        if name in self.replaced:
            return self.adapter[self.replaced[name]]
        found, update = self.base[name], self.updates.get(name)
        if update is None:
            return found
        merged = (found.T if update.turned else found) + np.float32(update.scale) * (
            self.adapter[update.b] @ self.adapter[update.a])
        if update.magnitude is not None:
            merged *= (self.adapter[update.magnitude].reshape(-1) / np.linalg.norm(merged, axis=1))[:, None]
        return merged.T if update.turned else merged

    def __contains__(self, name: object) -> bool:
        return name in self.base

    @property
    def changed(self) -> frozenset[str]:
        return frozenset((*self.updates, *self.replaced))

    def codes(self, name: str) -> Codes | None:
        """None of what the adapter changes."""
        return None if name in self.changed else self.base.codes(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def open_adapter(folder: Path, base: Base) -> AdaptedTensors:
    """Raises:
        ModelError: files that are missing or damaged, a kind that is neither LoRA nor DoRA on linear layers, layers
            that the base has not, or ranks and shapes that do not fit.
    """
    try:
        config = dict(json.loads((folder / _CONFIG).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"--adapter {folder}: no adapter: {_CONFIG} cannot be read ({error})") from None
    if config.get("peft_type", "LORA") != "LORA":
        raise ModelError(f"--adapter {folder}: a {config['peft_type']} cannot be merged; LoRA and DoRA can")
    if config.get("init_lora_weights") not in _BASE_STAYS:
        raise ModelError(f"--adapter {folder}: init_lora_weights '{config['init_lora_weights']}' changes the base, "
                         "too; save it with peft's path_initial_model_for_weight_conversion")
    tensors = Tensors(places(folder / _TENSORS))
    parts: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    for name in tensors:
        found = _PARTS.fullmatch(name)
        if found is not None:
            parts.setdefault(_base_name(f"{found[1]}.weight", base, folder), {})[found[2]] = name
        elif ".lora_" in name:
            raise ModelError(f"--adapter {folder}: '{name}' is of no linear layer, and is not merged")
        else:
            stem = name.replace(".modules_to_save", "").replace(".default", "")
            replaced[_base_name(stem, base, folder)] = name
    try:
        updates = {name: _update(name, found, config, tensors, base, folder) for name, found in parts.items()}
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ModelError(f"--adapter {folder}: {_CONFIG} is damaged: {error}") from error
    return AdaptedTensors(base, tensors, MappingProxyType(updates), MappingProxyType(replaced))


def _base_name(name: str, base: Base, folder: Path) -> str:
    wanted = name.removeprefix(_BEGINNING)
    found = next((known for known in (wanted, wanted.removeprefix("model."), f"model.{wanted}") if known in base), None)
    if found is None:
        raise ModelError(f"--adapter {folder}: the checkpoint has no layer '{wanted.removesuffix('.weight')}'; the "
                         "adapter is of another network")
    return found


def _update(name: str, parts: Mapping[str, str], config: Mapping[str, Any], tensors: Tensors,
            base: Base, folder: Path) -> Update:
    stem, turned = name.removesuffix(".weight"), bool(config.get("fan_in_fan_out"))
    wanted = ("lora_A", "lora_B", *(("lora_magnitude_vector",) if config.get("use_dora") else ()))
    missing = [part for part in wanted if part not in parts]
    if missing:
        raise ModelError(f"--adapter {folder}: '{stem}' lacks {' and '.join(missing)}")
    a, b = (tensors.places[parts[part]].shape for part in ("lora_A", "lora_B"))
    rank = int(_by_pattern(config.get("rank_pattern"), stem, config.get("r", a[0])))
    if not len(a) == len(b) == 2 or a[0] != b[1] or a[0] != rank:
        raise ModelError(f"--adapter {folder}: '{stem}' has lora_A {a} and lora_B {b} where {_CONFIG} says rank {rank}")
    shape = base.shape(name)[::-1] if turned else base.shape(name)
    if shape != (b[0], a[1]):
        raise ModelError(f"--adapter {folder}: '{stem}' is for a weight of {(b[0], a[1])}; the checkpoint has {shape}")
    alpha = float(_by_pattern(config.get("alpha_pattern"), stem, config.get("lora_alpha", rank)))
    return Update(parts["lora_A"], parts["lora_B"], alpha / (rank ** 0.5 if config.get("use_rslora") else rank),
                  parts.get("lora_magnitude_vector"), turned)


def _by_pattern(patterns: Mapping[str, Any] | None, stem: str, otherwise: Any) -> Any:
    """A number of some layers alone: by the end of their names, or a pattern of it."""
    return next((value for pattern, value in (patterns or {}).items()
                 if re.fullmatch(rf"(.*\.)?({pattern})", stem)), otherwise)
