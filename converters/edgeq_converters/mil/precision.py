"""Which nodes of a float16 program compute in float32: logarithms of powers, integers that floats stand for, scores,
and whatever passes 65504.

float16 spans 72 dB of amplitude (65504 down to 6e-5 before digits are lost), and half of that of a power; spectra span
more, and a logarithm shows all of it: what underflows to 0 becomes log(epsilon), tens of dB off. The other readers of
small squares do not need this: a root or a mean of what underflowed is off by less than 3e-4.

Integers are exact in float16 up to 2048: not the products of 8-bit numbers, nor the index of a pixel.

The mean of a few scores averages the noise of 8 bits away, down to where a last rounding to float16 shows; it leaves
the program as float32 anyway.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.graph import NodeNote, all_nodes, constant, largest, quant, shape
from edgeq.ops import MULTIPLY_ACCUMULATE, RESHAPING, TAKING
from edgeq_converters.mil.builder import FLOAT16_MAX

# Filters, spectra and what is done to them before the logarithm. An activation in between ends the walk: what comes
# out of it is no measured signal any more, and a network's middle should not leave the Neural Engine.
LINEAR: Final = frozenset({
    *MULTIPLY_ACCUMULATE, "Linear", *TAKING, "Concat", "Add", "Sub", "Mul", "Div", "Neg", "ReduceSum", "ReduceMean",
    "AveragePool", "Sum", "Abs", "Max", "Clip", "Sqrt", "Floor", "Ceil", "Round",
})
# From the last layer's numbers to the mean of scores.
SCORING: Final = RESHAPING | {"Sigmoid", "Softmax", "ReduceMean"}
FEW: Final = 4096  # numbers; a whole picture of probabilities stays on the Neural Engine
FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})
SCALED: Final = frozenset({"Add", "Sub", "Mul", "Div"})  # a bound, as of Clip or Min, may be any number
SQUARES: Final = frozenset({"ReduceSumSquare", "ReduceL2", "RootOfSquares"})


# Where the largest number that an operator computes inside is not its result: what it is, from the largest input.
INSIDE: Final[Mapping[str, Callable[[float], float]]] = dict.fromkeys(
    ("Acosh", "Asinh", "BatchNormalization", "GlobalLpPool", "LRN", "LpPool", "MeanVarianceNormalization"),
    lambda size: size * size)
BEYOND: Final = ("computed in float32, on the CPU or GPU: values may pass 65504, where half precision ends")


def beyond_float16(graph: ir.Graph) -> dict[ir.Node, NodeNote]:
    """The nodes that read, compute or give numbers which half precision cannot hold, with what to say of them."""
    return {node: NodeNote.of(node, BEYOND) for node in all_nodes(graph)
            if any(size > FLOAT16_MAX for size in _sizes(node))}


def _sizes(node: ir.Node) -> Iterator[float]:
    """Of all floats of a node, as far as they are known. Of constants, those that are no masks (see `builder.MASK`)."""
    for value in (*node.inputs, *node.outputs):
        if value is None or value.dtype not in FLOATS:
            continue
        data = constant(value)
        if data is None:
            yield largest(value) or 0.0
        elif node.op_type in SCALED:
            yield float(data.max(initial=0.0, where=np.isfinite(data)))
    source = node.inputs[0] if node.inputs else None
    if node.op_type in INSIDE and source is not None:
        yield INSIDE[node.op_type](largest(source) or 0.0)


def in_float32(graph: ir.Graph) -> set[ir.Node]:
    """The nodes between the inputs, or the last grid or activation, and a Log that reads a square; or between a Cast
    from integers and one back to them; or between the last layer and the mean of a few scores.
    """
    found = {node for output in graph.outputs for node in _mean_of_scores(output)}
    for node in all_nodes(graph):
        if node.op_type == "Log":
            behind = _behind(node)
            if any(map(_squares, behind)):
                found |= behind
        elif node.op_type == "Cast" and _is_integer(node.outputs[0]) and not _is_integer(node.inputs[0]):
            behind = _behind(node)
            if any(map(_from_integers, behind)):
                found |= behind
    return found


def _mean_of_scores(output: ir.Value) -> set[ir.Node]:
    found: list[ir.Node] = []
    node = output.producer()
    while node is not None and node.op_type in SCORING and quant(node.outputs[0]) is None:
        source = node.inputs[0]
        if source is None or source.dtype != ir.DataType.FLOAT or prod(shape(source)) > FEW or (
                len(list(node.outputs[0].uses())) != (1 if found else 0)):
            break
        found.append(node)
        node = source.producer()
    return set(found) if any(node.op_type == "ReduceMean" for node in found) else set()


def _behind(node: ir.Node) -> set[ir.Node]:
    seen, waiting = {node}, [node]
    while waiting:
        for value in waiting.pop().inputs:
            source = value.producer() if value is not None and quant(value) is None else None
            if source is None or source in seen:
                continue
            if source.op_type in LINEAR or _squares(source):
                waiting.append(source)
                seen.add(source)
            elif _from_integers(source):
                seen.add(source)
    return seen


def _squares(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        exponent = constant(node.inputs[1])
        return exponent is not None and exponent.size == 1 and float(exponent.ravel()[0]) > 1
    return node.op_type in SQUARES or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])


def _from_integers(node: ir.Node) -> bool:
    return node.op_type == "Cast" and _is_integer(node.inputs[0]) and not _is_integer(node.outputs[0])


def _is_integer(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_integer()
