"""Recurrent layers, one step after the other: a product for all inputs at once, then one per step for the state.
What edgeq_converters.recurrent has written out does not come here.

UNIDIRECTIONAL_SEQUENCE_LSTM is one operator for all steps. It keeps its state in variables that no caller can set, so
models that carry state in and out are written out.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantParams
from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.float_expr import Real
from edgeq_converters.tflite.ops_shape import window
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op
from edgeq_converters.tflite.weights import Filter, real_weights, weight_tensor

ACTIVATIONS: Final = {"Sigmoid": "LOGISTIC", "Tanh": "TANH", "Relu": "RELU"}
State = tuple[Real, ...]
LSTM_ACTIVATIONS: Final = ("Sigmoid", "Tanh", "Tanh")
GATES: Final = 4
ROWS: Final = Filter("FULLY_CONNECTED", 0, (0, 1))  # weights [rows, K] as they are
KERNEL_ORDER: Final = (0, 2, 3, 1)  # i, f, c, o of ONNX's i, o, f, c
TANH: Final = 4  # of the schema's ActivationFunctionType


@dataclass(frozen=True, slots=True)
class Layer:
    """One direction: w [G*H, I], the products with r [G*H, H], and the names of its activations' kernels.

    state: one product for the whole of r, or one for each part that the cell multiplies at a different time.
    """

    w: Product
    state: tuple[Product, ...]
    kernels: tuple[str, ...]
    hidden: int


@dataclass(frozen=True, slots=True)
class Product:
    """x [.., K] -> x @ weights [N, K] transposed + bias [N]. The weights are one tensor for all steps."""

    weights: Tensor
    bias: Tensor

    def __call__(self, b: Builder, x: Tensor) -> Tensor:
        return b.call("FULLY_CONNECTED", [x, self.weights, self.bias], (*x.shape[:-1], self.weights.shape[0]),
                      keepNumDims=True, asymmetricQuantizeInputs=self.weights.grid is not None)


Step = Callable[[Builder, Layer, Tensor, State], State]


def _gates(b: Builder, tensor: Tensor, hidden: int) -> list[Real]:
    """[B, G*H] -> G times [B, H]."""
    return [Real(b, window(b, tensor, {1: (start, hidden)})) for start in range(0, tensor.shape[1], hidden)]


def lstm_step(b: Builder, layer: Layer, projected: Tensor, state: State) -> State:
    """Gates i, o, f, c of https://onnx.ai/onnx/operators/onnx__LSTM.html."""
    hidden, cell = state
    total = Real(b, projected) + Real(b, layer.state[0](b, hidden.tensor))
    i, o, f, c = _gates(b, total.tensor, layer.hidden)
    gate, inner, outer = layer.kernels
    cell = f.run(gate) * cell + i.run(gate) * c.run(inner)
    return o.run(gate) * cell.run(outer), cell


def gru_step(b: Builder, layer: Layer, projected: Tensor, state: State) -> State:
    """Gates z, r, h of https://onnx.ai/onnx/operators/onnx__GRU.html with linear_before_reset=1."""
    hidden, size, (gate, inner) = state[0], layer.hidden, layer.kernels
    x_z, x_r, x_h = _gates(b, projected, size)
    h_z, h_r, h_h = _gates(b, layer.state[0](b, hidden.tensor), size)
    z, r = (x_z + h_z).run(gate), (x_r + h_r).run(gate)
    new = (x_h + r * h_h).run(inner)
    return (new + z * (hidden - new),)


def gru_reset_first_step(b: Builder, layer: Layer, projected: Tensor, state: State) -> State:
    """As gru_step with linear_before_reset=0: the reset gate meets the state before its product."""
    hidden, size, (gate, inner) = state[0], layer.hidden, layer.kernels
    x_z, x_r, x_h = _gates(b, projected, size)
    h_z, h_r = _gates(b, layer.state[0](b, hidden.tensor), size)
    z, r = (x_z + h_z).run(gate), (x_r + h_r).run(gate)
    h_h = Real(b, layer.state[1](b, (r * hidden).tensor))
    new = (x_h + h_h).run(inner)
    return (new + z * (hidden - new),)


