"""Which nodes of a float16 program compute in float32: what leads to a logarithm of a power.

float16 spans 72 dB of amplitude (65504 down to 6e-5 before digits are lost), and half of that of a power; spectra span
more, and a logarithm shows all of it: what underflows to 0 becomes log(epsilon), tens of dB off. The other readers of
small squares do not need this: a root or a mean of what underflowed is off by less than 3e-4.
"""
from __future__ import annotations

from typing import Final

import onnx_ir as ir

from edgeq.graph import constant, quant

# Filters, spectra and what is done to them before the logarithm. An activation in between ends the walk: what comes
# out of it is no measured signal any more, and a network's middle should not leave the Neural Engine.
LINEAR: Final = frozenset({
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Linear", "Add", "Sub", "Mul", "Div", "Neg", "Pad", "Reshape", "Transpose",
    "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Gather", "Identity", "Expand", "ReduceSum",
    "ReduceMean", "AveragePool", "Sum", "Abs", "Max", "Clip", "Sqrt",
})
SQUARES: Final = frozenset({"ReduceSumSquare", "ReduceL2"})


def in_float32(graph: ir.Graph) -> set[ir.Node]:
    """The nodes between the inputs, or the last grid or activation, and a Log that reads a square."""
    found: set[ir.Node] = set()
    for node in graph:
        if node.op_type == "Log":
            behind = _behind(node)
            if any(map(_squares, behind)):
                found |= behind
    return found


def _behind(node: ir.Node) -> set[ir.Node]:
    seen, waiting = {node}, [node]
    while waiting:
        for value in waiting.pop().inputs:
            source = value.producer() if value is not None and quant(value) is None else None
            if source is not None and source not in seen and (source.op_type in LINEAR or _squares(source)):
                seen.add(source)
                waiting.append(source)
    return seen


def _squares(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        exponent = constant(node.inputs[1])
        return exponent is not None and exponent.size == 1 and float(exponent.ravel()[0]) > 1
    return node.op_type in SQUARES or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])
