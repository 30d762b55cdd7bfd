"""A checkpoint folder, opened: its configuration, the row that reads it, and its weights."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeq.errors import ModelError
from edgeq.frontends.decoder.architectures import architecture_of, spec_of
from edgeq.frontends.decoder.builder import build_decoder, float_parts
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.tensors import open_tensors
from edgeq.frontends.decoder.weights import Weights


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """folder: None for a checkpoint that was a single file."""

    spec: Spec
    weights: Weights
    config: dict[str, Any]
    folder: Path | None = None

    def float_graph(self, *, context: int | None = None) -> ir.Model:
        """The network in float32."""
        parts = float_parts(self.weights.matrix, self.weights.vector, tied=self.spec.tied)
        return build_decoder(self.spec, parts, context=context)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read config.json, find the tensors; none of them is read yet.

    Raises:
        ModelError: no config.json, an unknown architecture, or shards that are missing or cut short.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except OSError:
        raise ModelError(f"{folder} is no checkpoint: it holds no config.json") from None
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is damaged: {error}") from None
    spec = spec_of(config)
    return Checkpoint(spec, Weights(spec, architecture_of(config), open_tensors(folder)), config, folder)
