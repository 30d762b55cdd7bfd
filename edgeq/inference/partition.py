"""A graph cut into pieces that are run one after the other, each with few enough weights to hold in memory."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgeq.graph import is_constant, reads


@dataclass(frozen=True, slots=True)
class Part:
    """model: reads values of the parts before it and gives what later parts read. dead: what nobody reads after it."""

    model: ir.Model
    dead: frozenset[str]


def parts_of(model: ir.Model, most: int) -> Iterator[Part]:
    """The parts of a model in the order of computation. most: weights in a part, unless one node has more of them."""
    runs = _runs(model.graph, most)
    last_read = {value: number for number, run in enumerate(runs) for node in run for value in reads(node)}
    last_read.update((value, len(runs)) for value in model.graph.outputs)
    for number, run in enumerate(runs):
        made = [value for node in run for value in node.outputs]
        read = dict.fromkeys(value for node in run for value in reads(node) if not is_constant(value))
        given = [value for value in read if value not in set(made)]
        wanted = [value for value in made if last_read.get(value, number) > number]
        if wanted:
            graph = ir.convenience.extract(model.graph, given, wanted)
            graph.opset_imports.update(model.opset_imports)
            dead = frozenset(value.name or "" for value in given if last_read[value] == number)
            yield Part(ir.Model(graph, ir_version=model.ir_version), dead)


def _runs(graph: ir.Graph, most: int) -> list[list[ir.Node]]:
    runs: list[list[ir.Node]] = [[]]
    held: dict[ir.Value, int] = {}
    for node in graph:
        weights = {value: value.const_value.size for value in reads(node)
                   if is_constant(value) and value.const_value is not None}
        if runs[-1] and sum({**held, **weights}.values()) > most:
            runs.append([])
            held = {}
        runs[-1].append(node)
        held |= weights
    return runs
