"""Loop and Scan: what shapes come out of them, and the nodes that a constant number of iterations stands for."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeq.graph import all_nodes, attribute, constant, initializer, moved_from
from edgeq.passes.rewrite import nodes_of

MAX_NODES: Final = 20_000  # an unrolled loop larger than this is no network that anybody deploys

Sweep: TypeAlias = Callable[[ir.Graph], None]  # infers the shapes inside a body, and folds what is constant
_ROUNDS: Final = 3  # a carried value loses its free axes in the first round; the others confirm


def infer_loop(node: ir.Node, sweep: Sweep) -> None:
    """The shapes of a Loop's body and outputs: carried values keep their shape, scanned ones gain the trip count."""
    body, carried = node.attributes["body"].as_graph(), node.inputs[2:]
    count, condition, *inside = body.inputs
    count.shape, count.type = ir.Shape(()), ir.TensorType(ir.DataType.INT64)
    condition.shape, condition.type = ir.Shape(()), ir.TensorType(ir.DataType.BOOL)
    _settle(body, inside, carried, 1, sweep)
    states = len(carried)
    for output, result in zip(node.outputs, body.outputs[1:], strict=False):
        output.type = result.type
        output.shape = result.shape
    for output, result in zip(node.outputs[states:], body.outputs[1 + states:], strict=False):
        output.shape = _with_axis(result.shape, 0, loop_count(node))


def infer_scan(node: ir.Node, sweep: Sweep) -> None:
    """The shapes of a Scan's body and outputs: scanned inputs lose an axis, scanned outputs gain one."""
    body, scanned = node.attributes["body"].as_graph(), int(attribute(node, "num_scan_inputs"))
    states = len(node.inputs) - scanned
    axes = attribute(node, "scan_input_axes") or [0] * scanned
    for inside, given, axis in zip(body.inputs[states:], node.inputs[states:], axes, strict=True):
        assert given is not None
        inside.type, inside.shape = given.type, _without_axis(given.shape, axis)
    _settle(body, body.inputs[:states], node.inputs[:states], 0, sweep)
    length = scan_length(node)
    out_axes = attribute(node, "scan_output_axes") or [0] * (len(node.outputs) - states)
    for number, (output, result) in enumerate(zip(node.outputs, body.outputs, strict=True)):
        output.type, output.shape = result.type, result.shape
        if number >= states:
            output.shape = _with_axis(result.shape, out_axes[number - states], length)


def _settle(body: ir.Graph, inside: Sequence[ir.Value], given: Sequence[ir.Value | None], first: int, sweep: Sweep,
            ) -> None:
    """Give the carried values of a body the shapes that hold in every iteration, then infer the body."""
    for value, start in zip(inside, given, strict=True):
        if start is not None:
            value.shape, value.type = start.shape, start.type
    for _ in range(_ROUNDS):
        trial = body.clone(allow_outer_scope_values=True)  # what a wrong guess folds must not stay
        sweep(trial)
        results = trial.outputs[first:first + len(inside)]
        common = [_common(value.shape, result.shape) for value, result in zip(inside, results, strict=True)]
        if all(shape == value.shape for shape, value in zip(common, inside, strict=True)):
            break
        for value, shape in zip(inside, common, strict=True):
            value.shape = shape
    sweep(body)


def _common(a: ir.Shape | None, b: ir.Shape | None) -> ir.Shape | None:
    """The sizes that two shapes agree on; the other axes are free."""
    if a is None or b is None or len(a) != len(b):
        return None
    return ir.Shape([x if x == y and isinstance(x, int) else None for x, y in zip(a, b, strict=True)])


def _with_axis(shape: ir.Shape | None, axis: int, size: int | None) -> ir.Shape | None:
    if shape is None:
        return None
    dims: list[int | ir.SymbolicDim | None] = list(shape)
    dims.insert(axis % (len(dims) + 1), size)
    return ir.Shape(dims)


def _without_axis(shape: ir.Shape | None, axis: int) -> ir.Shape | None:
    if shape is None:
        return None
    dims = list(shape)
    del dims[axis]
    return ir.Shape(dims)


def scan_length(node: ir.Node) -> int | None:
    """How often a Scan runs its body, or None where that depends on the input's size."""
    scanned = int(attribute(node, "num_scan_inputs"))
    axes = attribute(node, "scan_input_axes") or [0] * scanned
    given = node.inputs[len(node.inputs) - scanned]
    if given is None or given.shape is None or not isinstance(size := given.shape[axes[0]], int):
        return None
    return size


def loop_count(node: ir.Node) -> int | None:
    """How often a Loop runs its body, or None where a condition or a computed number decides."""
    trips, condition = node.inputs[0], node.inputs[1]
    count, start = constant(trips), constant(condition)
    if count is None or (condition is not None and start is None):
        return None
    if start is not None and not start.all():
        return 0
    return max(int(count.reshape(())), 0) if is_endless(node) else None


def is_endless(node: ir.Node) -> bool:
    """Whether the condition that the body of a Loop computes never ends it, so that the number of trips alone does."""
    body = node.attributes["body"].as_graph()
    again = moved_from(body.outputs[0], {"Identity"})
    goes_on = constant(again)
    return again is body.inputs[1] or (goes_on is not None and bool(goes_on.all()))


def unroll_loops(model: ir.Model) -> int:
    """Loop and Scan that run a constant number of times become that many copies of their bodies -> how many.

        Scan(s, x[2,3], body: s, x -> Add -> s)     =>     x -> Gather(0) -> Add(s) -> s1
                                                           x -> Gather(1) -> Add(s1) -> s2

    Loops that would come to more than 20000 nodes stay, and so do values that no iteration computes (a Loop of none).
    """
    return sum(_unroll(node) for node in nodes_of(model, "Loop", "Scan"))


