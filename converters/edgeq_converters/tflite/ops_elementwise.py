"""Ops that work element by element: in whatever layout their inputs are held."""
from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.tflite.builder import Builder, NeedsFloat
from edgeq_converters.tflite.float_expr import Real
from edgeq_converters.tflite.kernels import FLOAT32, KERNELS, grid
from edgeq_converters.tflite.layout import Layout
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op

# ONNX op -> kernel of two operands with the same meaning.
BINARY: Final = {
    "Add": "ADD", "Sub": "SUB", "Mul": "MUL", "PRelu": "PRELU", "And": "LOGICAL_AND", "Or": "LOGICAL_OR",
    "Xor": "NOT_EQUAL", "Equal": "EQUAL", "Less": "LESS", "LessOrEqual": "LESS_EQUAL", "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL",
}
COMPARING: Final = frozenset(("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"))
# ONNX op -> kernel of one operand with the same meaning.
UNARY: Final = {
    "Abs": "ABS", "Exp": "EXP", "Log": "LOG", "Sqrt": "SQRT", "Floor": "FLOOR", "Ceil": "CEIL", "Round": "ROUND",
    "Sin": "SIN",
    "Cos": "COS", "Not": "LOGICAL_NOT", "Sigmoid": "LOGISTIC", "Tanh": "TANH", "Sign": "SIGN",
}
# ONNX op -> a formula of other kernels; float only.
FORMULAS: Final[dict[str, Callable[[Real], Real]]] = {
    "Reciprocal": lambda x: 1.0 / x,
    "Tan": lambda x: x.run("SIN") / x.run("COS"),
    "Sinh": lambda x: (x.run("EXP") - (-x).run("EXP")) * 0.5,
    "Cosh": lambda x: (x.run("EXP") + (-x).run("EXP")) * 0.5,
    "Atan": lambda x: x.run("ATAN2", x.constant(np.ones(x.tensor.shape, np.float32))),
    "Asin": lambda x: x.run("ATAN2", (1.0 - x * x).run("SQRT")),
    "Acos": lambda x: (1.0 - x * x).run("SQRT").run("ATAN2", x),
    "Asinh": lambda x: x.run("SIGN") * (x.run("ABS") + (x * x + 1.0).run("SQRT")).run("LOG"),
    "Acosh": lambda x: (x + (x * x - 1.0).run("SQRT")).run("LOG"),
    "Atanh": lambda x: ((x + 1.0) / (1.0 - x)).run("LOG") * 0.5,
    "Softplus": lambda x: softplus(x),
    "Softsign": lambda x: x / (x.run("ABS") + 1.0),
    "Mish": lambda x: x * softplus(x).run("TANH"),
    "Erf": lambda x: erf(x),
}


def softplus(x: Real) -> Real:
    """log(1 + exp(x)) without overflow."""
    return x.maximum(0.0) + ((-x.run("ABS")).run("EXP") + 1.0).run("LOG")


def erf(x: Real) -> Real:
    """Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7."""
    t = 1.0 / (x.run("ABS") * 0.3275911 + 1.0)
    series = reduce(lambda sum_, c: sum_ * t + c, (1.421413741, -0.284496736, 0.254829592),
                    t * 1.061405429 - 1.453152027)
    return x.run("SIGN") * (1.0 - series * t * (-(x * x)).run("EXP"))


def operands(b: Builder, kernel: str, *xs: Value) -> tuple[list[Tensor], Layout, tuple[int, ...]]:
    """Inputs of one kernel that broadcasts -> (tensors, their layout, the broadcast shape as stored)."""
    rank = max(x.rank for x in xs)
    wide = [b.aligned(x, rank) for x in xs]
    layout = b.common_layout(*wide)
    tensors = [b.read(x, layout) for x in wide]
    out = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
    if rank > KERNELS[kernel].broadcast:
        tensors = [t if t.shape == out else b.through("BROADCAST_TO", [t, b.ints(out)], out) for t in tensors]
    return tensors, layout, out


def binary(b: Builder, *xs: Value, kernel: str) -> Value:
    tensors, layout, out = operands(b, kernel, *xs)
    dtype = np.bool_ if kernel in COMPARING else None
    return b.result(b.through(kernel, tensors, out, dtype=dtype, to=None if dtype else "auto"), layout)


