"""What LiteRT's kernels run on integers."""
from __future__ import annotations

from typing import Final

from edgeq.ops import MOVING
from edgeq.targets import FREE, SAME, Fixed, Target, each, row_table

_TFLITE: Final = "https://github.com/google-ai-edge/LiteRT/blob/main/tflite/kernels/"
_TFLITE_SPEC: Final = "https://ai.google.dev/edge/litert/models/quantization_spec"

TFLITE: Final = Target(
    "tflite", "tflite", "TFLite / LiteRT: Android, Raspberry Pi, embedded Linux",
    "int8 per channel; int4 per channel", "int8 or int16 static", "tflite",
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
    ), wide=row_table(
        each(("Conv",), FREE, _TFLITE + "conv.cc"),
        each(("ConvTranspose",), FREE, _TFLITE + "transpose_conv.cc"),
        each(("Gemm", "MatMul"), FREE, _TFLITE + "fully_connected.cc"),
        each(("Add",), FREE, _TFLITE + "add.cc"), each(("Sub",), FREE, _TFLITE + "sub.cc"),
        each(("Mul", "Neg", "HardSwish"), FREE, _TFLITE + "mul.cc"),
        each(("Relu", "Clip"), FREE, _TFLITE + "maximum_minimum.cc"),
        each(("LeakyRelu",), FREE, _TFLITE + "activations.cc"),
        each(("Abs",), FREE, _TFLITE + "elementwise.cc"),
        each(("Exp",), FREE, _TFLITE + "exp.cc"),
        each(("GlobalAveragePool", "ReduceMean"), FREE, _TFLITE + "reduce.cc"),
        # space_to_depth.cc and depth_to_space.cc stop at 8 bits.
        each(tuple(sorted(MOVING - {"SpaceToDepth", "DepthToSpace"})), SAME, _TFLITE_SPEC),
        # CONCATENATION does not rescale. One grid for all would be one for a whole network that concatenates again and
        # again: FastestDet's single one costs .12 dB. A QUANTIZE beside kernels that are not delegated costs nothing.
        each(("Concat",), FREE, _TFLITE + "concatenation.cc"),
        each(("Resize",), SAME, _TFLITE + "resize_bilinear.cc"),
        each(("AveragePool",), SAME, _TFLITE + "pooling.cc"),
        each(("Max", "Min"), SAME, _TFLITE + "maximum_minimum.cc"),
        each(("Where",), SAME, _TFLITE + "select.cc"),
        each(("Sigmoid", "Softmax", "Tanh"), Fixed(1 / 32768, 0), _TFLITE + "activations.cc"),
        # A MUL and an ADD whose fused Relu clips below, and the end of the grid above.
        each(("HardSigmoid",), Fixed(1 / 32767, 0), _TFLITE + "add.cc"),
    ), wide_symmetric=True, no_wide_4_bits="LiteRT's convolutions of the two compute garbage without an error",
    wide_bias_bits=64, interfaces=frozenset({"uint8", "int8"}))
