"""What LiteRT's kernels run on integers."""
from __future__ import annotations

from typing import Final

from edgeq.ops import MOVING
from edgeq.targets import FREE, SAME, Fixed, Target, each, row_table

_TFLITE: Final = "https://github.com/google-ai-edge/LiteRT/blob/main/tflite/kernels/"
_TFLITE_SPEC: Final = "https://ai.google.dev/edge/litert/models/quantization_spec"

TFLITE: Final = Target(
    "tflite", "tflite", "TFLite / LiteRT: Android, Raspberry Pi, embedded Linux",
    "int8 per channel; int4 per channel", "int8 static", "tflite",
    row_table(
        each(("Conv", "ConvTranspose"), FREE, _TFLITE + "conv.cc"),
        each(("Gemm", "MatMul"), FREE, _TFLITE + "fully_connected.cc"),
        each(("Add", "Sub", "Mul", "PRelu", "LeakyRelu", "Relu", "Clip", "HardSwish", "Gelu", "Elu", "Abs", "Exp",
              "Neg", "GlobalAveragePool", "ReduceMean"), FREE, _TFLITE_SPEC),
        # No kernel of these rescales, and most do not check: a mismatch is silently wrong.
        each((*sorted(MOVING), "Concat", "Resize", "AveragePool", "Max", "Min", "Where"), SAME, _TFLITE_SPEC),
        each(("Softmax",), Fixed(1 / 256, 0), _TFLITE + "activations.cc"),
        each(("LogSoftmax",), Fixed(16 / 256, 255), _TFLITE + "activations.cc"),
        each(("Sigmoid",), Fixed(1 / 256, 0), _TFLITE + "activations.cc"),
        each(("Tanh",), Fixed(1 / 128, 128), _TFLITE + "activations.cc"),
        # A MUL and an ADD whose result saturates at both ends of the grid.
        each(("HardSigmoid",), Fixed(1 / 255, 0), _TFLITE + "add.cc"),
    ), interfaces=frozenset({"uint8", "int8"}))
