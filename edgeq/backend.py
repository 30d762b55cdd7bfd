"""What the pipeline asks of a backend, and what it gets back.

A backend is a package of edgeq_converters with one function::

    def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact

`model` is standard ONNX (opset 21, IR 10, float32), with or without QuantizeLinear/DequantizeLinear. Its shapes are
static, but for the dimensions that edgeq.dimensions.free_dimensions finds.
It is not changed. The files are written into `folder`, which exists and is the bundle in the making. Every node that
the target cannot run is reported in one `UnsupportedModel`, and then nothing may be left in the folder.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import onnx_ir as ir

from edgeq.scheme import FloatType

ComputeUnits = Literal["ane", "gpu", "cpu", "all"]


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """min_os, compute, precision: Core ML only (iOS version; where the model should run; what floats are computed in).

    float32 keeps an ML program off the Neural Engine (https://apple.github.io/coremltools/docs-guides/source/
    typed-execution.html), so it is for those who ask for 32 bits.
    """

    min_os: int = 18
    compute: ComputeUnits = "ane"
    precision: FloatType = "float16"


@dataclass(frozen=True, slots=True)
class FloatNode:
    """A node that a quantized graph nevertheless runs in float on this engine."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """What an artifact does with a node otherwise than the graph says: it costs bytes or time, and no number."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """What `emit` wrote.

    entry: file or folder, relative to the bundle, that the engine opens.
    engine, engine_version: who runs it, and a version specifier such as ">=1.23".
    names: graph input or output name -> the engine's name for it, where they differ.
    options: what the engine must be told at load (session options, compute units); goes into the manifest as it is.
    float_nodes: islands of float inside a quantized graph. notes: what the user pays for and would not expect.
    """

    entry: str
    engine: str
    engine_version: str
    names: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    float_nodes: tuple[FloatNode, ...] = ()
    notes: tuple[Note, ...] = ()

    def float_beyond(self, kept: Iterable[str]) -> list[FloatNode]:
        """The islands but for those that the plan keeps float, which have a reason of their own."""
        planned = set(kept)
        return [node for node in self.float_nodes if node.node not in planned]


class Backend(Protocol):
    """The module of a backend."""

    def emit(self, model: ir.Model, folder: Path, options: EmitOptions) -> Artifact: ...
