"""One module per engine with ``open(folder, manifest, threads) -> Engine``; only the one that is used is imported."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Protocol, Sequence

from edgeq_runtime.errors import EngineError
from edgeq_runtime.manifest import Manifest

PIP_COMMANDS: Dict[str, str] = {
    "onnxruntime": "pip install 'edgeq-runtime[onnxruntime]'",
    "tflite": "pip install 'edgeq-runtime[tflite]' (32-bit ARM: 'edgeq-runtime[tflite-legacy]')",
    "coreml": "pip install coremltools",
}


class Engine(Protocol):
    """An opened model. `run` is safe from several threads.

    description: engine and version. accelerator: what really computes.
    run: arrays in the order of the manifest's inputs -> arrays in the order of its outputs, in the manifest's dtypes.
    out: for each output the contiguous array to write it into and return, or None.
    """

    description: str
    accelerator: str

    def run(self, arrays: Sequence[Any], out: Optional[Sequence[Any]] = None) -> List[Any]: ...

    def close(self) -> None: ...


def open_engine(folder: str, manifest: Manifest, threads: Optional[int]) -> Engine:
    """Open the bundle with the engine that it names.

    Raises:
        EngineError: the engine is unknown, not installed, too old, or cannot load the model.
    """
    if manifest.engine not in PIP_COMMANDS:
        raise EngineError(f"this runtime has no engine '{manifest.engine}': update edgeq-runtime")
    from importlib import import_module

    engine: Engine = import_module(f".{manifest.engine}", __name__).open(folder, manifest, threads)
    return engine


def missing(engine: str, package: str) -> EngineError:
    return EngineError(f"{package} is not installed: {PIP_COMMANDS[engine]}")
