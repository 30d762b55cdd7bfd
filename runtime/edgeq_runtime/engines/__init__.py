"""One module per engine with ``open(folder, manifest, threads) -> Engine``; only the one that is used is imported.

Further engines come with packages that name such a module in an entry point of the group `edgeq_runtime.engines`.
"""
from __future__ import annotations

from importlib import import_module
from typing import Any, List, Optional, Protocol, Sequence

from edgeq_runtime.errors import EngineError
from edgeq_runtime.manifest import Manifest

GROUP = "edgeq_runtime.engines"
# Known without their entry points: a zipped app, iOS, and the copy that is pushed to a board carry no metadata, and
# reading them takes 4 MB of modules. A test holds this against pyproject.toml.
BUILT_IN = ("onnxruntime", "tflite", "coreml", "coreai", "llamacpp", "litertlm")


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
    engine: Engine = _module(manifest.engine).open(folder, manifest, threads)
    return engine


def _module(name: str) -> Any:
    if name in BUILT_IN:
        return import_module(f".{name}", __name__)
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except ImportError as error:
            raise EngineError(f"the engine '{name}' cannot be loaded from {entry.value}: {error}") from error
    raise EngineError(f"this runtime has no engine '{name}': update edgeq-runtime, or install the package that brings "
                      "the engine")


def written_to(outputs: List[Any], out: Optional[Sequence[Any]]) -> List[Any]:
    """What `Engine.run` returns, for an engine that cannot write into the caller's arrays by itself."""
    for position, target in enumerate(out or ()):
        if target is not None:
            target[...] = outputs[position]
            outputs[position] = target
    return outputs


def missing(package: str, command: str) -> EngineError:
    return EngineError(f"{package} is not installed: {command}")
