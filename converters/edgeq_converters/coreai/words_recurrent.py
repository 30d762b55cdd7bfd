"""LSTM, and bodies of If.

An LSTM is written out step by step. The dialect has `while`, but in it every step slices by an index that only the run
knows, and sizes of what a body carries stay open for a compiler that plans memory ahead, as for the Neural Engine; the
other recurrent layers, and those of TFLite, are written out as well.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from edgeq_converters.coreai.builder import Builder
from edgeq_converters.coreai.words import word
from edgeq_converters.mil.builder import Var
from edgeq_converters.mil.ops_rnn import MAX_STEPS
from edgeq_converters.optable import CannotLower

STORED: Final = frozenset({"Constant", "Identity"})  # which compute nothing


@word("cond")
def cond(b: Builder, *, pred: Any, _true_fn: Callable[[], Any], _false_fn: Callable[[], Any]) -> Any:
    """Results have the shape and type that ONNX says of the node's outputs."""
    assert b.node is not None
    bodies = [b.node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    if all(node.op_type in STORED for body in bodies for node in body):
        return _chosen(b, pred, _true_fn(), _false_fn())
    like = []
    for value in b.node.outputs:
        if value.shape is None or value.dtype is None or not value.shape.is_static():
            raise CannotLower("results whose size only the run knows")
        kind = value.dtype.numpy()
        like.append((tuple(value.shape.numpy()), b.stored_type(kind)))

    def body(build: Callable[[], Any]) -> Callable[[], Sequence[Var]]:
        def made() -> Sequence[Var]:
            found = build()
            found = found if isinstance(found, tuple | list) else [found]
            return [b.to(b.tensor(var), dtype) for var, (_, dtype) in zip(found, like, strict=True)]

        return made

    return b.program.condition(b.tensor(pred), body(_true_fn), body(_false_fn), like)


def _chosen(b: Builder, pred: Any, yes: Any, no: Any) -> Any:
    """Bodies that compute nothing: the package's compiler makes a choice of such an If, and cannot finish it."""
    pairs = zip(*(found if isinstance(found, tuple | list) else [found] for found in (yes, no)), strict=True)
    return tuple(b.op("select", cond=b.reshape(b.tensor(pred), [1] * b.rank(x)), a=x, b=y) for x, y in pairs)


@word("lstm")
def lstm(b: Builder, *, x: Any, initial_h: Any, initial_c: Any, weight_ih: Any, weight_hh: Any, bias: Any,
         direction: str, output_sequence: bool, recurrent_activation: str, cell_activation: str, activation: str,
         weight_ih_back: Any = None, weight_hh_back: Any = None, bias_back: Any = None) -> tuple[Var, Var, Var]:
    """x [S,batch,I], weights [4H,I] and [4H,H] with gates i, f, o, z, states [batch,D*H] -> y [S,batch,D*H], h, c."""
    x = b.tensor(x)
    steps, batch, _ = b.shape(x)
    if steps > MAX_STEPS:
        raise CannotLower(f"a sequence of {steps} steps; up to {MAX_STEPS} are unrolled")
    hidden = b.shape(weight_hh)[1]
    names = recurrent_activation, cell_activation, activation
    ways = [(weight_ih, weight_hh, bias, direction == "reverse")]
    if direction == "bidirectional":
        ways.append((weight_ih_back, weight_hh_back, bias_back, True))
    found = []
    for index, (w, r, both, reverse) in enumerate(ways):
        h, c = (b.slice(b.tensor(state), [0, index * hidden], [batch, (index + 1) * hidden])
                for state in (initial_h, initial_c))
        found.append(_direction(b, x, w, r, both, h, c, names, reverse))
    if len(found) == 1:
        return found[0]
    return (b.op("concat", values=[y for y, _, _ in found], axis=2),
            b.op("concat", values=[h for _, h, _ in found], axis=1),
            b.op("concat", values=[c for _, _, c in found], axis=1))


def _direction(b: Builder, x: Var, w: Any, r: Any, bias: Any, h: Var, c: Var, names: tuple[str, str, str],
               reverse: bool) -> tuple[Var, Var, Var]:
    """One product projects the inputs of all steps."""
    steps, batch, width = b.shape(x)
    hidden = b.shape(h)[1]
    projected = b.op("linear", x=b.reshape(x, [steps * batch, width]), weight=w, bias=bias)
    projected = b.reshape(projected, [steps, batch, 4 * hidden])
    found: list[Var] = [None] * steps
    for step in reversed(range(steps)) if reverse else range(steps):
        now = b.reshape(b.slice(projected, [step, 0, 0], [step + 1, batch, 4 * hidden]), [batch, 4 * hidden])
        gates = b.op("add", x=now, y=b.op("linear", x=h, weight=r))
        i, f, o, z = (b.slice(gates, [0, k * hidden], [batch, (k + 1) * hidden]) for k in range(4))
        i, f, o = (b.op(names[0], x=gate) for gate in (i, f, o))
        c = b.op("add", x=b.op("mul", x=f, y=c), y=b.op("mul", x=i, y=b.op(names[1], x=z)))
        h = found[step] = b.op("mul", x=o, y=b.op(names[2], x=c))
    return b.op("stack", values=found, axis=0), h, c
