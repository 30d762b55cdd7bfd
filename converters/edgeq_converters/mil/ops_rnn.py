"""Recurrent layers, those aside that edgeq_converters.recurrent has written out.

LSTM is MIL's own op. GRU and RNN are unrolled: MIL's gru leaves open where its reset gate applies, and has no second
bias before iOS 18.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import PerChannel, PerTensor, QuantParams
from edgeq_converters.mil.builder import Builder, Constant, Operand, Raw, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower

MAX_STEPS: Final = 512  # unrolled steps; a longer sequence would make a program of tens of thousands of ops
ACTIVATIONS: Final = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu"}
IOFC_TO_IFOZ: Final = (0, 2, 1, 3)  # gate order of ONNX -> of MIL
RNN_ACTIVATIONS: Final = [b"Tanh", b"Tanh"]  # the schema's default, in its own type
DIRECTIONS: Final = {"forward": 1, "reverse": 1, "bidirectional": 2}


def _activations(given: Sequence[Any] | None, defaults: Sequence[str], count: int) -> list[str]:
    """MIL's names, for each direction in turn."""
    names = [name.decode() if isinstance(name, bytes) else name for name in given or list(defaults) * count]
    for name in names:
        if name not in ACTIVATIONS:
            raise CannotLower(f"activation {name} in a recurrent layer")
    return [ACTIVATIONS[name] for name in names]


def _rows(b: Builder, operand: Operand, what: str, direction: int, order: Sequence[int]) -> Constant:
    """operand [D, gates*H, ..] -> the rows of one direction, gates in another order, still on their grid."""
    if not isinstance(operand, Constant):
        raise CannotLower(f"{what} is computed at run time; {b.engine} needs it at conversion")
    hidden = operand.shape[1] // len(order)
    rows = np.concatenate([np.arange(gate * hidden, (gate + 1) * hidden) for gate in order])
    params = operand.params
    if params is not None and params.type.granularity == PerChannel(1):
        kind = replace(params.type, granularity=PerChannel(0))
        return _part(Constant(operand.data[direction], replace(params, type=kind)), rows)
    if params is None or isinstance(params.type.granularity, PerTensor):
        return _part(Constant(operand.data[direction], params), rows)
    return _part(Constant(operand.real[direction]), rows)


def _part(matrix: Constant, rows: slice | NDArray[np.int64]) -> Constant:
    """Rows of a matrix, on the scale of each or the one of all."""
    data, params = np.ascontiguousarray(matrix.data[rows]), matrix.params
    if params is not None and params.scale.ndim:
        params = QuantParams(params.type, params.scale[rows], params.zero_point[rows])
    return Constant(data, params)


def _bias(b: Builder, bias: Operand, direction: int, order: Sequence[int], hidden: int) -> NDArray[Any]:
    """ONNX's [D, 2*gates*H] -> (input bias, hidden bias) [2, gates*H] of one direction."""
    gates = len(order)
    if bias is None:
        return np.zeros((2, gates * hidden), np.float32)
    halves = b.need(bias, "B")[direction].reshape(2, gates, hidden)
    return np.asarray(halves[:, list(order)].reshape(2, gates * hidden))


def _initial(b: Builder, state: Operand, directions: int, batch: int, hidden: int) -> Operand:
    """ONNX's [D,batch,H] -> MIL's [batch, D*H]; zeros where absent."""
    if state is None:
        return Constant(np.zeros((batch, directions * hidden), np.float32))
    return b.reshape(b.transpose(state, (1, 0, 2)), (batch, directions * hidden))


def _steps(b: Builder, x: Operand, lengths: Operand) -> None:
    if lengths is not None and (b.need(lengths, "sequence_lens") != b.shape(x)[0]).any():
        raise CannotLower("sequences of different lengths in one batch")


def _steps_first(b: Builder, layout: int, *operands: Operand) -> tuple[Operand, ...]:
    """Layout 1 has the batch first in x and in the states."""
    return tuple(v if v is None or not layout else b.transpose(v, (1, 0, 2)) for v in operands)


def _as_laid_out(b: Builder, layout: int, y: Var, *states: Var) -> tuple[Var, ...]:
    """Y [S,D,batch,H] and states [D,batch,H], with the batch first in layout 1."""
    if not layout:
        return (y, *states)
    return (b.transpose(y, (2, 0, 1, 3)), *(b.transpose(s, (1, 0, 2)) for s in states))


