"""What each engine can run on quantized data, as rows of facts. Backends lower; this table lets the planner choose
grids.

An op without a row on a target runs in float there. Each row links to the source that sets the limit.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from edgeq.errors import UsageError
from edgeq.ops import MOVING


@dataclass(frozen=True, slots=True)
class Free:
    """The kernel rescales: inputs and outputs have grids of their own."""


@dataclass(frozen=True, slots=True)
class Same:
    """The kernel moves or selects integers: all data inputs and outputs share one grid."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The kernel writes on one grid only: uint8 scale and zero point."""

    scale: float
    zero_point: int


Constraint: TypeAlias = Free | Same | Fixed


@dataclass(frozen=True, slots=True)
class Row:
    """How an op with integer inputs runs. source: where the engine says so.

    float_output: the kernel may write float from integer inputs (a MatMul in front of a float op). fused: ops whose
    result the kernel takes from their accumulators: it never exists as integers.
    """

    constraint: Constraint
    source: str
    float_output: bool = False
    fused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Target:
    """One engine.

    rows: ONNX op -> how it runs in INT8. needs: the extra that installs its converter, or ''. open_sizes: it runs
    tensors whose size the data decides, as what NonZero finds. symmetric: its activations lie on signed grids around 0,
    so that it shares no plan with the others. tables: its 4-bit weights may be indices into any 16 numbers.
    keeps_embeddings: why the tables that a Gather looks up stay float, or ''.
    """

    name: str
    engine: str
    summary: str
    weights: str
    activations: str
    needs: str
    rows: Mapping[str, Row]
    open_sizes: bool = False
    symmetric: bool = False
    tables: bool = False
    keeps_embeddings: str = ""


_ORT: Final = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
_TFLITE: Final = "https://github.com/google-ai-edge/LiteRT/blob/main/tflite/kernels/"
_TFLITE_SPEC: Final = "https://ai.google.dev/edge/litert/models/quantization_spec"
_COREML: Final = "https://apple.github.io/coremltools/docs-guides/source/opt-quantization-overview.html"

_FREE, _SAME = Free(), Same()
_MOVES: Final = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split",
                 "Tile", "Expand", "MaxPool")


def _rows(*groups: Mapping[str, Row]) -> Mapping[str, Row]:
    return MappingProxyType({op: row for group in groups for op, row in group.items()})


def _each(ops: tuple[str, ...], constraint: Constraint, source: str, *, float_output: bool = False) -> dict[str, Row]:
    return dict.fromkeys(ops, Row(constraint, source, float_output))


ONNXRUNTIME: Final = Target(
    "onnxruntime", "onnxruntime", "ONNX Runtime: Raspberry Pi, Jetson, Android, desktop",
    "int8 per channel; int4 per channel, or per block for MatMul", "uint8 static", "",
    _rows(
        _each(("Conv", "Add", "Mul", "GlobalAveragePool", "AveragePool", "LeakyRelu", "Relu", "Clip", "Concat",
               "HardSwish"), _FREE, _ORT),
        _each(("Gemm", "MatMul"), _FREE, _ORT, float_output=True),
        _each((*_MOVES, "Where"), _SAME, _ORT),
        _each(("Sigmoid", "Softmax"), Fixed(1 / 256, 0), _ORT),
    ), open_sizes=True)

TFLITE: Final = Target(
    "tflite", "tflite", "TFLite / LiteRT: Android, Raspberry Pi, embedded Linux",
    "int8 per channel; int4 per channel", "int8 static", "tflite",
    _rows(
        _each(("Conv", "ConvTranspose"), _FREE, _TFLITE + "conv.cc"),
        _each(("Gemm", "MatMul"), _FREE, _TFLITE + "fully_connected.cc"),
        _each(("Add", "Sub", "Mul", "PRelu", "LeakyRelu", "Relu", "Clip", "HardSwish", "Gelu", "Elu", "Abs", "Exp",
               "Neg", "GlobalAveragePool", "ReduceMean"), _FREE, _TFLITE_SPEC),
        # No kernel of these rescales, and most do not check: a mismatch is silently wrong.
        _each((*sorted(MOVING), "Concat", "Resize", "AveragePool", "Max", "Min", "Where"), _SAME, _TFLITE_SPEC),
        _each(("Softmax",), Fixed(1 / 256, 0), _TFLITE + "activations.cc"),
        _each(("LogSoftmax",), Fixed(16 / 256, 255), _TFLITE + "activations.cc"),
        _each(("Sigmoid",), Fixed(1 / 256, 0), _TFLITE + "activations.cc"),
        _each(("Tanh",), Fixed(1 / 128, 128), _TFLITE + "activations.cc"),
        # A MUL and an ADD whose result saturates at both ends of the grid.
        _each(("HardSigmoid",), Fixed(1 / 255, 0), _TFLITE + "add.cc"),
    ))

COREML: Final = Target(
    "coreml", "coreml", "Core ML: iPhone, iPad, Mac, Apple Neural Engine",
    "int8 per channel; 4 bits as 16-entry tables per channel", "int8 static (iOS 17)", "coreml",
    _rows(
        _each(("Conv", "Add", "Mul", "Relu", "Clip", "Concat", "GlobalAveragePool", "AveragePool"), _FREE, _COREML),
        _each(("Gemm", "MatMul"), _FREE, _COREML, float_output=True),
        _each(_MOVES, _SAME, _COREML),
    ), tables=True)

# "Q/DQ Layer-Placement Recommendations" there: round the inputs of weighted layers, not their outputs as such.
_TENSORRT: Final = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
# Conv + Add is one kernel where the shortcut is rounded and the convolution's own result is not.
_TENSORRT_RESIDUAL: Final = "https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit/docs/docs/add_custom_qdq_cases.html"
TENSORRT: Final = Target(
    "tensorrt", "onnxruntime", "TensorRT, CUDA or CPU through ONNX Runtime: Jetson",
    "int8 per channel; int4 per block for MatMul", "int8 static, symmetric; float16", "",
    _rows(
        _each(("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool"), _FREE, _TENSORRT,
              float_output=True),
        {"Add": Row(_FREE, _TENSORRT_RESIDUAL, float_output=True, fused=frozenset({"Conv"}))},
        _each(_MOVES, _SAME, _TENSORRT),
    ), symmetric=True,
    # "an IDequantizeLayer is required between the weights and the linear operator that uses them":
    # https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    keeps_embeddings="TensorRT documents integer constants for layers that multiply, not for the table of a Gather")

TARGETS: Final[Mapping[str, Target]] = MappingProxyType({t.name: t for t in (ONNXRUNTIME, TFLITE, COREML, TENSORRT)})


def are_symmetric(targets: Iterable[Target]) -> bool:
    """Whether the activations of targets that share a plan are symmetric.

    Raises:
        UsageError: some are and some are not, so that they cannot share one.
    """
    kinds = {target.symmetric for target in targets}
    if len(kinds) > 1:
        raise UsageError("tensorrt has symmetric activations and shares no plan: ask for it in a call of its own")
    return kinds == {True}

