"""Spectrogram front ends: linear filters of which the network sees the magnitude.

    waveform -> Conv (a Fourier basis) -> Pow 2 -> Add -> Sqrt or Log -> the network

The loud lies a thousand times above the quiet that matters as much. A root or a logarithm asks for small relative
errors, where a grid of 256 steps gives small absolute ones.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import onnx_ir as ir

from edgeq import policy
from edgeq.graph import constant, consumers, is_constant, static
from edgeq.ops import MULTIPLY_ACCUMULATE, TAKING

# What may stand between a filter and the root: nothing that a network's layers have between them.
_PASSED: Final = TAKING | {"Concat", "Neg", "Abs", "Add", "Sub", "Mul", "Div", "Pow", "Max", "Clip", "ReduceSum"}


def spectral_layers(graph: ir.Graph) -> set[ir.Node]:
    """The multiply-accumulate nodes between the inputs of a graph and the root or logarithm of what they compute, and
    those that read a magnitude whose range no logarithm has narrowed.
    """
    found: set[ir.Node] = set()
    for root in graph:
        if root.domain == "" and _is_root(root):
            filters = _products(root, _sources, _PASSED | MULTIPLY_ACCUMULATE)
            found |= filters
            if filters and root.op_type != "Log":
                found |= _products(root, _readers, _PASSED)
    return found


def _is_root(node: ir.Node) -> bool:
    """True for a root or a logarithm, and for the magnitude of a real and an imaginary part."""
    match node.op_type:
        case "Log" | "Sqrt":
            return True
        case "Pow":
            exponent = constant(node.inputs[1])
            return exponent is not None and bool(((exponent > 0) & (exponent < 1)).all())
        case "ReduceL2":
            return not _is_statistic(node)
    return False


def _products(start: ir.Node, step: Callable[[ir.Node], Iterable[ir.Node]], passed: frozenset[str]) -> set[ir.Node]:
    """The multiply-accumulate nodes that `step` leads to from `start`, through `passed` ops."""
    found: set[ir.Node] = set()
    seen: set[ir.Node] = set()
    open_ = [start]
    while open_:
        new = set(step(open_.pop())) - seen
        seen |= new
        found |= {node for node in new if node.op_type in MULTIPLY_ACCUMULATE}
        open_ += [node for node in new if node.op_type in passed and not _is_of_a_network(node)]
    return found


def _sources(node: ir.Node) -> list[ir.Node]:
    producers = [value.producer() for value in node.inputs if value is not None]
    return [producer for producer in producers if producer is not None]


def _readers(node: ir.Node) -> list[ir.Node]:
    return consumers(node.outputs[0])


def _is_of_a_network(node: ir.Node) -> bool:
    """True for a gate, an activation with an upper limit, and a statistic."""
    match node.op_type:
        case "Mul":
            return node.inputs[0] is not node.inputs[1] and not any(map(is_constant, node.inputs))
        case "Div":
            return not is_constant(node.inputs[1])
        case "Clip":
            limit = node.inputs[2] if len(node.inputs) > 2 else None
            number = constant(limit)
            return limit is not None and (number is None or bool((number < policy.ACTIVATION_LIMIT.value).all()))
        case "ReduceSum":
            return _is_statistic(node)
    return False


def _is_statistic(node: ir.Node) -> bool:
    before, after = (_size(value) for value in (node.inputs[0], node.outputs[0]))
    return before is None or after is None or before > policy.SPECTRUM_PARTS.value * after


def _size(value: ir.Value | None) -> int | None:
    """The number of elements, where the data does not decide it."""
    sizes = static(value)
    return None if sizes is None else math.prod(sizes)
