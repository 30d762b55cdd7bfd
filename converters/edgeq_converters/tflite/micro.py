"""What TensorFlow Lite Micro makes of a .tflite file: what it cannot run, and, where it is installed, what it computes
and how much memory that takes.
"""
from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from edgeq.backend import Trial
from edgeq.errors import Problem, UnsupportedModel
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.selftest import FILE_NAME, Case, read_selftest, write_selftest

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
_AMPLE: Final = 1 << 24  # bytes, beside ten times the model's: an arena in which it tells what it allocates
_SECONDS: Final = 300  # its kernels are the plain reference ones
_INTEGERS: Final = "--full-integer with --calibration DATA"


def refuse(entry: Path) -> None:
    """Raises UnsupportedModel: operators that it lacks, and weights that it would read wrong without a word."""
    problems = list(_problems(entry.read_bytes()))
    if problems:
        raise UnsupportedModel("TensorFlow Lite Micro", problems)


@dataclass(frozen=True, slots=True)
class Call:
    """An operator in a file. kernel: the builtin's name, or what a custom one calls itself. name: of its first output.
    floats: it computes in float. by_channel: it reads a constant that has several scales. open_sizes: an input's size
    is decided by each run.
    """

    kernel: str
    name: str
    floats: bool
    by_channel: bool
    open_sizes: bool


def calls(data: bytes) -> Iterator[Call]:
    """Every operator of a .tflite file."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))

    def by_channel(tensor: Any) -> bool:
        grid = tensor.quantization
        return grid is not None and grid.scale is not None and len(grid.scale) > 1 and (
            model.buffers[tensor.buffer].data is not None)

    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kernel = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            inputs = [graph.tensors[k] for k in operator.inputs if k >= 0]
            outputs = [graph.tensors[k] for k in operator.outputs]
            yield Call(code.customCode.decode() if kernel == "CUSTOM" else kernel, outputs[0].name.decode(),
                       any(tensor.type == schema.TensorType.FLOAT32 for tensor in outputs),
                       any(map(by_channel, inputs)),
                       any(tensor.shapeSignature is not None and -1 in tensor.shapeSignature for tensor in inputs))


def _problems(data: bytes) -> Iterator[Problem]:
    for call in calls(data):
        if call.kernel not in OPERATORS:
            yield Problem(call.name, call.kernel, "it has no such operator")
        elif call.open_sizes:
            yield Problem(call.name, call.kernel, "its sizes must be known", "--input NAME=SHAPE")
        elif call.by_channel and call.floats:
            # One scale is read, the first: https://github.com/tensorflow/tflite-micro/blob/main/tensorflow/lite/micro/kernels/dequantize_common.cc
            yield Problem(call.name, call.kernel, "integer weights that are computed with in float: it takes the first "
                                                  "channel's scale for all, without a word", _INTEGERS)


def tried(folder: Path, manifest: Manifest) -> Trial:
    """Run the bundle's self-test in the least memory that it takes, against LiteRT's reference kernels: its own are
    these, and the bundle's expected outputs are those of faster ones.

    Raises:
        UnsupportedModel: it refuses the file, or gives other outputs than the self-test allows.
    """
    if find_spec("tflite_micro") is None:
        return Trial("TensorFlow Lite Micro has not run it: pip install 'edgeq[mcu]'")
    with tempfile.TemporaryDirectory(prefix="edgeq-") as made:
        if (folder / FILE_NAME).is_file():
            _write_reference(folder, manifest, Path(made))
        arena, result = _in_least_memory(folder / manifest.entry, manifest, Path(made))
    if result is not None and not result["ok"]:
        raise _refusal(result["said"])
    said = "" if result is None else f", beside LiteRT's reference kernels: {result['said']}"
    return Trial(f"TensorFlow Lite Micro: an arena of {arena} bytes, measured on this machine{said}",
                 {"arena_bytes": arena})


def _write_reference(folder: Path, manifest: Manifest, made: Path) -> None:
    """The bundle's self-test with the outputs of LiteRT's reference kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    cases, tolerance = read_selftest(folder / FILE_NAME)
    engine = Interpreter(str(folder / manifest.entry), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    engine.allocate_tensors()
    taken, given = engine.get_input_details(), engine.get_output_details()

    def outputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
        for spec, detail in zip(manifest.inputs, taken, strict=True):
            engine.set_tensor(detail["index"], inputs[spec.name])
        engine.reset_all_variables()
        engine.invoke()
        return {spec.name: engine.get_tensor(detail["index"])
                for spec, detail in zip(manifest.outputs, given, strict=True)}

    write_selftest(made / FILE_NAME, [Case(case.inputs, outputs(case.inputs)) for case in cases], tolerance)


def _in_least_memory(entry: Path, manifest: Manifest, selftest: Path) -> tuple[int, dict[str, Any] | None]:
    """(bytes of the arena, what the self-test in it said)."""
    ample = _AMPLE + 10 * entry.stat().st_size
    printed = _run(entry, manifest, ample, selftest)
    if isinstance(printed, UnsupportedModel):
        raise printed
    arena = int(printed.split("Arena allocation total ")[1].split()[0])
    while isinstance(printed := _run(entry, manifest, arena, selftest), UnsupportedModel) and arena < ample:
        arena = -(-(arena + arena // 32) // ALIGNMENT) * ALIGNMENT  # it takes some more while it starts
    if isinstance(printed, UnsupportedModel):
        raise printed
    return arena, json.loads(printed.splitlines()[-1])


def _run(entry: Path, manifest: Manifest, arena: int, selftest: Path) -> str | UnsupportedModel:
    """What the child printed, or why it failed."""
    ran = subprocess.run(
        [sys.executable, "-m", "edgeq_converters.tflite.micro_child", str(entry), str(arena), str(selftest)],
        input=manifest.to_json(), capture_output=True, text=True, timeout=_SECONDS)
    if ran.returncode:
        return _refusal((ran.stderr.strip().splitlines() or [f"it ended with exit code {ran.returncode}"])[-1])
    return f"{ran.stderr}\n{ran.stdout}"


def _refusal(said: str) -> UnsupportedModel:
    return UnsupportedModel("TensorFlow Lite Micro", [Problem("model.tflite", "file", said)])