def rnn_step(b: Builder, layer: Layer, projected: Tensor, state: State) -> State:
    hidden = Real(b, layer.state[0](b, state[0].tensor))
    return ((Real(b, projected) + hidden).run(layer.kernels[0]),)


def _run(b: Builder, x: Value, w: Value, r: Value, bias: Value | None, lengths: Value | None,
         initial: Sequence[Value | None], step: Step, direction: str, activations: Sequence[str], layout: int,
         parts: Sequence[int] = (1,)) -> tuple[Value | None, ...]:
    """-> Y [T, D, B, H] and the last states [D, B, H] (layout 1: batch first)."""
    tensor = b.read(x, (1, 0, 2) if layout else None)
    steps, batch, _ = tensor.shape
    if not _is_full(b, x, lengths, layout):
        raise CannotLower("sequences of different lengths")
    directions = w.shape[0]
    layers = _layers(b, x, w, r, bias, activations, parts)
    every: list[Tensor] = []
    last: list[list[Tensor]] = []
    for index, layer in enumerate(layers):
        backwards = direction == "reverse" or index == 1
        state = tuple(_first_state(b, value, index, batch, layer.hidden, layout) for value in initial)
        projected = layer.w(b, tensor)
        made: dict[int, Tensor] = {}
        for time in reversed(range(steps)) if backwards else range(steps):
            here = b.reshape(window(b, projected, {0: (time, 1)}), (batch, projected.shape[2]))
            state = step(b, layer, here, state)
            made[time] = state[0].tensor
        every.append(_stacked(b, [made[time] for time in range(steps)], layer.hidden))
        last.append([part.tensor for part in state])
    return _outputs(b, every, last, (steps, directions, batch, layers[0].hidden), layout)


def _is_full(b: Builder, x: Value, lengths: Value | None, layout: int) -> bool:
    """Whether every sequence reaches the last step."""
    return lengths is None or set(b.numbers(lengths, "sequence_lens")) == {x.shape[1 if layout else 0]}


def _is_fusible(b: Builder, names: Sequence[str], initial: Sequence[Value | None]) -> bool:
    """Whether the kernel computes it: the activations that it knows, zeros at first, and nobody reads the last cell."""
    cell = b.node.outputs[2] if len(b.node.outputs) > 2 else None
    return (not b.resizable and set(zip(names[::3], names[1::3], names[2::3], strict=True)) == {LSTM_ACTIVATIONS}
            and all(value is None or (value.data is not None and not value.data.any()) for value in initial)
            and (cell is None or (not cell.is_graph_output() and not cell.uses())))


def _fused_lstm(b: Builder, x: Value, w: Value, r: Value, bias: Value | None, direction: str, layout: int,
                ) -> tuple[Value | None, ...]:
    """One operator for each direction. Integer weights stay so in the file: the kernel would round its inputs to
    multiply them, DEQUANTIZE runs once. https://github.com/google-ai-edge/LiteRT/blob/main/tflite/kernels/
    unidirectional_sequence_lstm.cc
    """
    tensor = b.read(x, (1, 0, 2) if layout else None)
    (steps, batch, _), (directions, rows, hidden) = tensor.shape, r.shape
    both = np.zeros((directions, 2 * rows), np.float32) if bias is None else b.array(bias, "bias").astype(np.float32)
    every, last = list[Tensor](), list[list[Tensor]]()
    for index in range(directions):
        backwards = direction == "reverse" or index == 1
        gates = [_by_gate(b, part_of_direction(weights, index, 0, rows)) for weights in (w, r)]
        biases = [b.constant(part) for part in np.split(both[index, :rows] + both[index, rows:], GATES)]
        state = [Tensor(f"{b.node.outputs[0].name}/{name}{index}", (batch, hidden), tensor.dtype, variable=True)
                 for name in ("hidden", "cell")]
        operands = [_turned(b, tensor) if backwards else tensor,
                    *(part[gate] for part in gates for gate in KERNEL_ORDER), None, None, None,
                    *(biases[gate] for gate in KERNEL_ORDER), None, None, *state, *[None] * GATES]
        made = b.call("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, (steps, batch, hidden), timeMajor=True,
                      fusedActivationFunction=TANH)
        last.append([window(b, made, {0: (steps - 1, 1)})])
        every.append(b.reshape(_turned(b, made) if backwards else made, (steps, 1, batch, hidden)))
    return _outputs(b, every, last, (steps, directions, batch, hidden), layout)


