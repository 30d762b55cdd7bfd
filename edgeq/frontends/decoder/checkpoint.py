"""A checkpoint folder, opened: its configuration, the row that reads it, and its weights."""
from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeGuard

import onnx_ir as ir

from edgeq.errors import ModelError
from edgeq.frontends.decoder.adapter import AdaptedTensors, open_adapter
from edgeq.frontends.decoder.architectures import Architecture, architecture_of, spec_of
from edgeq.frontends.decoder.builder import build_decoder, float_parts
from edgeq.frontends.decoder.gguf_source import GgufWeights, config_of, open_gguf
from edgeq.frontends.decoder.padding import PaddedWeights
from edgeq.frontends.decoder.quantized import quantized_tensors
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.tensors import open_tensors
from edgeq.frontends.decoder.weights import Weights


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """path: the folder or the .gguf file. row: of its architecture. config: in the words of config.json. quantized_by:
    the tool whose codes the weights have, "" of floats. adapter: folder of what is merged into them.
    """

    spec: Spec
    row: Architecture
    weights: Weights | GgufWeights | PaddedWeights
    config: dict[str, Any]
    path: Path
    quantized_by: str = ""
    adapter: Path | None = None

    @property
    def name(self) -> str:
        """Of the folder, or of the file without its ending."""
        return self.path.stem if self.path.suffix == ".gguf" else self.path.resolve().name

    def adapted(self) -> dict[str, Any] | None:
        """For reports: the adapter's name, and how many weights it changes."""
        weights = self.weights.weights if isinstance(self.weights, PaddedWeights) else self.weights
        if self.adapter is None or not isinstance(weights, Weights) or not isinstance(weights.tensors, AdaptedTensors):
            return None
        return {"name": self.adapter.resolve().name, "weights": len(weights.tensors.changed)}

    def padded(self, block: int = 32) -> Checkpoint:
        """The same network, its MLPs a multiple of `block` wide: rows of 172 become rows of 192, the added ones 0."""
        inner = -(-self.spec.inner // block) * block
        if inner == self.spec.inner:
            return self
        return replace(self, spec=replace(self.spec, inner=inner), weights=PaddedWeights(self.weights, inner))

    def float_graph(self, *, context: int | None = None) -> ir.Model:
        """The network in float32."""
        parts = float_parts(self.weights.matrix, self.weights.vector, tied=self.spec.tied)
        return build_decoder(self.spec, parts, context=context)


_FILES: Final = ("config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


def is_checkpoint(source: Any) -> TypeGuard[str | Path]:
    """Whether a source of a conversion is a language model: a checkpoint's folder, which may lack files, or a .gguf."""
    return isinstance(source, str | Path) and (
        Path(source).suffix == ".gguf" or any(next(Path(source).glob(name), None) is not None for name in _FILES))


def open_checkpoint(path: Path, adapter: Path | None = None) -> Checkpoint:
    """Read the configuration of a folder or a .gguf file, and find its tensors; none of them is read yet. adapter:
    folder of a LoRA or DoRA that is merged into the weights.

    Raises:
        ModelError: no config.json, an unknown architecture, a kind of quantization that nobody reads, an adapter of
            another network, or files that are missing or cut short.
    """
    if path.suffix == ".gguf":
        if adapter is not None:
            raise ModelError("--adapter: names of its layers are those of a checkpoint folder, not of a .gguf file; "
                             "give the folder that it was trained on")
        file = open_gguf(path)
        config = config_of(file)
        spec, row = spec_of(config), architecture_of(config)
        return Checkpoint(spec, row, GgufWeights(spec, row, file), config, path, "GGUF")
    return _open_folder(path, adapter)


def _open_folder(folder: Path, adapter: Path | None) -> Checkpoint:
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError:
        raise ModelError(f"{folder} is no checkpoint: it holds no config.json") from None
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is damaged: {error}") from None
    spec = spec_of(config)
    row = architecture_of(config)
    plain = open_tensors(folder)
    quantized = quantized_tensors(plain, config, _said_beside(folder))
    base = plain if quantized is None else quantized
    if adapter is not None and quantized is not None and row.transposed:
        raise ModelError(f"--adapter: layers of a quantized {row.type} lie otherwise than those that it was made for; "
                         "give the float checkpoint")
    tensors = base if adapter is None else open_adapter(adapter, base)
    return Checkpoint(spec, row, Weights(spec, row, tensors, tensors.codes), config, folder,
                      "" if quantized is None else quantized.method, adapter)


def _said_beside(folder: Path) -> dict[str, Any]:
    """What AutoGPTQ and AutoAWQ say of their quantization, in files of their own."""
    for name in ("quantize_config.json", "quant_config.json"):
        if (folder / name).is_file():
            found: dict[str, Any] = json.loads((folder / name).read_text())
            return found
    return {}
