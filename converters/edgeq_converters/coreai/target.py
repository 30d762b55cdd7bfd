"""What Core AI runs on integers."""
from __future__ import annotations

from typing import Final

from edgeq.targets import FREE, MOVES, SAME, Target, each, row_table

# quantize and dequantize around any operator, as the compiler of coreai-core 1.0.0b3 takes them
_COREAI: Final = "https://pypi.org/project/coreai-core/1.0.0b3/"

SYSTEM: Final = 27  # of iOS and macOS: the first that opens an .aimodel

COREAI: Final = Target(
    "coreai", "coreai", "Core AI: iPhone, iPad, Mac from version 27",
    "int8, int4 per channel or block; any 16 numbers a channel", "int8 static", "coreai",
    row_table(
        each(("Conv", "Add", "Mul", "Relu", "Clip", "Concat", "GlobalAveragePool", "AveragePool"), FREE, _COREAI),
        each(("Gemm", "MatMul"), FREE, _COREAI, float_output=True),
        each(MOVES, SAME, _COREAI),
    ), tables=True)
