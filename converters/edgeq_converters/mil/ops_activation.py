"""Activation functions and softmax."""
from __future__ import annotations

from typing import Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower, Handler

# ONNX op -> MIL op and the attributes that both have, with ONNX's defaults.
ONE_TO_ONE: Final = {
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Elu": ("elu", {"alpha": 1.0}),
    "HardSigmoid": ("sigmoid_hard", {"alpha": 0.2, "beta": 0.5}),
    "Sigmoid": ("sigmoid", {}),
    "Softplus": ("softplus", {}),
    "Softsign": ("softsign", {}),
}


def _alike(mil: str, defaults: dict[str, float]) -> Handler:
    if not defaults:
        return lambda b, x: b.op(mil, x=x)
    if len(defaults) == 1:
        return lambda b, x, *, alpha=defaults["alpha"]: b.op(mil, x=x, alpha=float(alpha))
    return lambda b, x, *, alpha=defaults["alpha"], beta=defaults["beta"]: b.op(
        mil, x=x, alpha=float(alpha), beta=float(beta))


for _name, (_mil, _defaults) in ONE_TO_ONE.items():
    op(_name)(_alike(_mil, _defaults))


@op("Relu")
def relu(b: Builder, x: Operand) -> Var:
    return b.op("relu", x=x) if b.kind(x) == "float" else b.op("maximum", x=x, y=0)


@op("PRelu")
def prelu(b: Builder, x: Operand, slope: Operand) -> Var:
    """MIL's prelu has one slope per channel (axis 1) and rank 3 at least; others are max(x,0) + slope * min(x,0)."""
    known, shape = b.known(slope), b.shape(x)
    if known is not None and len(shape) >= 3 and b.kind(x) == "float":
        full = (1,) * (len(shape) - known.ndim) + known.shape
        if known.size == 1:
            return b.op("prelu", x=x, alpha=np.full(shape[1], known.ravel()[0], np.float32))
        if all(dim == 1 for axis, dim in enumerate(full) if axis != 1) and full[1] == shape[1]:
            return b.op("prelu", x=x, alpha=known.reshape(-1))
    zero = 0.0 if b.kind(x) == "float" else 0
    below = b.op("mul", x=b.op("minimum", x=x, y=zero), y=slope)
    return b.op("add", x=b.op("maximum", x=x, y=zero), y=below)


@op("ThresholdedRelu")
def thresholded_relu(b: Builder, x: Operand, *, alpha: float = 1.0) -> Var:
    """x above alpha, else 0. MIL's own op keeps x that equals alpha."""
    return b.op("mul", x=x, y=b.cast(b.op("greater", x=x, y=float(alpha)), "float"))


@op("Gelu")
def gelu(b: Builder, x: Operand, *, approximate: str = "none") -> Var:
    return b.op("gelu", x=x, mode="EXACT" if approximate == "none" else "TANH_APPROXIMATION")


@op("HardSwish")
def hard_swish(b: Builder, x: Operand) -> Var:
    """x * clip(x / 6 + 1/2, 0, 1)"""
    return b.op("mul", x=x, y=b.op("sigmoid_hard", x=x, alpha=1 / 6, beta=0.5))


@op("Mish")
def mish(b: Builder, x: Operand) -> Var:
    """x * tanh(log(1 + e^x))"""
    return b.op("mul", x=x, y=b.op("tanh", x=b.op("softplus", x=x)))


@op("Selu")
def selu(b: Builder, x: Operand, *, alpha: float = 1.67326319217681884765625,
         gamma: float = 1.05070102214813232421875) -> Var:
    return b.op("mul", x=b.op("elu", x=x, alpha=float(alpha)), y=float(gamma))


@op("Celu")
def celu(b: Builder, x: Operand, *, alpha: float = 1.0) -> Var:
    """max(x, 0) + min(0, alpha * (e^(x / alpha) - 1))"""
    scaled = b.op("elu", x=b.op("mul", x=x, y=1 / alpha), alpha=1.0)
    return b.op("mul", x=scaled, y=float(alpha))


@op("Shrink")
def shrink(b: Builder, x: Operand, *, bias: float = 0.0, lambd: float = 0.5) -> Var:
    """x + bias below -lambd, x - bias above lambd, else 0."""
    x = b.as_float(x)
    shape = b.shape(x)
    below = b.op("select", cond=b.op("less", x=x, y=-float(lambd)), a=b.op("add", x=x, y=float(bias)),
                 b=Constant(np.zeros(shape, np.float32)))
    return b.op("select", cond=b.op("greater", x=x, y=float(lambd)), a=b.op("sub", x=x, y=float(bias)), b=below)


@op("Softmax")
def softmax(b: Builder, x: Operand, *, axis: int = -1) -> Var:
    return b.op("softmax", x=x, axis=axis)


@op("LogSoftmax")
def log_softmax(b: Builder, x: Operand, *, axis: int = -1) -> Var:
    """x - max - log(sum(e^(x - max)))"""
    shifted = b.op("sub", x=x, y=b.op("reduce_max", x=x, axes=[axis], keep_dims=True))
    return b.op("sub", x=shifted, y=b.op("reduce_log_sum_exp", x=shifted, axes=[axis], keep_dims=True))


@op("Hardmax")
def hardmax(b: Builder, x: Operand, *, axis: int = -1) -> Var:
    """1 at the first largest element of the axis, else 0."""
    shape = b.shape(x)
    if not shape:
        raise CannotLower("rank 0")
    axis %= len(shape)
    first = b.op("reduce_argmax", x=x, axis=axis, keep_dims=True)
    index = np.arange(shape[axis], dtype=np.int32).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    hit = b.op("equal", x=Constant(index), y=first)
    return b.cast(hit, "float")
