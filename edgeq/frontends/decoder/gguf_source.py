"""A .gguf file as a source: its metadata becomes a configuration, its tensors are dequantized one at a time."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import MissingExtra, ModelError
from edgeq.frontends.decoder.architectures import ARCHITECTURES, Architecture
from edgeq.frontends.decoder.gguf_names import FUSED, NAMES, file_order
from edgeq.frontends.decoder.spec import RMSNorm, Spec
from edgeq.frontends.decoder.weights import shape_of
from edgeq.quant.decoder import StoredMatrix
from edgeq.quant.formats import FORMATS

Array = NDArray[np.float32]
# Key of the file, without its architecture -> key of config.json.
_KEYS: Final[Mapping[str, str]] = MappingProxyType({
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon", "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base": "rope_theta", "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
})


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """metadata: key -> value. tensors: name -> the gguf package's view of one."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class GgufWeights:
    """A file's weights by role, in the order and form that a checkpoint folder has them.

    Raises:
        ModelError: a tensor is missing, has a type that cannot be dequantized, or a shape that does not fit.
    """

    spec: Spec
    row: Architecture
    file: GgufFile

    def matrix(self, role: str, layer: int | None = None) -> Array:
        return self._read("embedding" if role == "head" and self.spec.tied else role, "weight", layer)

    def codes(self, role: str, layer: int | None = None) -> StoredMatrix | None:
        """A matrix as the file has it, its rows in our order; None of one in floats."""
        role = "embedding" if role == "head" and self.spec.tied else role
        tensor = self._tensor(role, "weight", layer)
        if tensor.tensor_type.name not in FORMATS:
            return None
        found = self._rows(np.asarray(tensor.data), role, "weight")
        rows, columns = shape_of(self.spec, role, "weight")
        if len(found) != rows or columns != tensor.shape[0]:
            raise ModelError(f"tensor '{tensor.name}' has shape {tuple(reversed(tensor.shape.tolist()))} where the "
                             f"metadata says {(rows, columns)}")
        return StoredMatrix(tensor.tensor_type.name, found, columns)

    def vector(self, role: str, part: str, layer: int | None = None) -> Array:
        found = self._read(role, part, layer)
        is_norm = role.endswith("norm") and isinstance(self.spec.norm, RMSNorm)
        return found - np.float32(self.spec.norm.offset) if is_norm and isinstance(self.spec.norm, RMSNorm) else found

    def _read(self, role: str, part: str, layer: int | None) -> Array:
        tensor = self._tensor(role, part, layer)
        found: Array = self._rows(_dequantized(tensor), role, part)
        expected = shape_of(self.spec, role, part)
        if found.shape != expected:
            raise ModelError(f"tensor '{tensor.name}' has shape {found.shape} where the metadata says {expected}")
        return found

    def _fused(self, role: str) -> tuple[str, tuple[str, ...]]:
        """The tensor that a role is in, and all roles in it."""
        return next(((name, roles) for name, roles in FUSED.get(self.row.gguf, {}).items() if role in roles),
                    (role, (role,)))

    def _tensor(self, role: str, part: str, layer: int | None) -> Any:
        name = f"{NAMES[self._fused(role)[0]].format(layer)}.{part}"
        if name not in self.file.tensors:
            raise ModelError(f"{self.file.path.name} has no tensor '{name}'")
        return self.file.tensors[name]

    def _rows(self, found: NDArray[Any], role: str, part: str) -> NDArray[Any]:
        """Of a tensor, those of a role, in our order."""
        roles = self._fused(role)[1]
        if len(roles) > 1:
            sizes = [shape_of(self.spec, other, part)[0] for other in roles]
            found = np.split(found, np.cumsum(sizes)[:-1])[roles.index(role)]
        if role in "qk":
            found = found[np.argsort(file_order(self.spec, self.row.gguf, role))]
        return found


def open_gguf(path: Path) -> GgufFile:
    """Raises ModelError: the file is missing, cut short or no GGUF. MissingExtra: the package gguf is not there."""
    try:
        import gguf
    except ImportError:
        raise MissingExtra("GGUF", "decoder") from None
    if not path.is_file():
        raise ModelError(f"no such file: {path}")
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # numpy, struct and the reader each raise their own
        raise ModelError(f"{path} is no GGUF file, or is cut short: {error}") from error
    return GgufFile(path, metadata, {tensor.name: tensor for tensor in reader.tensors})


def config_of(file: GgufFile) -> dict[str, Any]:
    """The file's metadata in the words of config.json.

    Raises:
        ModelError: an architecture that no row has.
    """
    name = str(file.metadata.get("general.architecture", ""))
    row = next((row for row in ARCHITECTURES.values() if row.gguf == name), None)
    if row is None:
        raise ModelError(f"{file.path.name}: no row for the architecture '{name}'; there are "
                         f"{', '.join(sorted({row.gguf for row in ARCHITECTURES.values()}))}")
    head = f"{name}."
    config: dict[str, Any] = {ours: file.metadata[head + theirs] for theirs, ours in _KEYS.items()
                              if head + theirs in file.metadata}
    if "vocab_size" not in config:
        config["vocab_size"] = len(file.metadata.get("tokenizer.ggml.tokens", ()))
    config |= {"model_type": row.type, "tie_word_embeddings": "output.weight" not in file.tensors,
               "attention_bias": "blk.0.attn_output.bias" in file.tensors,
               "mlp_bias": "blk.0.ffn_down.bias" in file.tensors}
    if "query_pre_attn_scalar" in row.defaults:  # no key of the file says it; llama.cpp takes the size of a head
        config["query_pre_attn_scalar"] = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    scaling = _rope_scaling(file, head)
    return config | ({"rope_scaling": scaling} if scaling else {})


def _rope_scaling(file: GgufFile, head: str) -> dict[str, Any]:
    found = {key: file.metadata.get(f"{head}rope.scaling.{key}") for key in ("type", "factor", "attn_factor")}
    original = file.metadata.get(f"{head}rope.scaling.original_context_length")
    if "rope_freqs.weight" in file.tensors:
        raise ModelError(f"{file.path.name}: its rotary frequencies are scaled by a table (rope_freqs), from which "
                         "edgeq cannot tell the scaling; give the checkpoint folder")
    if "rope_factors_short.weight" in file.tensors:
        short, long = (_dequantized(file.tensors[f"rope_factors_{kind}.weight"]).tolist() for kind in ("short", "long"))
        return {"rope_type": "longrope", "short_factor": short, "long_factor": long,
                "attention_factor": found["attn_factor"], "original_max_position_embeddings": original}
    if found["type"] in (None, "none"):
        return {}
    return {"rope_type": found["type"], "factor": found["factor"], "original_max_position_embeddings": original}


def _dequantized(tensor: Any) -> Array:
    import gguf

    try:
        found = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    except NotImplementedError:
        raise ModelError(f"tensor '{tensor.name}' has type {tensor.tensor_type.name}, which the gguf package cannot "
                         "dequantize") from None
    if not np.isfinite(found).all():
        raise ModelError(f"tensor '{tensor.name}' holds NaN or infinite numbers")
    return found.reshape([int(size) for size in reversed(tensor.shape)])