def unary(b: Builder, x: Value, kernel: str, **options: Any) -> Value:
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    return b.result(b.through(kernel, [tensor], tensor.shape, **options), layout)


def formula(b: Builder, x: Value, write: Callable[[Real], Real]) -> Value:
    """A float formula in the layout at hand."""
    if b.integer:
        raise NeedsFloat(f"{b.node.op_type} is a formula of float kernels here")
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    source = tensor if tensor.dtype == FLOAT32 else b.cast(tensor, FLOAT32)
    return b.result(b.cast(write(Real(b, source)).tensor, tensor.dtype), layout)


def _binary(kernel: str) -> Callable[[Builder, Value, Value], Value]:
    return lambda b, x, y: binary(b, x, y, kernel=kernel)


def _unary(kernel: str) -> Callable[[Builder, Value], Value]:
    return lambda b, x: unary(b, x, kernel)


def _formula(write: Callable[[Real], Real]) -> Callable[[Builder, Value], Value]:
    return lambda b, x: formula(b, x, write)


for _name, _kernel in BINARY.items():
    op(_name)(_binary(_kernel))
for _name, _kernel in UNARY.items():
    op(_name)(_unary(_kernel))
for _name, _write in FORMULAS.items():
    op(_name)(_formula(_write))


@op("Max", "Min", "Sum", "Mean")
def fold(b: Builder, *xs: Value) -> Value:
    """Any number of operands, two at a time."""
    kind = b.node.op_type
    kernel = {"Max": "MAXIMUM", "Min": "MINIMUM"}.get(kind, "ADD")
    tensors, layout, out = operands(b, kernel, *xs)
    if b.grid is not None and kernel != "ADD":
        tensors = [b.convert(tensor, b.grid) for tensor in tensors]
    total = reduce(lambda x, y: b.through(kernel, [x, y], np.broadcast_shapes(x.shape, y.shape)), tensors)
    if kind == "Mean":
        total = b.call("MUL", [total, b.constant(np.array(1 / len(xs), np.float32))], out)
    return b.result(total, layout)


@op("Div")
def divide(b: Builder, x: Value, y: Value) -> Value:
    """Integers are divided towards zero, as by the int32 kernel."""
    if x.dtype == np.float32 and y.data is not None and y.size == 1 and y.grid is None and _is_power_of_two(y.data):
        return binary(b, x, b.value((1 / y.data).astype(np.float32)), kernel="MUL")
    return binary(b, x, y, kernel="DIV")


def _is_power_of_two(data: NDArray[Any]) -> bool:
    return bool(np.frexp(np.abs(float(data.flat[0])))[0] == 0.5)


@op("Pow")
def power(b: Builder, x: Value, y: Value) -> Value:
    exponent = float(y.data.flat[0]) if y.data is not None and y.size == 1 else None
    if x.dtype == np.float32 and exponent in (2.0, 0.5, 1.0) and b.shape == x.shape:
        if exponent == 1.0:
            layout = b.common_layout(x)
            return b.result(b.read(x, layout), layout)
        return unary(b, x, "SQUARE" if exponent == 2.0 else "SQRT")
    tensors, layout, out = operands(b, "POW", x, y)
    base, raised = (tensor if tensor.dtype == FLOAT32 else b.cast(tensor, FLOAT32) for tensor in tensors)
    made = b.call("POW", [base, raised], out)
    return b.result(b.cast(made, x.dtype), layout)


@op("Mod")
def modulo(b: Builder, x: Value, y: Value, *, fmod: int = 0) -> Value:
    """fmod=0: the sign of the divisor, as FLOOR_MOD. fmod=1: the sign of the dividend."""
    tensors, layout, out = operands(b, "FLOOR_MOD", x, y)
    if not fmod:
        return b.result(b.through("FLOOR_MOD", tensors, out), layout)
    first = b.cast(tensors[0], np.float32) if tensors[0].dtype != FLOAT32 else tensors[0]
    second = b.cast(tensors[1], np.float32) if tensors[1].dtype != FLOAT32 else tensors[1]
    left, right = Real(b, first), Real(b, second)
    rest = left.run("ABS").run("FLOOR_MOD", right.run("ABS"))
    return b.result(b.cast((rest * left.run("SIGN")).tensor, x.dtype), layout)


