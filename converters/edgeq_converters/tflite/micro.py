"""What TensorFlow Lite Micro makes of a .tflite file: what it cannot run, and, where it is installed, what it computes
and how much memory that takes.
"""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from edgeq import policy
from edgeq.backend import Trial
from edgeq.errors import Problem, UnsupportedModel
from edgeq_runtime.manifest import Manifest

PACKAGE: Final = "tflite-micro==0.dev20261023182759"  # there are development releases only
# https://github.com/tensorflow/tflite-micro/blob/main/python/tflite_micro/python_ops_resolver.cc, of those that a
# .tflite file of ours can hold.
_NAMES: Final = """
    ABS ADD ADD_N ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_TO_SPACE_ND BROADCAST_ARGS BROADCAST_TO CAST CEIL
    CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE DIV ELU EQUAL EXP EXPAND_DIMS
    FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF
    L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC
    LOG_SOFTMAX MAX_POOL_2D MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE
    REDUCE_MAX RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR ROUND RSQRT SELECT_V2 SHAPE SIN SLICE
    SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE
    SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK WHILE ZEROS_LIKE
"""
OPERATORS: Final = frozenset(_NAMES.split())
ALIGNMENT: Final = 64  # bytes
_INTEGERS: Final = "--full-integer with --calibration DATA"


def refuse(entry: Path) -> None:
    """Raises UnsupportedModel: operators that it lacks, and weights that it would read wrong without a word."""
    problems = list(_problems(entry.read_bytes()))
    if problems:
        raise UnsupportedModel("TensorFlow Lite Micro", problems)


def _problems(data: bytes) -> Iterator[Problem]:
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kernel = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            name = graph.tensors[operator.outputs[0]].name.decode()
            inputs = [graph.tensors[k] for k in operator.inputs if k >= 0]
            if kernel not in OPERATORS:
                yield Problem(name, kernel, "it has no such operator")
            elif any(-1 in (tensor.shapeSignature if tensor.shapeSignature is not None else ()) for tensor in inputs):
                yield Problem(name, kernel, "its sizes must be known", "--input NAME=SHAPE")
            elif any(_is_integer_weight(schema, model, tensor) for tensor in inputs) and _computes_in_float(
                    schema, graph, operator):
                # The scale of a channel is not read: DequantizePrepare takes params.scale, the first of all.
                # https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro/kernels/dequantize_common.cc
                yield Problem(name, kernel, "integer weights that are computed with in float: it takes the first "
                                            "channel's scale for all, without a word", _INTEGERS)


def _is_integer_weight(schema: Any, model: Any, tensor: Any) -> bool:
    """A constant with a scale for each channel."""
    quantization = tensor.quantization
    scales = 0 if quantization is None or quantization.scale is None else len(quantization.scale)
    return bool(scales > 1 and model.buffers[tensor.buffer].data is not None)


def _computes_in_float(schema: Any, graph: Any, operator: Any) -> bool:
    return any(graph.tensors[k].type == schema.TensorType.FLOAT32 for k in operator.outputs)


def tried(folder: Path, manifest: Manifest) -> Trial:
    """Run the bundle's self-test in the least memory that it takes.

    Raises:
        UnsupportedModel: it refuses the file, or gives other outputs than the self-test allows.
    """
    if find_spec("tflite_micro") is None:
        return Trial(f"TensorFlow Lite Micro has not run it: pip install --no-deps {PACKAGE}")
    ample = policy.MICRO_ARENA.value + 10 * (folder / manifest.entry).stat().st_size
    allocated = int(_run(folder, manifest, ample).split("Arena allocation total ")[1].split()[0])
    arena = -(-allocated // ALIGNMENT) * ALIGNMENT + ALIGNMENT  # where it begins is not aligned
    result = json.loads(_run(folder, manifest, arena).splitlines()[-1])
    if result is not None and not result["ok"]:
        raise _refusal(result["said"])
    said = "" if result is None else f"; self-test: {result['said']}"
    return Trial(f"TensorFlow Lite Micro: an arena of {arena} bytes, measured on this machine{said}",
                 {"arena_bytes": arena})


def _run(folder: Path, manifest: Manifest, arena: int) -> str:
    """What the child printed."""
    ran = subprocess.run([sys.executable, "-m", "edgeq_converters.tflite.micro_child", str(folder), str(arena)],
                         input=manifest.to_json(), capture_output=True, text=True, timeout=policy.MICRO_SECONDS.value)
    if ran.returncode:
        raise _refusal((ran.stderr.strip().splitlines() or [f"it ended with exit code {ran.returncode}"])[-1])
    return f"{ran.stderr}\n{ran.stdout}"


def _refusal(said: str) -> UnsupportedModel:
    return UnsupportedModel("TensorFlow Lite Micro", [Problem("model.tflite", "file", said)])
