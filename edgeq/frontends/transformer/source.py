"""A folder of an encoder, or of an encoder with a decoder, opened: rows, stacks, and the graphs in float32."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeGuard, get_args

import numpy as np
import onnx_ir as ir

from edgeq.errors import ModelError
from edgeq.frontends.decoder.tensors import open_tensors
from edgeq.frontends.transformer.builder import TOKENS, Array, Decoder, Encoder, Pooling
from edgeq.frontends.transformer.families import Config, Family, Side, family_of, stack_of
from edgeq.frontends.transformer.spec import Learned, Stack
from edgeq_runtime.dimensions import Dimension, Range

_MODULES: Final = "modules.json"
_POOLINGS: Final[Mapping[str, Pooling]] = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """What sentence-transformers' modules.json asks for behind an encoder. context: tokens of a text at most."""

    pooling: Pooling
    normalized: bool
    context: int


@dataclass(frozen=True, slots=True)
class Folder:
    """path: of the folder. row: of its family. tensors: name -> float32 array, read when asked for."""

    path: Path
    row: Family
    config: Config
    tensors: Mapping[str, Array]

    def stack(self, side: Side = "encoder") -> Stack:
        return stack_of(self.row, self.config, side)

    @property
    def sentence(self) -> Sentence:
        """Raises ModelError: modules that edgeq does not write, or a damaged file."""
        return _sentence(self.path, self.stack().context)

    def encoder(self) -> ir.Model:
        """A text to a vector.

        Raises:
            ModelError: the row has a decoder; or see `sentence`.
        """
        if self.row.decoder is not None:
            raise ModelError(f"{self.path} is an encoder with a decoder, two networks: it is converted, and "
                             "nothing else is done with it")
        stack, sentence = self.stack(), self.sentence
        encoder = Encoder(replace(stack, context=sentence.context), self._reader(self.row.encoder, stack))
        return encoder.sentence(sentence.pooling, normalized=sentence.normalized)

    def pair(self) -> tuple[ir.Model, ir.Model]:
        """Encoder and decoder of a row that has both."""
        assert self.row.decoder is not None
        first, second = self.stack("encoder"), self.stack("decoder")
        decoder = Decoder(second, self._reader(self.row.decoder, second))
        encoder = Encoder(first, self._reader(self.row.encoder, first))
        return encoder.crossed(decoder), decoder.step(first.context if first.mels else TOKENS)

    def _reader(self, names: Mapping[str, str], stack: Stack) -> Any:
        def read(role: str, part: str, layer: int | None) -> Array:
            ends = [name.format(layer) + (f".{part}" if part else "") for name in names[role].split("|")]
            there = next((name for end in ends for prefix in self.row.prefixes
                          if (name := prefix + end) in self.tensors), None)
            if there is None:
                raise ModelError(f"the checkpoint has no tensor '{ends[0]}'")
            found = self.tensors[there]
            expected = shape_of(stack, role, part)
            if expected is not None and found.shape != expected:
                raise ModelError(f"tensor '{there}' has shape {found.shape} where config.json says {expected}")
            return np.ascontiguousarray(found, np.float32)

        return read


def is_transformer(source: Any) -> TypeGuard[str | Path]:
    """Whether a source of a conversion is a folder whose config.json is of a family of `FAMILIES`."""
    if not isinstance(source, str | Path) or not (Path(source) / "config.json").is_file():
        return False
    try:
        return family_of(_config(Path(source))) is not None
    except ModelError:
        return False  # whoever reads checkpoints says it


def is_pair(source: Any) -> TypeGuard[str | Path]:
    """Whether it is one of an encoder with a decoder."""
    if not is_transformer(source):
        return False
    row = family_of(_config(Path(source)))
    return row is not None and row.decoder is not None


def limits_of(source: str | Path) -> dict[str, tuple[Dimension, ...]]:
    """Of the inputs of a text encoder: from one token to all that it reads."""
    folder = open_folder(Path(source))
    return {"input_ids": (1, Range(TOKENS, 1, folder.sentence.context))}


def open_folder(path: Path) -> Folder:
    """No tensor is read yet.

    Raises:
        ModelError: no row for it; files that are missing or damaged.
    """
    config = _config(path)
    row = family_of(config)
    if row is None:
        raise ModelError(f"{path}: no row for '{config.get('model_type')}'")
    return Folder(path, row, config, open_tensors(path))


def _config(path: Path) -> dict[str, Any]:
    found = _json(path / "config.json")
    if not isinstance(found, dict):
        raise ModelError(f"{path / 'config.json'} is damaged: it is no JSON object")
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or cannot be read: {error}") from None


def _sentence(folder: Path, context: int) -> Sentence:
    """Without modules.json the mean of the tokens, as sentence-transformers has it then."""
    if not (folder / _MODULES).is_file():
        return Sentence("mean", False, context)
    modules = _json(folder / _MODULES)
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise ModelError(f"{folder / _MODULES} is damaged: it is no list of modules")
    pooling: Pooling | None = None
    normalized = False
    for module in modules:
        match str(module.get("type", "")).rpartition(".")[2]:
            case "Transformer":
                continue
            case "Pooling" if pooling is None:
                pooling = _pooling(folder / str(module.get("path", "")) / "config.json")
            case "Normalize":
                normalized = True
            case other:
                raise ModelError(f"{_MODULES}: edgeq writes Transformer, one Pooling and Normalize, no {other}")
    said = folder / "sentence_bert_config.json"
    most = (_json(said) if said.is_file() else {}).get("max_seq_length") or context
    return Sentence(pooling or "mean", normalized, min(int(most), context))


def _pooling(file: Path) -> Pooling:
    config = _json(file)
    named = config.get("pooling_mode")
    if named in get_args(Pooling):
        return named  # type: ignore[no-any-return]
    asked = [kind for word, kind in _POOLINGS.items() if config.get(word)]
    others = [word for word in config if word.startswith("pooling_mode_") and word not in _POOLINGS and config[word]]
    if len(asked) != 1 or others:
        raise ModelError(f"{file}: edgeq pools by one of {', '.join(_POOLINGS)}; it asks for "
                         f"{', '.join([*asked, *others]) or 'none'}")
    return asked[0]


def shape_of(stack: Stack, role: str, part: str) -> tuple[int, ...] | None:
    """What a tensor must have; None where the graph does not depend on it."""
    heads = stack.heads * stack.head_size
    plain = role.removeprefix("cross_")
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (stack.vocabulary, stack.hidden), "head": (stack.vocabulary, stack.hidden),
        **dict.fromkeys("qkv", (heads, stack.hidden)), "o": (stack.hidden, heads),
        **dict.fromkeys(("gate", "up"), (stack.inner, stack.hidden)), "down": (stack.hidden, stack.inner),
        "conv1": (stack.hidden, stack.mels, 3), "conv2": (stack.hidden, stack.hidden, 3)}
    if isinstance(stack.positions, Learned):
        shapes["positions"] = (stack.positions.rows, stack.hidden)
    if stack.relative is not None:
        shapes["relative"] = (stack.relative.buckets, stack.heads)
    if plain in shapes:
        return shapes[plain] if part == "weight" else shapes[plain][:1]
    if role.endswith("norm"):
        return (stack.hidden,)
    return (1, stack.vocabulary) if role == "head_bias" else None