@op("LSTM")
def lstm(b: Builder, x: Operand, w: Operand, r: Operand, bias: Operand = None, sequence_lens: Operand = None,
         initial_h: Operand = None, initial_c: Operand = None, *,
         activations: Sequence[str] | None = None, direction: str = "forward", hidden_size: int,
         layout: int = 0) -> Any:
    """x [S,batch,I], w [D,4H,I], r [D,4H,H] -> Y [S,D,batch,H], Y_h [D,batch,H], Y_c [D,batch,H]."""
    x, initial_h, initial_c = _steps_first(b, layout, x, initial_h, initial_c)
    _steps(b, x, sequence_lens)
    if b.options.min_os < 18 and any(isinstance(v, Constant) and v.params is not None and v.params.type.bits == 4
                                     for v in (w, r)):
        raise CannotLower("4-bit weights of recurrent layers need iOS 18", "--min-os 18")
    count, (steps, batch, _) = DIRECTIONS[direction], b.shape(x)
    names = _activations(activations, ("Sigmoid", "Tanh", "Tanh"), count)
    if names[:3] != names[-3:]:
        raise CannotLower("different activations for the two directions")
    arguments: dict[str, Any] = {}
    for index, suffix in zip(range(count), ("", "_back"), strict=False):
        arguments[f"weight_ih{suffix}"] = _rows(b, w, "W", index, IOFC_TO_IFOZ)
        arguments[f"weight_hh{suffix}"] = _rows(b, r, "R", index, IOFC_TO_IFOZ)
        arguments[f"bias{suffix}"] = _bias(b, bias, index, IOFC_TO_IFOZ, hidden_size).sum(0)
    arguments["x"] = x
    arguments["initial_h"] = _initial(b, initial_h, count, batch, hidden_size)
    arguments["initial_c"] = _initial(b, initial_c, count, batch, hidden_size)
    single = b.options.min_os < 17 and b.dtype is np.float16  # recurrent ops compute in float32 before iOS 17
    if single:
        arguments = {name: _in_float32(b, value) for name, value in arguments.items()}
    results = b.op("lstm", **arguments, direction=direction, output_sequence=True, recurrent_activation=names[0],
                   cell_activation=names[1], activation=names[2])
    y, *states = (b.cast(v, "float") if single else v for v in results)
    y = b.transpose(b.reshape(y, (steps, batch, count, hidden_size)), (0, 2, 1, 3))
    ends = (b.transpose(b.reshape(s, (batch, count, hidden_size)), (1, 0, 2)) for s in states)
    return _as_laid_out(b, layout, y, *ends)


def _in_float32(b: Builder, value: Any) -> Any:
    if isinstance(value, Constant):
        return Raw(value.real.astype(np.float32))
    return Raw(value.astype(np.float32)) if isinstance(value, np.ndarray) else b.cast(value, "fp32")


Cell = Callable[[Var, Operand], Var]  # (projected input of one step [batch, gates*H], h) -> next h


def _unrolled(b: Builder, x: Operand, w: Operand, bias: NDArray[Any], h: Operand, cell: Cell, reverse: bool) -> Var:
    """x [S,batch,I], w [gates*H, I] -> every step's h [S,batch,H]. One product projects the inputs of all steps."""
    steps, batch, width = b.shape(x)
    if steps > MAX_STEPS:
        raise CannotLower(f"a sequence of {steps} steps; up to {MAX_STEPS} are unrolled")
    flat = b.reshape(x, (steps * batch, width))
    projected = b.reshape(b.op("linear", x=flat, weight=w, bias=bias), (steps, batch, b.shape(w)[0]))
    found: list[Var] = [None] * steps
    for step in reversed(range(steps)) if reverse else range(steps):
        now = b.reshape(b.slice(projected, [step, 0, 0], [step + 1, *b.shape(projected)[1:]]), b.shape(projected)[1:])
        h = found[step] = cell(now, h)
    return b.op("stack", values=found, axis=0)