def _unroll(node: ir.Node) -> bool:
    scan = node.op_type == "Scan"
    count, body = scan_length(node) if scan else loop_count(node), node.attributes["body"].as_graph()
    size = sum(1 for _ in all_nodes(body))
    if count is None or count < 1 or count * size > MAX_NODES or node.graph is None:
        return False
    if any(value is None for value in node.inputs[0 if scan else 2:]):
        return False
    turns = _Turns(node, scan, count)
    states = turns.run()
    for output, value in zip(node.outputs, states, strict=True):
        turns.hand_over(output, value)
    node.graph.remove(node, safe=True)
    return True


class _Turns:
    """One loop on its way to straight code. Nodes are inserted before the loop."""

    def __init__(self, node: ir.Node, scan: bool, count: int):
        assert node.graph is not None
        self.node, self.scan, self.count, self.graph = node, scan, count, node.graph
        self.body = node.attributes["body"].as_graph()
        given = [value for value in node.inputs[0 if scan else 2:] if value is not None]
        self.scanned = int(attribute(node, "num_scan_inputs")) if scan else 0
        self.states, self.slices = given[:len(given) - self.scanned], given[len(given) - self.scanned:]

    def run(self) -> list[ir.Value]:
        """The values that stand for the loop's outputs."""
        states, collected = self.states, []
        for turn in range(self.count):
            results = self._copy_body(turn, states)
            states, parts = results[:len(self.states)], results[len(self.states):]
            collected.append(parts)
        axes = attribute(self.node, "scan_output_axes") or [0] * len(collected[0])
        backwards = attribute(self.node, "scan_output_directions") or [0] * len(collected[0])
        scans = [self._stack([parts[k] for parts in collected][::-1 if backwards[k] else 1], axes[k], k)
                 for k in range(len(collected[0]))]
        return [*states, *scans]

    def _copy_body(self, turn: int, states: Sequence[ir.Value]) -> list[ir.Value]:
        """Insert one iteration -> its results: carried values, then scanned ones."""
        copy = self.body.clone(allow_outer_scope_values=True)
        label = f"{self.node.name or self.node.op_type}_{turn}"
        given = [*states, *self._elements(turn, label)]
        if not self.scan:
            given = [initializer(self.graph, f"{label}_number", np.asarray(turn, np.int64)),
                     initializer(self.graph, f"{label}_condition", np.asarray(True)), *given]
        results = [given[list(copy.inputs).index(result)] if result in copy.inputs else result
                   for result in copy.outputs]
        copy.outputs.clear()
        for value, replacement in zip(copy.inputs, given, strict=True):
            value.replace_all_uses_with(replacement)
        copy.inputs.clear()
        for value in list(copy.initializers.values()):
            del copy.initializers[str(value.name)]
            value.name = f"{label}_{value.name}"
            self.graph.register_initializer(value)
        nodes = list(copy)
        copy.remove(nodes)
        for inner in nodes:
            inner.name = f"{label}_{inner.name}"
            for output in inner.outputs:
                output.name = f"{label}_{output.name}"
        self.graph.insert_before(self.node, nodes)
        return results[0 if self.scan else 1:]

    def _elements(self, turn: int, label: str) -> list[ir.Value]:
        """What this iteration reads of every scanned input."""
        axes = attribute(self.node, "scan_input_axes") or [0] * self.scanned
        backwards = attribute(self.node, "scan_input_directions") or [0] * self.scanned
        elements = []
        for number, (value, axis) in enumerate(zip(self.slices, axes, strict=True)):
            index = self.count - 1 - turn if backwards[number] else turn
            at = initializer(self.graph, f"{label}_at_{number}", np.asarray(index, np.int64))
            elements.append(self._insert("Gather", [value, at], f"{label}_slice_{number}", {"axis": axis}, value,
                                         _without_axis(value.shape, axis)))
        return elements

    def _stack(self, parts: Sequence[ir.Value], axis: int, number: int) -> ir.Value:
        label = f"{self.node.name or self.node.op_type}_scan_{number}"
        rank = len(parts[0].shape) if parts[0].shape is not None else 0
        axis %= rank + 1
        axes = initializer(self.graph, f"{label}_axes", np.asarray([axis], np.int64))
        raised = [self._insert("Unsqueeze", [part, axes], f"{label}_{turn}", {}, part,
                               _with_axis(part.shape, axis, 1)) for turn, part in enumerate(parts)]
        return self._insert("Concat", raised, label, {"axis": axis}, parts[0],
                            _with_axis(parts[0].shape, axis, self.count))

    def _insert(self, op: str, inputs: Sequence[ir.Value], name: str, attributes: dict[str, int], like: ir.Value,
                shape: ir.Shape | None) -> ir.Value:
        made = ir.node(op, inputs, attributes=attributes or None, name=name)
        made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = name, shape, like.type
        self.graph.insert_before(self.node, made)
        return made.outputs[0]

    def hand_over(self, output: ir.Value, value: ir.Value) -> None:
        """Readers of the loop's output read ``value``; a graph output stays a name of its own."""
        if output.is_graph_output():
            copy = ir.node("Identity", [value], name=f"{output.name}_copy")
            name, output.name = output.name, None
            copy.outputs[0].name, copy.outputs[0].shape, copy.outputs[0].type = name, output.shape, output.type
            self.graph.insert_before(self.node, copy)
            value = copy.outputs[0]
        output.replace_all_uses_with(value, replace_graph_outputs=True)
