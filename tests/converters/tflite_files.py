"""Helpers of the TFLite tests: emit, read back, run on one of LiteRT's three sets of kernels."""
from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.backend import Artifact, EmitOptions
from edgeq_converters.tflite import emit

RESOLVERS = ("AUTO", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN_REF")


def emitted(model: ir.Model) -> tuple[bytes, Artifact]:
    with tempfile.TemporaryDirectory() as folder:
        artifact = emit(model, Path(folder), EmitOptions())
        return (Path(folder) / artifact.entry).read_bytes(), artifact


def interpreter(content: bytes, resolver: str = "AUTO") -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    made = Interpreter(model_content=content, num_threads=1,
                       experimental_op_resolver_type=getattr(OpResolverType, resolver))
    made.allocate_tensors()
    return made


def run(content: bytes, feeds: dict[str, NDArray[Any]], resolver: str = "AUTO") -> dict[str, NDArray[Any]]:
    """Through the signature, so by the public names."""
    return dict(interpreter(content, resolver).get_signature_runner()(**feeds))


def parsed(content: bytes) -> Any:
    """The schema's ModelT."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(content, 0)


def kernels(content: bytes) -> Counter[str]:
    """How often each builtin occurs."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = parsed(content)
    return Counter(names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators)


def off(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference, relative to the largest number expected."""
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())