def _turned(b: Builder, tensor: Tensor) -> Tensor:
    """Its steps from the last to the first."""
    return b.call("REVERSE_V2", [tensor, b.ints([0])], tensor.shape)


def _by_gate(b: Builder, weights: Value) -> list[Tensor]:
    """[4*H, K] -> 4 times float [H, K]."""
    whole = real_weights(b, weights, ROWS)
    if whole.data is not None:
        return [b.constant(part) for part in np.split(whole.data, GATES)]
    count, size = whole.shape
    return b.call_many("SPLIT", [b.constant(np.array(0, np.int32)), whole], [(count // GATES, size)] * GATES,
                       numSplits=GATES)


def _layers(b: Builder, x: Value, w: Value, r: Value, bias: Value | None, activations: Sequence[str],
            parts: Sequence[int]) -> list[Layer]:
    """parts: how the rows of r divide into products, in shares."""
    directions, rows, hidden = r.shape
    both = np.zeros((directions, 2 * rows), np.float32) if bias is None else b.array(bias, "bias").astype(np.float32)
    unknown = sorted(set(activations) - set(ACTIVATIONS))
    if unknown:
        raise CannotLower(f"activations {', '.join(unknown)}")
    kernels = [ACTIVATIONS[name] for name in activations]
    each = len(kernels) // directions
    ends = np.cumsum([0, *parts]) * rows // sum(parts)
    layers = []
    for d in range(directions):
        def product(weights: Value, first: int, last: int, shift: int, d: int = d) -> Product:
            part = part_of_direction(weights, d, first, last)
            return Product(weight_tensor(b, x, part, ROWS),
                           b.constant(both[d, shift + first:shift + last]))

        state = tuple(product(r, int(first), int(last), rows) for first, last in pairwise(ends))
        layers.append(Layer(product(w, 0, rows, 0), state, tuple(kernels[d * each:(d + 1) * each]), hidden))
    return layers


def part_of_direction(w: Value, direction: int, first: int, last: int) -> Value:
    """Rows of one direction of a weight [D, G*H, K] -> [rows, K], on the scales that belong to them."""
    if w.data is None:
        raise CannotLower("its weights are computed at run time")
    rows = slice(first, last)
    data, params = w.data[direction, rows], w.grid
    if params is not None:
        scale, zero = (np.broadcast_to(part, w.shape[:2]) for part in (_by_row(w, params.scale),
                                                                      _by_row(w, params.zero_point)))
        kind = replace(params.type, granularity=PerChannel(0))
        params = QuantParams(kind, scale[direction, rows].copy(), zero[direction, rows].copy())
    return Value(w.name, data.shape, w.dtype, params, data, half=w.half)


def _by_row(w: Value, numbers: NDArray[Any]) -> NDArray[Any]:
    """Scales or zero points per tensor, direction, row or row of each direction, ready to broadcast over [D, rows]."""
    assert w.grid is not None
    granularity = w.grid.type.granularity
    if isinstance(granularity, PerTensor):
        return numbers
    if isinstance(granularity, PerBlock) and granularity.axis % 3 == 2 and numbers.shape[2] == 1:
        return numbers[..., 0]
    if isinstance(granularity, PerChannel) and granularity.axis % 3 < 2:
        return numbers[:, None] if granularity.axis % 3 == 0 else numbers[None]
    raise CannotLower("recurrent weights with several scales in a row", "use --weights per-channel")


def _first_state(b: Builder, value: Value | None, direction: int, batch: int, hidden: int, layout: int) -> Real:
    if value is None:
        return Real(b, b.constant(np.zeros((batch, hidden), np.float32)))
    tensor = b.read(value, (1, 0, 2) if layout else None)
    return Real(b, b.reshape(window(b, tensor, {0: (direction, 1)}), (batch, hidden)))


def _stacked(b: Builder, tensors: Sequence[Tensor], hidden: int) -> Tensor:
    """T times [B, H] -> [T, 1, B, H]."""
    batch = tensors[0].shape[0]
    wide = [b.reshape(tensor, (1, 1, batch, hidden)) for tensor in tensors]
    return wide[0] if len(wide) == 1 else b.call("CONCATENATION", wide, (len(wide), 1, batch, hidden), axis=0)


def _outputs(b: Builder, every: list[Tensor], last: list[list[Tensor]], shape: tuple[int, int, int, int],
             layout: int) -> tuple[Value | None, ...]:
    _, directions, batch, hidden = shape
    results: list[Value | None] = []
    for index, output in enumerate(b.node.outputs):
        if not output.name or index > len(last[0]):
            results.append(None)
            continue
        if index == 0:
            joined = every[0] if directions == 1 else b.call("CONCATENATION", every, shape, axis=1)
            # layout 1 wants [B, T, D, H]: the tensor is that value with its axes stored as 1, 2, 0, 3.
            results.append(b.result(joined, (1, 2, 0, 3) if layout else None, 0))
            continue
        parts = [b.reshape(states[index - 1], (1, batch, hidden)) for states in last]
        joined = parts[0] if directions == 1 else b.call("CONCATENATION", parts, (directions, batch, hidden), axis=0)
        results.append(b.result(joined, (1, 0, 2) if layout else None, index))
    return tuple(results)


def _names(given: Sequence[str], default: Sequence[str], directions: int) -> list[str]:
    return list(given) if given else list(default) * directions


@op("LSTM")
def lstm(b: Builder, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
         h: Value | None = None, c: Value | None = None, *, hidden_size: int | None = None, direction: str = "forward",
         activations: Sequence[str] | None = None, layout: int = 0) -> tuple[Value | None, ...]:
    names = _names(activations or (), LSTM_ACTIVATIONS, w.shape[0])
    if _is_fusible(b, names, (h, c)) and _is_full(b, x, lengths, layout):
        return _fused_lstm(b, x, w, r, bias, direction, layout)
    return _run(b, x, w, r, bias, lengths, (h, c), lstm_step, direction, names, layout)


@op("GRU")
def gru(b: Builder, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
        h: Value | None = None, *, hidden_size: int | None = None, direction: str = "forward",
        activations: Sequence[str] | None = None, layout: int = 0, linear_before_reset: int = 0,
        ) -> tuple[Value | None, ...]:
    step = gru_step if linear_before_reset else gru_reset_first_step
    names = _names(activations or (), ("Sigmoid", "Tanh"), w.shape[0])
    parts = (1,) if linear_before_reset else (2, 1)
    return _run(b, x, w, r, bias, lengths, (h,), step, direction, names, layout, parts)


@op("RNN")
def rnn(b: Builder, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
        h: Value | None = None, *, hidden_size: int | None = None, direction: str = "forward",
        activations: Sequence[str | bytes] = [b"Tanh", b"Tanh"], layout: int = 0) -> tuple[Value | None, ...]:
    given = [name.decode() if isinstance(name, bytes) else name for name in activations]
    names = given[:w.shape[0]]
    return _run(b, x, w, r, bias, lengths, (h,), rnn_step, direction, names, layout)
