"""The choice of layouts: optimal by brute force, priced as what is emitted, right when it runs."""
from __future__ import annotations

import itertools
import random

import numpy as np
import onnx_ir as ir
import pytest
from opcases import run_onnxruntime
from small_graphs import network, normal

from edgeq.mincut import SINK, SOURCE, Network
from edgeq_converters.prepare import lower_form
from edgeq_converters.tflite.backend import lower
from edgeq_converters.tflite.layout_assignment import (
    BYTE,
    LayoutProblem,
    assign_layouts,
    minimize_transposes,
    proposals,
)
from edgeq_converters.tflite.ops import table

from .tflite_files import emitted, off, run

SHAPE = N, C, H, W = (1, 5, 4, 3)
POOLED = (N, C, 1, 1)
LAST, FIRST, EITHER = ("Conv ({}, c)",), ("MatMul ({}, m)",), (
    "Relu ({})", "Sigmoid ({})", "Softmax <axis = 1> ({})", "Softmax ({})", "GlobalAveragePool ({})", "Add ({}, x)",
    "Mul ({}, z)", "Concat <axis = 1> ({}, x)")
TURNED = {"Transpose <perm = [0,2,1,3]> ({})": (0, 2, 1, 3), "Transpose <perm = [0,2,3,1]> ({})": (0, 2, 3, 1)}


def grown(seed: int, nodes: int, transposes: bool) -> ir.Model:
    """x [1,5,4,3], z [1,5,1,1] -> a random graph of operators that want channels last, ONNX order, or either."""
    rng = random.Random(seed)
    values, text, unread = {"x": SHAPE, "z": POOLED}, "", {"x", "z"}
    for number in range(nodes):
        source = rng.choice(list(values))
        shape = values[source]
        kinds = EITHER[:5] + (LAST if shape[1] == C else ()) + (FIRST if shape[3] == W else ())
        kinds += EITHER[5:] if shape == SHAPE else ()
        template = rng.choice(kinds + (tuple(TURNED) if transposes else ()))
        text += f"v{number} = {template.format(source)}\n"
        unread = unread - {source} | {f"v{number}"}
        values[f"v{number}"] = (
            tuple(shape[axis] for axis in TURNED[template]) if template in TURNED
            else (*shape[:2], 1, 1) if "Global" in template
            else (N, 2 * C, H, W) if "Concat" in template else shape)
    ends = ", ".join(f"float{list(values[name])} {name}" for name in values if name in unread - {"x", "z"})
    return network(f"g (float{list(SHAPE)} x, float{list(POOLED)} z) => ({ends}) {{ {text} }}",
                   c=normal(C, C, 1, 1, seed=seed), m=normal(W, W, seed=seed + 1))


def problem_of(model: ir.Model) -> LayoutProblem:
    return LayoutProblem.of(lower_form(model, table().handlers).graph)


def cheapest(problem: LayoutProblem, nodes: dict[ir.Node, list[object]]) -> int:
    costs = []
    for combination in itertools.product(*nodes.values()):
        problem.chosen = dict(zip(nodes, combination, strict=True))  # type: ignore[arg-type]
        costs.append(problem.cost())
    return min(costs)


@pytest.mark.parametrize("transposes", [False, True], ids=["two layouts", "many layouts"])
@pytest.mark.parametrize("seed", range(40))
def test_no_assignment_is_cheaper(seed: int, transposes: bool) -> None:
    """Of all that could be made from what some operator wishes. For two layouts that is what a minimum cut promises."""
    problem = problem_of(grown(seed, 8, transposes))
    minimize_transposes(problem)
    found, offered = problem.cost(), proposals(problem)
    forms: dict[ir.Node, list[object]] = {
        node: list(dict.fromkeys(proposal[node] for proposal in offered if node in proposal)) for node in problem.rules}
    assert found == cheapest(problem, forms)


@pytest.mark.parametrize("seed", range(40))
def test_the_price_is_what_the_file_pays(seed: int) -> None:
    """The bytes of all TRANSPOSEs that are emitted, and the numbers are right."""
    model = grown(seed, 12, transposes=True)
    problem = problem_of(model)
    minimize_transposes(problem)
    program, _ = lower(lower_form(model, table().handlers))
    moved = sum(4 * int(np.prod(operator.outputs[0].shape)) for operator in program.operators
                if operator.kernel == "TRANSPOSE")
    assert moved == problem.cost() // BYTE
    feeds = {"x": normal(*SHAPE, seed=2), "z": normal(*POOLED, seed=3)}
    found = run(emitted(model)[0], feeds)
    for name, expected in run_onnxruntime(model, feeds).items():
        assert off(found[name], expected) < 1e-5


def test_an_output_that_nobody_asked_for_has_no_layout() -> None:
    model = network("""g (float[1,5,4,3] x) => (float[1,5,4,3] y) {
        a = Conv (x, c)  n, m = LayerNormalization (a, s)  y = Conv (n, c) }""", c=normal(C, C, 1, 1), s=normal(W))
    unused = next(node for node in model.graph if node.op_type == "LayerNormalization").outputs[1]
    unused.name, unused.shape = "", None
    assert [form.works for form in assign_layouts(model.graph).values()] == [(0, 2, 3, 1)]


@pytest.mark.parametrize("seed", range(40))
def test_the_cut_is_minimal(seed: int) -> None:
    """Against every subset of six nodes, and no minimum is on fewer."""
    rng, network_ = random.Random(seed), Network()
    nodes = [network_.node() for _ in range(6)]
    edges = [(tail, head, rng.randrange(9)) for tail, head in itertools.permutations((SOURCE, SINK, *nodes), 2)
             if rng.random() < 0.4]
    for edge in edges:
        network_.edge(*edge)

    def capacity(side: set[int]) -> int:
        return sum(room for tail, head, room in edges if tail in side and head not in side)

    found = network_.source_side()
    sides = [{SOURCE, *chosen} for count in range(7) for chosen in itertools.combinations(nodes, count)]
    assert capacity(found) == min(map(capacity, sides))
    assert len(found) == min(len(side) for side in sides if capacity(side) == capacity(found))