@op("Neg")
def negate(b: Builder, x: Value) -> Value:
    """The int8 NEG forgets the zero point: times -1 instead."""
    return binary(b, x, b.value(-1.0), kernel="MUL") if b.integer else unary(b, x, "NEG")


@op("Where")
def where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    tensors, layout, out = operands(b, "SELECT_V2", condition, x, y)
    if b.grid is not None:
        tensors[1:] = [b.convert(tensor, b.grid) for tensor in tensors[1:]]
    return b.result(b.through("SELECT_V2", tensors, out), layout)


@op("Relu")
def relu(b: Builder, x: Value) -> Value:
    return bounded(b, x, 0.0, np.inf)


@op("Clip")
def clip(b: Builder, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    computed = any(v is not None and v.data is None for v in (low, high))
    if computed and b.integer:
        raise NeedsFloat("its bounds are computed at run time")
    if computed or x.dtype != FLOAT32:
        return _clip_exact(b, x, low, high)
    first, second = (default if bound is None or bound.data is None else float(bound.data.ravel()[0])
                     for bound, default in ((low, -np.inf), (high, np.inf)))
    return bounded(b, x, first, second)


def _clip_exact(b: Builder, x: Value, low: Value | None, high: Value | None) -> Value:
    """As ONNX has it: where the lower bound lies above the upper one, that one wins."""
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    for kernel, bound in (("MAXIMUM", low), ("MINIMUM", high)):
        if bound is not None:
            tensor = b.through(kernel, [tensor, b.reshape(b.read(bound), ())], tensor.shape)
    return b.result(tensor, layout)


ACTIVATIONS: Final = {(0.0, np.inf): ("RELU", 1), (-1.0, 1.0): ("RELU_N1_TO_1", 2), (0.0, 6.0): ("RELU6", 3)}
# Kernels with a fused activation. The number is the schema's ActivationFunctionType.
FUSING: Final = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV"))


def bounded(b: Builder, x: Value, low: float, high: float) -> Value:
    """Fused into the producer where that is possible, on integers a requantization whose saturation is the clip."""
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    name, number = ACTIVATIONS.get((low, high), ("", 0))
    producer = b.producers.get(tensor)
    fusing = producer is not None and producer.kernel in FUSING and not producer.options.get("fusedActivationFunction")
    one_grid = x.grid is None if b.grid is None else tensor.grid is not None and tensor.grid.same_grid(b.grid)
    if name and producer is not None and fusing and not x.shared and one_grid:
        producer.options["fusedActivationFunction"] = number
        b.holds_another(tensor)
        return b.result(tensor, layout)
    if tensor.grid is not None:
        return b.result(_bounded_integers(b, tensor, low, high), layout)
    if name in ("RELU", "RELU6"):
        return b.result(b.call(name, [tensor], tensor.shape), layout)
    real = Real(b, tensor)
    real = real if low == -np.inf else real.maximum(low)
    return b.result((real if high == np.inf else real.minimum(high)).tensor, layout)


def _bounded_integers(b: Builder, tensor: Tensor, low: float, high: float) -> Tensor:
    assert b.grid is not None
    first, last = b.grid.real_range()
    half = float(b.grid.scale) / 2
    made = b.convert(tensor, b.grid)
    for kernel, bound, needed in (("MAXIMUM", low, first < low - half), ("MINIMUM", high, last > high + half)):
        if needed:
            stored = np.clip(np.rint(bound / float(b.grid.scale)) + int(b.grid.zero_point), *b.grid.type.range)
            made = b.call(kernel, [made, b.constant(stored.astype(made.dtype).reshape(()), b.grid)], made.shape)
    return made


@op("LeakyRelu")
def leaky_relu(b: Builder, x: Value, *, alpha: float = 0.01) -> Value:
    return unary(b, x, "LEAKY_RELU", alpha=alpha)


@op("Elu")
def elu(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    if alpha == 1.0:
        return unary(b, x, "ELU")
    return formula(b, x, lambda r: r.maximum(0.0) + r.minimum(0.0).run("ELU") * alpha)


@op("Selu")
def selu(b: Builder, x: Value, *, alpha: float = 1.67326319217681884765625,
         gamma: float = 1.05070102214813232421875) -> Value:
    return formula(b, x, lambda r: r.maximum(0.0) * gamma + r.minimum(0.0).run("ELU") * (alpha * gamma))


@op("Celu")
def celu(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    return formula(b, x, lambda r: r.maximum(0.0) + (r.minimum(0.0) * (1 / alpha)).run("ELU") * alpha)


@op("ThresholdedRelu")
def thresholded_relu(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    return formula(b, x, lambda r: r.compare("GREATER", alpha).select(r, 0.0))


@op("Shrink")
def shrink(b: Builder, x: Value, *, lambd: float = 0.5, bias: float = 0.0) -> Value:
    return formula(b, x, lambda r: r.compare("LESS", -lambd).select(r + bias,
                                                                    r.compare("GREATER", lambd).select(r - bias, 0.0)))


@op("Gelu")
def gelu(b: Builder, x: Value, *, approximate: str = "none") -> Value:
    return unary(b, x, "GELU", approximate=approximate == "tanh")


@op("HardSigmoid")
def hard_sigmoid(b: Builder, x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """max(0, min(1, alpha * x + beta)); on integers the saturation of a grid over [0, 1] is the clip."""
    if b.integer and min(alpha, beta) <= 0:
        raise NeedsFloat("its factors are not positive, as the steps of a grid are")
    if not b.integer:
        return formula(b, x, lambda r: (r * alpha + beta).maximum(0.0).minimum(1.0))
    layout = b.common_layout(x)
    return b.result(_gate(b, b.read(x, layout), alpha, beta), layout)


def _gate(b: Builder, tensor: Tensor, alpha: float, beta: float) -> Tensor:
    """Integers: alpha * x + beta on the grid of [0, 1], whose lower end is a Relu where 0 lies in the middle."""
    assert tensor.grid is not None
    bits = tensor.grid.type.bits
    largest, one = 2 ** (bits - 1) - 1, (1,) * tensor.rank

    def constant(number: float) -> Tensor:
        return b.constant(np.full(one, largest, tensor.dtype), grid(number / largest, bits=bits))

    scaled = b.call("MUL", [tensor, constant(alpha)], tensor.shape, to=grid(
        float(tensor.grid.scale) * alpha, int(tensor.grid.zero_point), bits))
    if bits == 8:
        return b.call("ADD", [scaled, constant(beta)], tensor.shape, to=grid(1 / 255, -128))
    return b.call("ADD", [scaled, constant(beta)], tensor.shape, to=grid(1 / largest, bits=bits),
                  fusedActivationFunction=ACTIVATIONS[0.0, np.inf][1])


@op("HardSwish")
def hard_swish(b: Builder, x: Value) -> Value:
    """x * HardSigmoid(x, 1/6, 1/2). The int8 HARD_SWISH kernel is not delegated: eleven times slower than these
    three."""
    if not b.integer:
        return unary(b, x, "HARD_SWISH")
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    return b.result(b.call("MUL", [tensor, _gate(b, tensor, 1 / 6, 0.5)], tensor.shape), layout)


@op("IsNaN")
def is_nan(b: Builder, x: Value) -> Value:
    return binary(b, x, x, kernel="NOT_EQUAL")


@op("IsInf")
def is_inf(b: Builder, x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    layout = b.common_layout(x)
    tensor = b.read(x, layout)
    real = Real(b, tensor if tensor.dtype == FLOAT32 else b.cast(tensor, FLOAT32))
    if detect_negative and detect_positive:
        return b.result(real.run("ABS").compare("EQUAL", np.inf).tensor, layout)
    if not detect_negative and not detect_positive:
        return b.known(np.zeros(b.shape, np.bool_))
    return b.result(real.compare("EQUAL", np.inf if detect_positive else -np.inf).tensor, layout)