def _layer(b: Builder, x: Operand, direction: str, hidden: int, initial: Operand,
           run: Callable[[int, Operand, bool], Var]) -> Any:
    """Both directions of an unrolled layer -> Y [S,D,batch,H], Y_h [D,batch,H]."""
    steps, batch, _ = b.shape(x)
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    outputs, last = [], []
    for index, reverse in enumerate(ways):
        if initial is None:
            h: Operand = Constant(np.zeros((batch, hidden), np.float32))
        else:
            h = b.reshape(b.slice(initial, [index, 0, 0], [index + 1, batch, hidden]), (batch, hidden))
        y = run(index, h, reverse)
        outputs.append(b.reshape(y, (steps, 1, batch, hidden)))
        end = 0 if reverse else steps - 1
        last.append(b.slice(y, [end, 0, 0], [end + 1, batch, hidden]))
    if len(ways) == 1:
        return outputs[0], last[0]
    return b.op("concat", values=outputs, axis=1), b.op("concat", values=last, axis=0)


@op("GRU")
def gru(b: Builder, x: Operand, w: Operand, r: Operand, bias: Operand = None, sequence_lens: Operand = None,
        initial_h: Operand = None, *, activations: Sequence[str] | None = None, direction: str = "forward",
        hidden_size: int, layout: int = 0, linear_before_reset: int = 0) -> Any:
    """x [S,batch,I], w [D,3H,I], r [D,3H,H] (gates z, r, h) -> Y [S,D,batch,H], Y_h [D,batch,H]."""
    x, initial_h = _steps_first(b, layout, x, initial_h)
    _steps(b, x, sequence_lens)
    names, n = _activations(activations, ("Sigmoid", "Tanh"), DIRECTIONS[direction]), hidden_size

    def run(index: int, h: Operand, reverse: bool) -> Var:
        gate, candidate = names[2 * index:2 * index + 2]
        weight = _rows(b, w, "W", index, (0, 1, 2))
        recurrent = _rows(b, r, "R", index, (0, 1, 2))
        in_bias, out_bias = _bias(b, bias, index, (0, 1, 2), n)
        first, second = _part(recurrent, slice(2 * n)), _part(recurrent, slice(2 * n, None))
        batch = b.shape(x)[1]

        def cell(now: Var, h: Operand) -> Var:
            zr = b.op(gate, x=b.op("add", x=b.slice(now, [0, 0], [batch, 2 * n]),
                                   y=b.op("linear", x=h, weight=first, bias=out_bias[:2 * n])))
            z, reset = b.slice(zr, [0, 0], [batch, n]), b.slice(zr, [0, n], [batch, 2 * n])
            if linear_before_reset:
                past = b.op("mul", x=reset, y=b.op("linear", x=h, weight=second, bias=out_bias[2 * n:]))
            else:
                past = b.op("linear", x=b.op("mul", x=reset, y=h), weight=second, bias=out_bias[2 * n:])
            new = b.op(candidate, x=b.op("add", x=b.slice(now, [0, 2 * n], [batch, 3 * n]), y=past))
            return b.op("add", x=new, y=b.op("mul", x=z, y=b.op("sub", x=h, y=new)))

        return _unrolled(b, x, weight, in_bias, h, cell, reverse)

    return _as_laid_out(b, layout, *_layer(b, x, direction, n, initial_h, run))


@op("RNN")
def rnn(b: Builder, x: Operand, w: Operand, r: Operand, bias: Operand = None, sequence_lens: Operand = None,
        initial_h: Operand = None, *, activations: Sequence[Any] = RNN_ACTIVATIONS, direction: str = "forward",
        hidden_size: int, layout: int = 0) -> Any:
    """x [S,batch,I], w [D,H,I], r [D,H,H] -> Y [S,D,batch,H], Y_h [D,batch,H]."""
    x, initial_h = _steps_first(b, layout, x, initial_h)
    _steps(b, x, sequence_lens)
    names = _activations(activations, ("Tanh",), DIRECTIONS[direction])

    def run(index: int, h: Operand, reverse: bool) -> Var:
        recurrent = _rows(b, r, "R", index, (0,))
        both = _bias(b, bias, index, (0,), hidden_size).sum(0)

        def cell(now: Var, h: Operand) -> Var:
            return b.op(names[index], x=b.op("add", x=now, y=b.op("linear", x=h, weight=recurrent)))

        return _unrolled(b, x, _rows(b, w, "W", index, (0,)), both, h, cell, reverse)

    return _as_laid_out(b, layout, *_layer(b, x, direction, hidden_size, initial_h, run))
