"""What the modules around a loaded model see of it; `session.Model` is one."""
from __future__ import annotations

from typing import Any, Dict, Mapping, Protocol, Tuple

from .manifest import Manifest, TensorSpec


class Runnable(Protocol):
    folder: str
    manifest: Manifest
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]

    @property
    def steps(self) -> Tuple[Any, Any]: ...

    def run(self, inputs: Mapping[str, Any]) -> Dict[str, Any]: ...
