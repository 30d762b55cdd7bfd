"""What ONNX Runtime's CPU kernels run on integers."""
from __future__ import annotations

from typing import Final

from edgeq.targets import FREE, MOVES, SAME, Fixed, Target, each, row_table

_ORT: Final = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"
# The CPU computes these in float; Qualcomm's execution provider reads the form as integers of 16 bits.
_QNN: Final = "https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html"
_QNN_GRIDS: Final = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/python/tools/quantization/execution_providers/qnn/quant_config.py"

ONNXRUNTIME: Final = Target(
    "onnxruntime", "onnxruntime", "ONNX Runtime: Raspberry Pi, Jetson, Android, desktop",
    "int8 per channel; int4 per channel, or per block for MatMul", "uint8 static; uint16 for Qualcomm's QNN", "",
    row_table(
        each(("Conv", "Add", "Mul", "GlobalAveragePool", "AveragePool", "LeakyRelu", "Relu", "Clip", "Concat",
               "HardSwish"), FREE, _ORT),
        each(("Gemm", "MatMul"), FREE, _ORT, float_output=True),
        each((*MOVES, "Where"), SAME, _ORT),
        each(("Sigmoid", "Softmax"), Fixed(1 / 256, 0), _ORT),
    ), wide=row_table(
        each(("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "GlobalAveragePool", "ReduceMean",
              "AveragePool", "LeakyRelu", "PRelu", "Relu", "Clip", "Concat", "HardSwish", "Resize", "Softmax"), FREE,
             _QNN),
        each((*MOVES, "Where"), SAME, _QNN),
        each(("Sigmoid",), Fixed(1 / 65536, 0), _QNN_GRIDS),
        each(("Tanh",), Fixed(1 / 32768, 32768), _QNN_GRIDS),
    ), open_sizes=True, interfaces=frozenset({"uint8", "int8"}))
