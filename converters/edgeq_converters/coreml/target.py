"""What Core ML runs on integers."""
from __future__ import annotations

from typing import Final

from edgeq.targets import FREE, MOVES, SAME, Target, each, row_table

_COREML: Final = "https://apple.github.io/coremltools/docs-guides/source/opt-quantization-overview.html"

SYSTEMS: Final = (16, 17, 18, 26)  # of iOS, which goes from 18 to 26

COREML: Final = Target(
    "coreml", "coreml", "Core ML: iPhone, iPad, Mac, Apple Neural Engine",
    "int8 per channel; 4 bits as 16-entry tables per channel", "int8 static (iOS 17)", "coreml",
    row_table(
        each(("Conv", "Add", "Mul", "Relu", "Clip", "Concat", "GlobalAveragePool", "AveragePool"), FREE, _COREML),
        each(("Gemm", "MatMul"), FREE, _COREML, float_output=True),
        each(MOVES, SAME, _COREML),
    ), tables=True, interfaces=frozenset({"image"}),
    # https://apple.github.io/coremltools/docs-guides/source/typed-execution.html
    no_integers="Core ML has no integers of 8 bits at its interface before iOS 26; with --preprocess of an image it "
                "takes the image as it is, so leave --io out")
