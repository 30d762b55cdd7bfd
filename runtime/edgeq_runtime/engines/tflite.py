"""LiteRT (ai-edge-litert), or tflite-runtime where it has no wheel. One interpreter serves one thread at a time."""
from __future__ import annotations

import os
from threading import Lock
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgeq_runtime.engines import missing
from edgeq_runtime.engines.versions import require, specifier
from edgeq_runtime.errors import BundleError, EngineError, InputError
from edgeq_runtime.manifest import Manifest, TensorSpec

OPTIONS = {
    "threads",         # how many for one run, where the caller does not say
    "tflite_runtime",  # version specifier for tflite-runtime; its numbers do not compare with those of ai-edge-litert
    "variables",       # the model has some, which a run would find as the one before left them
}


def open(folder: str, manifest: Manifest, threads: Optional[int]) -> TFLite:
    """Raises EngineError: no interpreter installed, outside the version range, or the model is refused by it."""
    unknown = sorted(set(manifest.options) - OPTIONS)
    if unknown:
        raise BundleError(f"options that this runtime does not know: {', '.join(unknown)}; update edgeq-runtime")
    package, interpreter_class = import_interpreter()
    version = version_of(package)
    require(package, version, specifier(package, manifest.engine_version, manifest.options))
    try:
        interpreter = interpreter_class(model_path=os.path.join(folder, manifest.entry), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"{package} {version} cannot load {manifest.entry}: {error}") from error
    return TFLite(interpreter, f"{package} {version}", manifest)


class TFLite:
    """An interpreter that takes and gives arrays in the manifest's order and dtypes."""

    accelerator = "CPU"

    def __init__(self, interpreter: Any, description: str, manifest: Manifest) -> None:
        self.description = description
        self._interpreter = interpreter
        self._lock = Lock()
        self._has_variables = bool(manifest.options.get("variables"))
        self._inputs = _bind("inputs", manifest.inputs, interpreter.get_input_details())
        self._outputs = _bind("outputs", manifest.outputs, interpreter.get_output_details())
        self._no_buffers = [None] * len(self._outputs)
        self._shapes: List[Tuple[int, ...]] = [
            tuple(int(d) for d in details["shape"])
            for index, _ in self._inputs for details in interpreter.get_input_details() if details["index"] == index]

    def run(self, arrays: Sequence[Any], out: Optional[Sequence[Any]] = None) -> List[Any]:
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:
                raise EngineError("the model is closed")
            shapes = [array.shape for array in arrays]
            if shapes != self._shapes:
                self._resize(shapes)
            for (index, dtype), array in zip(self._inputs, arrays, strict=True):
                interpreter.set_tensor(index, array if array.dtype == dtype else _narrow(array, dtype))
            if self._has_variables:
                interpreter.reset_all_variables()
            interpreter.invoke()
            outputs = [interpreter.get_tensor(index) if target is None else _filled(target, interpreter.tensor(index)())
                       for (index, _), target in zip(self._outputs, out or self._no_buffers, strict=True)]
        return [output if output.dtype == dtype else output.astype(dtype)
                for output, (_, dtype) in zip(outputs, self._outputs, strict=True)]

    def _resize(self, shapes: List[Tuple[int, ...]]) -> None:
        for (index, _), shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def close(self) -> None:
        with self._lock:
            self._interpreter = None


def import_interpreter() -> Tuple[str, Any]:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        pass
    else:
        return "ai-edge-litert", Interpreter
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError:
        raise missing("ai-edge-litert", "pip install 'edgeq-runtime[tflite]' "
                      "(32-bit ARM: 'edgeq-runtime[tflite-legacy]')") from None
    return "tflite-runtime", Interpreter


def version_of(package: str) -> str:
    """As the package says itself; its metadata are asked last, because reading them takes 4 MB of modules."""
    from importlib import import_module

    found = getattr(import_module(package.replace("-", "_")), "__version__", None)
    if found is not None:
        return str(found)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:  # a build without its metadata, as app packagers make them
        return "0"


def _bind(kind: str, specs: Sequence[TensorSpec], details: List[Dict[str, Any]]) -> List[Tuple[int, Any]]:
    """The manifest's tensors -> (index in the interpreter, dtype).

    The dtype of an input is the engine's and that of an output the user's: the two may differ by the width of an
    integer only, because LiteRT's kernels compute some indices as int32.
    """
    by_name = {tensor["name"]: tensor for tensor in details}
    names = [spec.engine_name or spec.name for spec in specs]
    if set(names) - set(by_name) or (kind == "inputs" and len(by_name) != len(names)):
        raise BundleError(f"the manifest's {kind} {names} are not those of the model: {list(by_name)}")
    bound = []
    for spec, name in zip(specs, names, strict=True):
        engine, user = np.dtype(by_name[name]["dtype"]), np.dtype(spec.dtype)
        if engine != user and not (engine.kind in "iu" and user.kind in "iu" and spec.scale is None):
            raise BundleError(f"the manifest says that '{spec.name}' is {user}, in the model it is {engine}")
        bound.append((by_name[name]["index"], engine if kind == "inputs" else user))
    return bound


def _filled(target: Any, view: Any) -> Any:
    """The caller's array with what the interpreter's memory holds, which the next run overwrites."""
    target[...] = view
    return target


def _narrow(array: Any, dtype: Any) -> Any:
    """An integer array in another width; InputError where a value does not fit."""
    limits = np.iinfo(dtype)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise InputError(f"a value between {array.min()} and {array.max()} does not fit the engine's {dtype}")
    return array.astype(dtype)
