"""What TensorRT runs on integers."""
from __future__ import annotations

from typing import Final

from edgeq.targets import FREE, MOVES, SAME, Row, Target, each, row_table

# "Q/DQ Layer-Placement Recommendations" there: round the inputs of weighted layers, not their outputs as such.
_TENSORRT: Final = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
# Conv + Add is one kernel where the shortcut is rounded and the convolution's own result is not.
_TENSORRT_RESIDUAL: Final = "https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit/docs/docs/add_custom_qdq_cases.html"

TENSORRT: Final = Target(
    "tensorrt", "onnxruntime", "TensorRT, CUDA or CPU through ONNX Runtime: Jetson",
    "int8 per channel; int4 per block for MatMul", "int8 static, symmetric; float16", "",
    row_table(
        each(("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool", "GlobalAveragePool"), FREE, _TENSORRT,
              float_output=True),
        {"Add": Row(FREE, _TENSORRT_RESIDUAL, float_output=True, fused=frozenset({"Conv"}))},
        each(MOVES, SAME, _TENSORRT),
    ), symmetric=True,
    # "an IDequantizeLayer is required between the weights and the linear operator that uses them":
    # https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
    keeps_embeddings="TensorRT documents integer constants for layers that multiply, not for the table of a Gather",
    # Strongly typed networks give floats; an int8 input needs a scale that the parser does not read:
    # https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
    no_integers="TensorRT's engine is built for floats at its interface; leave --io out")
