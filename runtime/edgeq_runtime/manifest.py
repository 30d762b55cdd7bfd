"""The bundle's manifest: written on the host, read on the device. Standard library only."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Optional, Tuple

FORMAT = 1
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as the user sees it.

    shape: numbers, or names of dimensions that are free. dtype: a numpy name. engine_name: what the engine calls it, where
    that differs. layout: "NCHW", "NHWC" or "". scale, zero_point: only where the user's array holds integers of a grid.
    """

    name: str
    dtype: str
    shape: Tuple[Any, ...]
    engine_name: str = ""
    layout: str = ""
    scale: Optional[float] = None
    zero_point: Optional[int] = None


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: path relative to it with forward slashes, length in bytes, sha256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything a device must know. Unknown keys are errors; a newer `format` is refused by name.

    entry: the file or folder that the engine opens. engine_version: a specifier such as ">=1.23". options: what the engine
    is told at load. preprocessing: how an image or sound becomes the input, or None. quantization: scheme, and the nodes
    kept in float with their reasons. calibration: number of samples and the sha256 of the data, or None. accuracy: what
    verification measured on the host.
    """

    name: str
    target: str
    engine: str
    engine_version: str
    entry: str
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    files: Tuple[FileEntry, ...]
    options: Dict[str, Any] = field(default_factory=dict)
    preprocessing: Optional[Dict[str, Any]] = None
    labels: Tuple[str, ...] = ()
    quantization: Dict[str, Any] = field(default_factory=dict)
    calibration: Optional[Dict[str, Any]] = None
    accuracy: Dict[str, Any] = field(default_factory=dict)
    source_sha256: str = ""
    edgeq_version: str = ""
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"
