"""onnxruntime on this machine: every session of the package is opened here, with the same options and work-arounds."""
from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

# https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h
_ENTRIES: Final[Mapping[str, str]] = MappingProxyType({
    # Threads that spin while they wait take the cores of what runs beside them, such as the histograms of calibration.
    "session.intra_op.allow_spinning": "0",
    # Symmetric activations stay int8: the pass that makes them uint8 on x86-64 breaks graphs of opset 21
    # (https://github.com/microsoft/onnxruntime/issues/25526).
    "session.qdqisint8allowed": "1",
})


def open_session(model: ir.Model | Path | bytes, *, fused: bool, arena: bool = True, threads: int = 0, log: int = 3,
                 entries: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """An onnxruntime.InferenceSession on the CPU. model: a path is read where it
    lies; bytes are those of a small .onnx file.

    Unfused, a QDQ graph computes exactly what it says: float ops between roundings to the grids. Fused, onnxruntime
    replaces them by integer kernels, which round once more or less here and there. arena: keep memory for the next
    run. threads: for one operator; 0 takes every core. log: 3 writes errors to stderr, 4 leaves it at the exception.
    entries: of the session's configuration, beside those above.

    Raises:
        ModelError: onnxruntime refuses the model, because of an op of a domain that it does not know, say.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = log
    options.enable_cpu_mem_arena = arena
    options.intra_op_num_threads = threads
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, text in {**_ENTRIES, **entries}.items():
        options.add_session_config_entry(key, str(text))
    with ExitStack() as temporary:
        if isinstance(model, ir.Model):
            model = _saved(model, Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="edgeq-"))))
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise ModelError(f"onnxruntime, the reference of every check, cannot load the model: {error}") from error


def _saved(model: ir.Model, folder: Path) -> Path:
    """As a file with its weights beside it: 2 GB are no limit then."""
    path = folder / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    return path


def exposing(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy with inner values as further outputs; names of other values are passed over."""
    result = model.clone()
    graph = result.graph
    known = {value.name: value for node in graph for value in node.outputs}
    have = {value.name for value in graph.outputs}
    graph.outputs.extend(known[name] for name in names if name in known and name not in have)
    return result
