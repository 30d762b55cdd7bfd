"""Recurrent layers: x [S, B, I] with the sequence first. Reference: .../ops/defs/iOS15/recurrent.py."""
# mypy: disable-error-code="no-any-return"
# numpy types arithmetic on arrays of any dtype as Any.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeq.verification.mlpackage.functions import sigmoid
from edgeq.verification.mlpackage.optable import CannotRun, OpTable
from edgeq.verification.mlpackage.types import Array

op = OpTable()

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh, "sigmoid": sigmoid, "linear": lambda x: x, "relu": lambda x: np.maximum(x, np.float32(0)),
}


def _activation(name: str) -> Callable[[Array], Array]:
    if name not in ACTIVATIONS:
        raise CannotRun(f"activation '{name}', whose parameters MIL does not give")
    return ACTIVATIONS[name]


def _projected(x: Array, weight: Array, bias: Array | None) -> Array:
    """The part of the gates that comes from the inputs, for all steps at once: [S, B, gates * H]."""
    result = np.matmul(x, weight.T)
    return result if bias is None else result + bias


def _scan(inputs: Array, state: tuple[Array, ...], step: Callable[..., tuple[Array, ...]], reverse: bool,
          output_sequence: bool) -> tuple[Array, ...]:
    """Run step(input, *state) -> state over the sequence -> outputs [S or 1, B, H], then the last state."""
    outputs = []
    for time in reversed(range(len(inputs))) if reverse else range(len(inputs)):
        state = step(inputs[time], *state)
        outputs.append(state[0])
    kept = outputs if output_sequence else outputs[-1:]
    return (np.stack(kept[::-1] if reverse else kept), *state)


@op("rnn")
def rnn(x: Array, initial_h: Array, weight_ih: Array, weight_hh: Array, bias: Array | None = None,
        direction: str = "forward", output_sequence: bool = False, activation: str = "tanh") -> tuple[Array, ...]:
    act = _activation(activation)

    def step(gate: Array, h: Array) -> tuple[Array, ...]:
        return (act(gate + h @ weight_hh.T),)

    return _scan(_projected(x, weight_ih, bias), (initial_h,), step, direction == "reverse", output_sequence)


@op("gru")
def gru(x: Array, initial_h: Array, weight_ih: Array, weight_hh: Array, bias: Array | None = None,
        direction: str = "forward", output_sequence: bool = False, recurrent_activation: str = "sigmoid",
        activation: str = "tanh", reset_after: bool = False, input_bias: Array | None = None) -> tuple[Array, ...]:
    """Gates in the order reset, output, update; o = act(W x + r * (R h) + b), one bias for both products."""
    if reset_after or input_bias is not None:
        raise CannotRun("reset_after and input_bias are documented too vaguely to compute them")
    gate, act = _activation(recurrent_activation), _activation(activation)
    size = weight_hh.shape[1]

    def step(inputs: Array, h: Array) -> tuple[Array, ...]:
        hidden = h @ weight_hh.T
        reset = gate(inputs[:, :size] + hidden[:, :size])
        update = gate(inputs[:, 2 * size:] + hidden[:, 2 * size:])
        output = act(inputs[:, size:2 * size] + reset * hidden[:, size:2 * size])
        return ((1 - update) * output + update * h,)

    return _scan(_projected(x, weight_ih, bias), (initial_h,), step, direction == "reverse", output_sequence)


@op("lstm")
def lstm(x: Array, initial_h: Array, initial_c: Array, weight_ih: Array, weight_hh: Array, bias: Array | None = None,
         peephole: Array | None = None, weight_ih_back: Array | None = None, weight_hh_back: Array | None = None,
         bias_back: Array | None = None, peephole_back: Array | None = None, direction: str = "forward",
         output_sequence: bool = False, recurrent_activation: str = "sigmoid", cell_activation: str = "tanh",
         activation: str = "tanh", clip: float | None = None) -> tuple[Array, ...]:
    """Gates in the order input, forget, output, cell; states [B, directions * H], forward first."""
    if peephole is not None or peephole_back is not None:
        raise CannotRun("peephole weights")
    acts = (_activation(recurrent_activation), _activation(cell_activation), _activation(activation))
    size = weight_hh.shape[1]

    def run(half: slice, w_ih: Array, w_hh: Array, b: Array | None, reverse: bool) -> tuple[Array, ...]:
        state = (initial_h[:, half], initial_c[:, half])
        return _scan(_projected(x, w_ih, b), state, _lstm_step(w_hh, size, acts, clip), reverse, output_sequence)

    if direction != "bidirectional":
        return run(slice(None), weight_ih, weight_hh, bias, direction == "reverse")
    if weight_ih_back is None or weight_hh_back is None:
        raise CannotRun("a bidirectional lstm without backward weights")
    forward = run(slice(size), weight_ih, weight_hh, bias, False)
    backward = run(slice(size, None), weight_ih_back, weight_hh_back, bias_back, True)
    return tuple(np.concatenate(pair, -1) for pair in zip(forward, backward, strict=True))


def _lstm_step(weight_hh: Array, size: int, acts: tuple[Any, Any, Any], clip: float | None) -> Callable[...,
               tuple[Array, ...]]:
    gate, cell, output = acts

    def step(inputs: Array, h: Array, c: Array) -> tuple[Array, ...]:
        gates = inputs + h @ weight_hh.T
        i, f, o = (gate(gates[:, k * size:(k + 1) * size]) for k in range(3))
        candidate = cell(gates[:, 3 * size:])
        c = f * c + i * candidate
        if clip is not None:
            c = np.clip(c, -clip, clip)
        return o * output(c), c

    return step
