"""TensorRT, through ONNX Runtime's execution provider: the QDQ graph in the only form that its parser takes.

INT8 on symmetric grids, biases in float, INT4 in blocks of a MatMul's weight, everything between in float16. An engine
is built on the device itself, for its GPU: here the graph is checked rule by rule (lint) and computed by onnxruntime
on the CPU.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions
from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import NodeNote
from edgeq_converters.onnxfile import MODEL, save
from edgeq_converters.tensorrt.float16 import compute_in_half
from edgeq_converters.tensorrt.lint import Finding, lint
from edgeq_converters.tensorrt.weights import block_int4_weights, float_constants

ENGINE_VERSION: Final = ">=1.18"  # the first with opset 21

# https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html. Networks that are not strongly typed,
# as up to TensorRT 10, need the two precisions switched on (onnxruntime#13381). The runtime makes the path one of the
# bundle's and of onnxruntime's version: an engine is good for one version, model and GPU only.
_TENSORRT: Final = {"trt_int8_enable": "True", "trt_engine_cache_enable": "True", "trt_timing_cache_enable": "True",
                    "trt_engine_cache_path": "engine_cache", "trt_timing_cache_path": "engine_cache"}

# Of the CPU, where nothing faster is left: int8 activations as they are, which its pass for x86-64 breaks
# (onnxruntime#25526), and INT4 products in float, as TensorRT computes them.
_CPU: Final = {"session.qdqisint8allowed": "1", "session.qdq_matmulnbits_accuracy_level": "1"}


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    """Write `model.onnx` (opset 21, IR 10), with `model.onnx.data` for weights of a megabyte and more.

    Raises:
        UnsupportedModel: what a rule of `lint` forbids, all of it, each with the remedy.
    """
    model = model.clone()
    graph = model.graph
    float_constants(graph)
    notes = block_int4_weights(graph)
    notes += [NodeNote(each.node, each.op, each.reason) for each in _refused(lint(graph))]
    half = options.precision == "float16"
    if half:
        compute_in_half(graph)
        _refused(lint(graph))  # of a source that has types of its own
    save(model, folder)
    tensorrt = {**_TENSORRT, "trt_fp16_enable": str(half)}
    providers: list[Any] = [["TensorrtExecutionProvider", tensorrt], "CUDAExecutionProvider", "CPUExecutionProvider"]
    return Artifact(MODEL, "onnxruntime", ENGINE_VERSION, options={"providers": providers, "session_options": _CPU},
                    notes=tuple(notes))


def _refused(found: list[Finding]) -> list[Finding]:
    """-> what runs, and slower. Raises UnsupportedModel where anything does not."""
    refused = [each for each in found if each.refused]
    if refused:
        raise UnsupportedModel("tensorrt", [Problem(each.node, each.op, f"{each.reason} [{each.rule}]", each.remedy)
                                            for each in refused])
    return found
