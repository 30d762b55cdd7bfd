"""Recurrent layers that no engine's kernel computes, written out step by step: sequences of different lengths, clipped
or coupled gates, peepholes, activations beside sigmoid, tanh and relu.

The formulas are those of https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html and onnx__RNN.html.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.graph import attribute, constant, initializer, is_constant, label, shape, static
from edgeq.passes.rewrite import nodes_of
from edgeq.quant.qdq import DEQUANTIZE, grid_of
from edgeq.quant.weights import stored_array
from edgeq.scheme import PerChannel, PerTensor, dequantize

MAX_STEPS: Final = 512  # of a sequence; a longer one would become a program of tens of thousands of ops
_PLAIN: Final = frozenset({"Sigmoid", "Tanh", "Relu"})  # what the backends' own handlers take
_DEFAULTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)})
# Activation -> its parameters in ONNX's own operator of that name, with the defaults there.
_PARAMETERS: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType({
    "Sigmoid": {}, "Tanh": {}, "Relu": {}, "Softsign": {}, "Softplus": {}, "LeakyRelu": {"alpha": .01},
    "Elu": {"alpha": 1.0}, "ThresholdedRelu": {"alpha": 1.0}, "HardSigmoid": {"alpha": .2, "beta": .5}})

Array: TypeAlias = NDArray[np.float32]
Activation: TypeAlias = tuple[str, Mapping[str, float]]  # operator, its attributes
Cell: TypeAlias = Callable[..., list[ir.Value]]


def write_out_recurrent(model: ir.Model) -> int:
    """The recurrent layers that need it become products, sums and activations of every step, in place -> how many.

        x[steps,..] -> GRU(clip 0.5) -> y     =>     MatMul(x), then MatMul(h), Clip, Sigmoid, .. for each step -> y
    """
    nodes = [node for node in nodes_of(model, "LSTM", "GRU", "RNN") if _needs_it(node)]
    for node in nodes:
        _Layer(node).write()
    return len(nodes)


def _needs_it(node: ir.Node) -> bool:
    names, sizes = _activations(node), static(node.inputs[0])
    if sizes is None:
        return False
    steps = sizes[0]
    possible = (set(names) <= set(_PARAMETERS) and steps <= MAX_STEPS and not attribute(node, "layout", 0)
                and all(_constant_weight(node.inputs[index]) for index in (1, 2)))
    return possible and (attribute(node, "clip") is not None or bool(attribute(node, "input_forget", 0))
                         or not set(names) <= _PLAIN or _input(node, 7) is not None
                         or not _is_full(_input(node, 4), steps))


def _activations(node: ir.Node) -> list[str]:
    directions = 2 if attribute(node, "direction", "forward") == "bidirectional" else 1
    given = attribute(node, "activations") or _DEFAULTS[node.op_type] * directions
    return [name.decode() if isinstance(name, bytes) else name for name in given]


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _constant_weight(value: ir.Value | None) -> bool:
    source = value.producer() if value is not None else None
    if source is not None and source.op_type == DEQUANTIZE:
        return is_constant(source.inputs[0]) and grid_of(source) is not None
    return is_constant(value)


def _is_full(lengths: ir.Value | None, steps: int) -> bool:
    known = constant(lengths)
    return lengths is None or (known is not None and bool((known == steps).all()))


class _Layer:
    """One layer on its way to straight code; new nodes come before it."""

    def __init__(self, node: ir.Node):
        assert node.graph is not None
        self.node, self.graph = node, node.graph
        self.x, self.r = _some(node.inputs[0]), _some(node.inputs[2])
        self.steps = shape(self.x)[0]
        self.directions, _, self.hidden = shape(self.r)
        self.gates = len("iofc" if node.op_type == "LSTM" else "zrh" if node.op_type == "GRU" else "i")
        self.clip = attribute(node, "clip")
        self.made = 0

    def write(self) -> None:
        alphas, betas = (iter(attribute(self.node, f"activation_{name}") or ()) for name in ("alpha", "beta"))
        activations = [_activation(name, alphas, betas) for name in _activations(self.node)]
        each = len(activations) // self.directions
        every, last = [], []
        for direction in range(self.directions):
            backwards = attribute(self.node, "direction", "forward") == "reverse" or direction == 1
            outputs, states = self._run(direction, activations[direction * each:(direction + 1) * each], backwards)
            every.append(self._stacked(outputs, 0))
            last.append(states)
        results = [self._stacked(every, 1), *(self._stacked(states, 0) for states in zip(*last, strict=True))]
        for old, new in zip(self.node.outputs, results, strict=False):
            new.name, old.name = old.name, None
            new.shape, new.type = old.shape, old.type
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        self.graph.remove(self.node, safe=True)

    def _run(self, direction: int, activations: Sequence[Activation], backwards: bool,
             ) -> tuple[list[ir.Value], Sequence[ir.Value]]:
        """-> h of every step [B,H], the last states [B,H]."""
        bias = self._biases(direction)
        projected = self.call("MatMul", self.x, self._matrix(1, direction, slice(None)))
        projected = self.call("Add", projected, self.number(bias[0]))
        cell = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.node.op_type](
            direction, bias[1], activations)
        states: Sequence[ir.Value] = [self._first(index, direction)
                                      for index in ((5, 6) if self.node.op_type == "LSTM" else (5,))]
        outputs: dict[int, ir.Value] = {}
        for time in reversed(range(self.steps)) if backwards else range(self.steps):
            new = cell(self.call("Gather", projected, self.number(time), axis=0), *states)
            running = self._is_running(time)
            outputs[time] = new[0]
            if running is not None:  # behind its end, a sequence keeps its state and gives zeros
                outputs[time] = self.call("Where", running, new[0], self.number(np.zeros((1, 1), np.float32)))
                new = [self.call("Where", running, *pair) for pair in zip(new, states, strict=True)]
            states = new
        return [outputs[time] for time in range(self.steps)], states

    # -- cells: (what the input brings [B,G*H], states [B,H]) -> new states --------------------------------------------

    def _lstm(self, direction: int, bias: Array, activations: Sequence[Activation]) -> Cell:
        weight = self._matrix(2, direction, slice(None))
        gate, inner, outer = activations
        peepholes = constant(_input(self.node, 7))
        seen_by = None if peepholes is None else [self.number(part) for part in np.split(peepholes[direction], 3)]

        def step(here: ir.Value, hidden: ir.Value, cell: ir.Value) -> list[ir.Value]:
            def opened(value: ir.Value, which: int, cell: ir.Value) -> ir.Value:
                if seen_by is not None:
                    value = self.call("Add", value, self.call("Mul", cell, seen_by[which]))
                return self._bounded(gate, value)

            past = self.call("Add", self.call("MatMul", hidden, weight), self.number(bias))
            i, o, f, c = self._split(self.call("Add", here, past), 4)
            i = opened(i, 0, cell)
            coupled = attribute(self.node, "input_forget", 0)
            f = self.call("Sub", self.number(np.ones((1, 1), np.float32)), i) if coupled else opened(f, 2, cell)
            cell = self.call("Add", self.call("Mul", f, cell), self.call("Mul", i, self._bounded(inner, c)))
            return [self.call("Mul", opened(o, 1, cell), self.call(outer[0], cell, **outer[1])), cell]

        return step

    def _gru(self, direction: int, bias: Array, activations: Sequence[Activation]) -> Cell:
        n, late = 2 * self.hidden, attribute(self.node, "linear_before_reset", 0)
        gates, candidate = (self._matrix(2, direction, rows) for rows in (slice(n), slice(n, None)))
        gate, inner = activations

        def product(value: ir.Value, weight: ir.Value, rows: slice) -> ir.Value:
            return self.call("Add", self.call("MatMul", value, weight), self.number(bias[rows]))

        def step(here: ir.Value, hidden: ir.Value) -> list[ir.Value]:
            x_z, x_r, x_h = self._split(here, 3)
            h_z, h_r = self._split(product(hidden, gates, slice(n)), 2)
            z, r = (self._bounded(gate, self.call("Add", *pair)) for pair in ((x_z, h_z), (x_r, h_r)))
            if late:
                past = self.call("Mul", r, product(hidden, candidate, slice(n, None)))
            else:
                past = product(self.call("Mul", r, hidden), candidate, slice(n, None))
            new = self._bounded(inner, self.call("Add", x_h, past))
            return [self.call("Add", new, self.call("Mul", z, self.call("Sub", hidden, new)))]

        return step

    def _rnn(self, direction: int, bias: Array, activations: Sequence[Activation]) -> Cell:
        weight = self._matrix(2, direction, slice(None))

        def step(here: ir.Value, hidden: ir.Value) -> list[ir.Value]:
            past = self.call("Add", self.call("MatMul", hidden, weight), self.number(bias))
            return [self._bounded(activations[0], self.call("Add", here, past))]

        return step

    def _bounded(self, activation: Activation, value: ir.Value) -> ir.Value:
        """The activation, of a value that `clip` limits first."""
        if self.clip is not None:
            value = self.call("Clip", value, *(self.number(np.float32(end)) for end in (-self.clip, self.clip)))
        op, parameters = activation
        return self.call(op, value, **parameters)

    def _split(self, value: ir.Value, count: int) -> list[ir.Value]:
        """[B,count*H] -> count times [B,H]."""
        axes = self.number(np.array([1]))
        ends = [self.number(np.array([end * self.hidden])) for end in range(count + 1)]
        return [self.call("Slice", value, *pair, axes) for pair in pairwise(ends)]

    # -- operands ------------------------------------------------------------------------------------------------------

    def _matrix(self, index: int, direction: int, rows: slice) -> ir.Value:
        """Rows of a weight [D,G*H,K] of one direction, as the right side of a product [K,rows]; on its grid."""
        value = _some(self.node.inputs[index])
        source = value.producer()
        data = constant(value if source is None else source.inputs[0])
        assert data is not None
        params = None if source is None else grid_of(source)
        if params is None:
            return self.number(data[direction, rows].T)
        if params.type.granularity not in (PerTensor(), PerChannel(1)):
            return self.number(dequantize(data, params)[direction, rows].T)
        stored = self.number(stored_array(np.ascontiguousarray(data[direction, rows].T), params.type))
        scale, zero = (part[rows] if part.ndim else part for part in (params.scale, params.zero_point))
        return self.call(DEQUANTIZE, stored, self.number(scale), self.number(stored_array(zero, params.type)), axis=1)

    def _biases(self, direction: int) -> Array:
        """Of the input and of the state [2,G*H]."""
        given = constant(_input(self.node, 3))
        if given is None:
            return np.zeros((2, self.gates * self.hidden), np.float32)
        return np.asarray(given[direction].reshape(2, -1), np.float32)

    def _first(self, index: int, direction: int) -> ir.Value:
        """The initial state of one direction [B,H]."""
        given = _input(self.node, index)
        if given is None:
            return self.number(np.zeros((shape(self.x)[1], self.hidden), np.float32))
        return self.call("Gather", given, self.number(direction), axis=0)

    def _is_running(self, time: int) -> ir.Value | None:
        """[B,1] true for the sequences that reach this step, or None where all do."""
        lengths = _input(self.node, 4)
        known = constant(lengths)
        if lengths is None or (known is not None and (known > time).all()):
            return None
        if known is not None:
            return self.number((known > time)[:, None])
        now = self.number(np.array([time], np.int32))
        return self.call("Unsqueeze", self.call("Less", now, lengths), self.number(np.array([1])))

    def _stacked(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        axes = self.number(np.array([axis]))
        return self.call("Concat", *(self.call("Unsqueeze", value, axes) for value in values), axis=axis)

    def number(self, data: Any) -> ir.Value:
        return initializer(self.graph, f"{label(self.node)}_constant", np.array(data, order="C"))

    def call(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        made = ir.node(op, inputs, attributes, name=f"{label(self.node)}_{op}_{self.made}")
        made.outputs[0].name = f"{made.name}_out"
        self.made += 1
        self.graph.insert_before(self.node, made)
        return made.outputs[0]


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    """Activations without parameters leave the lists alone."""
    parameters = dict(_PARAMETERS[name])
    for key, given in (("alpha", alphas), ("beta", betas)):
        if key in parameters:
            parameters[key] = next(given, parameters[key])
    return name, parameters


def _some(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
