"""Write a model with a backend and run the artifact with its engine, nothing of edgeq's runtime in between."""
from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions, backend_named
from edgeq_converters.optable import OpTable

from .model import Arrays

BACKENDS: Final = ("onnxruntime", "tflite", "coreml", *(["coreai"] if find_spec("coreai") else []))
# Where a backend keeps its table of handlers; ONNX Runtime takes ONNX as it is and has none.
TABLES: Final = {"tflite": "edgeq_converters.tflite.ops", "coreml": "edgeq_converters.coreml.table",
                 "coreai": "edgeq_converters.coreai.table"}

# The backend lets MatMulNBits round activations to int8 for speed (level 4); the rows ask what the graph computes.
EXACT: Final = {"session.qdq_matmulnbits_accuracy_level": "1"}

# Core AI's runtime computes in float32 what it is given so, which shows more than half precision would.
OPTIONS: Final = {"coreai": EmitOptions(precision="float32")}


def handlers(backend: str) -> Mapping[str, Callable[..., Any]]:
    """Op type -> handler."""
    module = importlib.import_module(TABLES[backend])
    table = next(value for value in vars(module).values() if isinstance(value, OpTable))
    return table.handlers


def run(backend: str, model: ir.Model, feeds: Arrays, folder: Path, options: EmitOptions | None = None) -> Arrays:
    """Convert and run -> graph output name -> array, in the graph's dtypes.

    Raises:
        UnsupportedModel: the backend's refusal.
    """
    artifact: Artifact = backend_named(backend).emit(model, folder, options or OPTIONS.get(backend, EmitOptions()))
    names = {str(value.name): artifact.names.get(str(value.name), str(value.name))
             for value in (*model.graph.inputs, *model.graph.outputs)}
    found = _RUNNERS[backend](folder / artifact.entry, artifact, {names[name]: data for name, data in feeds.items()})
    return {str(value.name): _ranked(found[names[str(value.name)]], value) for value in model.graph.outputs}


def _ranked(array: Any, value: ir.Value) -> Any:
    """Core ML has ranks 1 to 5 at its interface; its engine in edgeq_runtime does the same."""
    return array if value.shape is None or 0 < len(value.shape) < 6 else array.reshape(tuple(value.shape.numpy()))


def _run_onnxruntime(path: Path, artifact: Artifact, feeds: Arrays) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in (artifact.options.get("session_options", {}) | EXACT).items():
        options.add_session_config_entry(key, str(value))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def _run_tflite(path: Path, artifact: Artifact, feeds: Arrays) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():  # int64 may be int32 here; nothing else changes
        interpreter.set_tensor(details["index"], feeds[details["name"]].astype(details["dtype"]))
    interpreter.invoke()
    return {details["name"]: interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()}


def _run_coreml(path: Path, artifact: Artifact, feeds: Arrays) -> Arrays:
    from edgeq.verification.mlpackage import open_package

    program = open_package(path)
    shapes = {spec.name: spec.shape for spec in program.inputs}
    found = program.run({name: data.reshape(shapes[name]) for name, data in feeds.items()})
    return {name: np.asarray(array) for name, array in found.items()}


@cache
def _coreai() -> Any:
    """One process for all rows; a row that ends it gets the next one another."""
    from edgeq_runtime.engines.coreai import Child

    return Child()


def _run_coreai(path: Path, artifact: Artifact, feeds: Arrays) -> Arrays:
    from edgeq_runtime.errors import EngineError

    child = _coreai()
    try:
        child.open(path)
        return dict(child.run(feeds))
    except EngineError as error:
        if "its process ended" in str(error):
            child.close()
            _coreai.cache_clear()
        raise


_RUNNERS: Final = {"onnxruntime": _run_onnxruntime, "tflite": _run_tflite, "coreml": _run_coreml, "coreai": _run_coreai,
                   "tensorrt": _run_onnxruntime}
