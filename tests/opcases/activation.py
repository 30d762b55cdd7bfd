"""Activations."""
from __future__ import annotations

from typing import Final

from .case import Case, Tensor, case, const, given, then, x

CASES: Final[tuple[Case, ...]] = (
    case("relu", "Relu", x(2, 3, 5, 4)),
    case("clip", "Clip", x(2, 3, 5, 4), given(-0.75, "float32"), given(1.25, "float32")),
    case("clip-relu6", "Clip", x(2, 3, 5, 4, low=-3, high=8), given(0.0, "float32"), given(6.0, "float32")),
    case("clip-low-only", "Clip", x(2, 3, 5, 4), given(-0.5, "float32")),
    case("clip-high-only", "Clip", x(2, 3, 5, 4), None, given(0.75, "float32")),
    case("clip-computed", "Clip", x(2, 3, 5, 4), Tensor((), values=-0.75), Tensor((), values=1.25)),
    case("clip-computed-crossed", "Clip", x(2, 3, 5, 4), Tensor((), values=0.5), given(0.25, "float32")),
    case("clip-computed-int", "Clip", x(2, 7, dtype="int64", low=-9, high=9), None, Tensor((), "int64", values=3)),
    case("leaky-relu", "LeakyRelu", x(2, 3, 5, 4), alpha=0.2),
    case("leaky-relu-default", "LeakyRelu", x(2, 3, 5, 4)),
    case("prelu-channel", "PRelu", x(2, 3, 5, 4), const(3, 1, 1, low=0.1, high=0.9)),
    case("prelu-one", "PRelu", x(2, 3, 5, 4), const(1, low=0.1, high=0.9)),
    case("prelu-2d", "PRelu", x(4, 6), const(6, low=-0.5, high=0.9)),
    case("elu", "Elu", x(2, 3, 5, 4)),
    case("elu-alpha", "Elu", x(2, 3, 5, 4), alpha=0.4),
    case("selu", "Selu", x(2, 3, 5, 4)),
    case("celu", "Celu", x(2, 3, 5, 4), alpha=2.0),
    case("thresholded-relu", "ThresholdedRelu", x(2, 3, 5, 4, lattice=0.125), alpha=0.5),
    case("sigmoid", "Sigmoid", x(2, 3, 5, 4)),
    case("tanh", "Tanh", x(2, 3, 5, 4)),
    case("hard-sigmoid", "HardSigmoid", x(2, 3, 5, 4, low=-6, high=6)),
    case("hard-sigmoid-sixth", "HardSigmoid", x(2, 3, 5, 4, low=-6, high=6), alpha=1 / 6, beta=0.5),
    case("hard-sigmoid-inside", "HardSigmoid", x(2, 3, 5, 4, low=-2, high=1)),
    case("hard-swish", "HardSwish", x(2, 3, 5, 4, low=-6, high=6)),
    case("gelu", "Gelu", x(2, 3, 5, 4)),
    case("gelu-tanh", "Gelu", x(2, 3, 5, 4), approximate="tanh"),
    case("softplus", "Softplus", x(2, 3, 5, 4)),
    case("softsign", "Softsign", x(2, 3, 5, 4)),
    case("mish", "Mish", x(2, 3, 5, 4)),
    case("shrink", "Shrink", x(2, 3, 5, 4, lattice=0.125), lambd=0.3, bias=0.1),
    case("silu", "Sigmoid", x(2, 3, 5, 4), tail=[then("Mul", "x0")]),
)
