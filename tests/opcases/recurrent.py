"""RNN, GRU, LSTM: sequence 5, batch 2, features 3, hidden 4."""
from __future__ import annotations

from typing import Final

from .case import Case, Tensor, case, const, given, x

_SEQUENCE: Final = x(5, 2, 3)


def _weights(gates: int, directions: int = 1, hidden: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """W [directions, gates * hidden, 3], R [directions, gates * hidden, hidden], B [directions, 2 * gates * hidden]."""
    rows = gates * hidden
    return const(directions, rows, 3), const(directions, rows, hidden), const(directions, 2 * rows)


_STATE: Final = x(1, 2, 4)
_ALL: Final = ("y", "y_h", "y_c")

CASES: Final[tuple[Case, ...]] = (
    case("lstm", "LSTM", _SEQUENCE, *_weights(4), hidden_size=4),
    case("lstm-no-bias", "LSTM", _SEQUENCE, *_weights(4)[:2], hidden_size=4),
    case("lstm-states", "LSTM", _SEQUENCE, *_weights(4), None, _STATE, x(1, 2, 4), outputs=_ALL, hidden_size=4),
    case("lstm-last-only", "LSTM", _SEQUENCE, *_weights(4), outputs=("", "y_h"), hidden_size=4),
    case("lstm-reverse", "LSTM", _SEQUENCE, *_weights(4), hidden_size=4, direction="reverse"),
    case("lstm-bidirectional", "LSTM", _SEQUENCE, *_weights(4, 2), outputs=_ALL, hidden_size=4,
         direction="bidirectional"),
    case("lstm-one-step", "LSTM", x(1, 1, 3), *_weights(4), None, x(1, 1, 4), x(1, 1, 4), outputs=_ALL, hidden_size=4),
    case("gru", "GRU", _SEQUENCE, *_weights(3), outputs=("y", "y_h"), hidden_size=4),
    case("gru-linear-before-reset", "GRU", _SEQUENCE, *_weights(3), hidden_size=4, linear_before_reset=1),
    case("gru-bidirectional", "GRU", _SEQUENCE, *_weights(3, 2), hidden_size=4, direction="bidirectional"),
    case("rnn", "RNN", _SEQUENCE, *_weights(1), outputs=("y", "y_h"), hidden_size=4),
    case("rnn-relu-reverse", "RNN", _SEQUENCE, *_weights(1), hidden_size=4, direction="reverse", activations=["Relu"]),
    # Forms that no kernel has: written out.
    case("lstm-peepholes", "LSTM", _SEQUENCE, *_weights(4), None, _STATE, x(1, 2, 4), const(1, 12), outputs=_ALL,
         hidden_size=4),
    case("lstm-lengths-reverse", "LSTM", _SEQUENCE, *_weights(4), given([5, 2], "int32"), outputs=_ALL, hidden_size=4,
         direction="reverse"),
    case("lstm-coupled-clip", "LSTM", _SEQUENCE, *_weights(4), hidden_size=4, input_forget=1, clip=0.5),
    case("lstm-hard-sigmoid", "LSTM", _SEQUENCE, *_weights(4, 2), hidden_size=4, direction="bidirectional",
         activations=["HardSigmoid", "Softsign", "Elu"] * 2, activation_alpha=[0.3, 0.7, 0.25, 0.8],
         activation_beta=[0.4, 0.6]),
    case("gru-lengths", "GRU", _SEQUENCE, *_weights(3, 2), x(2, dtype="int32", low=1, high=5), outputs=("y", "y_h"),
         hidden_size=4, direction="bidirectional"),
    case("gru-clip", "GRU", _SEQUENCE, *_weights(3), None, _STATE, outputs=("y", "y_h"), hidden_size=4, clip=0.5,
         linear_before_reset=1),
    case("rnn-lengths", "RNN", _SEQUENCE, *_weights(1), given([3, 5], "int32"), outputs=("y", "y_h"), hidden_size=4,
         activations=["LeakyRelu"], activation_alpha=[0.2]),
)
