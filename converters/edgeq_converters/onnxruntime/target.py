"""What ONNX Runtime's CPU kernels run on integers."""
from __future__ import annotations

from typing import Final

from edgeq.targets import FREE, MOVES, SAME, Fixed, Target, each, row_table

_ORT: Final = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selector_action_transformer.cc"

ONNXRUNTIME: Final = Target(
    "onnxruntime", "onnxruntime", "ONNX Runtime: Raspberry Pi, Jetson, Android, desktop",
    "int8 per channel; int4 per channel, or per block for MatMul", "uint8 static", "",
    row_table(
        each(("Conv", "Add", "Mul", "GlobalAveragePool", "AveragePool", "LeakyRelu", "Relu", "Clip", "Concat",
               "HardSwish"), FREE, _ORT),
        each(("Gemm", "MatMul"), FREE, _ORT, float_output=True),
        each((*MOVES, "Where"), SAME, _ORT),
        each(("Sigmoid", "Softmax"), Fixed(1 / 256, 0), _ORT),
    ), open_sizes=True, interfaces=frozenset({"uint8", "int8"}))
