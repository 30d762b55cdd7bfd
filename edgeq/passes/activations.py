"""Activations that an exporter wrote out in elementary operations become the one node they are.

Each is a product of the input x, a gate computed from x, and a number; exporters differ in the order of the factors, in
the side of the constants, and in dividing by 6 or multiplying by 1/6. So a pattern starts at the operation that gives
the gate away, reads x from it, and looks for the product that closes it, in any order.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from edgeq.graph import attribute, consumers
from edgeq.passes.rewrite import (
    close,
    inserted,
    is_number,
    nodes_of,
    producer,
    replace,
    same_shape,
    scalar,
    with_scalar,
)

_DEPTH: Final = 4  # products nested deeper than this are not written by any exporter


def recognize_hard_swish(model: ir.Model) -> int:
    """x * Clip(x + 3, 0, 6) / 6 -> HardSwish; Clip(x + 3, 0, 6) / 6 -> HardSigmoid(1/6, 1/2). -> how many.

        x -> Add(3) -> Clip(0, 6) -> Mul -> Div(6) -> y     =>     x -> HardSwish -> y
        x ---------------------------^
    """
    return sum(_hard_swish_of_clip(node) for node in nodes_of(model, "Clip")) + \
        sum(_hard_swish_of_gate(node) for node in nodes_of(model, "HardSigmoid"))


def _hard_swish_of_clip(clip: ir.Node) -> bool:
    shifted, gate = with_scalar(clip.inputs[0], "Add"), clip.outputs[0]
    if shifted is None or not close(shifted[1], 3) or len(clip.inputs) != 3:
        return False
    if scalar(clip.inputs[1]) != 0 or not is_number(clip.inputs[2], 6):
        return False
    x = shifted[0]
    if (last := _closing(gate, [gate, x], 1 / 6)) is not None and same_shape(last.outputs[0], x):
        replace(last, "HardSwish", [x])
    elif (last := _closing(gate, [gate], 1 / 6)) is not None and same_shape(last.outputs[0], x):
        replace(last, "HardSigmoid", [x], alpha=1 / 6, beta=0.5)
    else:
        return False
    return True


def _hard_swish_of_gate(gate: ir.Node) -> bool:
    x = gate.inputs[0]
    assert x is not None
    if not close(attribute(gate, "alpha", 0.2), 1 / 6) or not close(attribute(gate, "beta", 0.5), 0.5):
        return False
    last = _closing(gate.outputs[0], [gate.outputs[0], x], 1)
    if last is None or not same_shape(last.outputs[0], x):
        return False
    replace(last, "HardSwish", [x])
    return True


def recognize_sigmoid(model: ir.Model) -> int:
    """1 / (1 + exp(-x)) -> Sigmoid; x / (1 + exp(-x)) -> x * Sigmoid(x), which is SiLU in opset 21. -> how many.

        x -> Neg -> Exp -> Add(1) -> Div(x, .) -> y     =>     x -> Sigmoid -> Mul(x, .) -> y
    """
    return sum(_sigmoid(node) for node in nodes_of(model, "Exp"))


def _sigmoid(exponential: ir.Node) -> bool:
    x = _negated(exponential.inputs[0])
    if x is None:
        return False
    for add in consumers(exponential.outputs[0]):
        total = with_scalar(add.outputs[0], "Add")
        if total is None or not close(total[1], 1) or total[0] is not exponential.outputs[0]:
            continue
        for last in consumers(add.outputs[0]):
            if not same_shape(last.outputs[0], x):
                continue
            if last.op_type == "Reciprocal" or (last.op_type == "Div" and last.inputs[1] is add.outputs[0]
                                                and is_number(last.inputs[0], 1)):
                replace(last, "Sigmoid", [x])
                return True
            if last.op_type == "Div" and last.inputs[0] is x and last.inputs[1] is add.outputs[0]:
                _multiply_by_sigmoid(last, x)
                return True
    return False


def _negated(value: ir.Value | None) -> ir.Value | None:
    if (node := producer(value, "Neg")) is not None:
        return node.inputs[0]
    times = with_scalar(value, "Mul")
    return times[0] if times is not None and close(times[1], -1) else None


def _multiply_by_sigmoid(node: ir.Node, x: ir.Value) -> None:
    replace(node, "Mul", [x, inserted(node, "Sigmoid", [x], "sigmoid", x)])


def recognize_gelu(model: ir.Model) -> int:
    """x/2 * (1 + erf(x / sqrt 2)) -> Gelu; x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) -> Gelu(tanh). -> how many.

        x -> Div(1.414) -> Erf -> Add(1) -> Mul -> Mul(0.5) -> y     =>     x -> Gelu -> y
        x ----------------------------------^

    https://arxiv.org/abs/1606.08415
    """
    count = 0
    for gate in nodes_of(model, "Erf", "Tanh"):
        x = _erf_argument(gate.inputs[0]) if gate.op_type == "Erf" else _tanh_argument(gate.inputs[0])
        last = None if x is None else _closing_gelu(gate.outputs[0], x)
        if x is not None and last is not None and same_shape(last.outputs[0], x):
            replace(last, "Gelu", [x], approximate="none" if gate.op_type == "Erf" else "tanh")
            count += 1
    return count


def _closing_gelu(gate: ir.Value, x: ir.Value) -> ir.Node | None:
    for add in consumers(gate):
        total = with_scalar(add.outputs[0], "Add")
        if total is not None and close(total[1], 1) and total[0] is gate:
            last = _closing(add.outputs[0], [add.outputs[0], x], 0.5)
            if last is not None:
                return last
    return None


def _erf_argument(value: ir.Value | None) -> ir.Value | None:
    """x of x / sqrt(2)."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return None
    if node.op_type == "Div":
        return node.inputs[0] if is_number(node.inputs[1], math.sqrt(2)) else None
    times = with_scalar(value, "Mul")
    return times[0] if times is not None and close(times[1], math.sqrt(0.5)) else None


def _tanh_argument(value: ir.Value | None) -> ir.Value | None:
    """x of sqrt(2/pi) (x + 0.044715 x^3), or of sqrt(2/pi) x (1 + 0.044715 x^2)."""
    for add in _sums_in(value, _DEPTH):
        for cubic, x in (add.inputs, add.inputs[::-1]):
            if x is None or cubic is None or value is None:
                continue
            if _is_power(cubic, x, 3) and _is_product(value, [add.outputs[0]], math.sqrt(2 / math.pi)):
                return x
            if is_number(x, 1):
                inner = _base_of_square(cubic)
                if inner is not None and _is_product(value, [add.outputs[0], inner], math.sqrt(2 / math.pi)):
                    return inner
    return None


def _sums_in(value: ir.Value | None, depth: int) -> Iterator[ir.Node]:
    """The Add nodes among the factors of a product."""
    if (add := producer(value, "Add")) is not None:
        yield add
    elif depth and (node := producer(value, "Mul", "Div")) is not None:
        for factor in node.inputs:
            yield from _sums_in(factor, depth - 1)


def _is_power(value: ir.Value, x: ir.Value, exponent: int) -> bool:
    """True for 0.044715 x^exponent."""
    number, factors = _product(value, (x,), _DEPTH)
    power = 0
    for factor, times in factors.items():
        raised = producer(factor, "Pow")
        if factor is x:
            power += times
        elif raised is not None and raised.inputs[0] is x and (of := scalar(raised.inputs[1])) is not None:
            power += int(of) * times if of == int(of) else 99
        else:
            return False
    return close(number, 0.044715) and power == exponent


def _base_of_square(value: ir.Value) -> ir.Value | None:
    """x of 0.044715 x^2."""
    candidates = [value]
    for _ in range(_DEPTH):
        candidates = [inner for c in candidates if (node := producer(c, "Mul", "Pow", "Div")) is not None
                      for inner in node.inputs if inner is not None and scalar(inner) is None]
        for x in candidates:
            if _is_power(value, x, 2):
                return x
    return None


def _closing(gate: ir.Value, factors: list[ir.Value], number: float) -> ir.Node | None:
    """The node downstream of ``gate`` that computes the product of ``factors`` and ``number``."""
    reached = [gate]
    for _ in range(_DEPTH):
        readers = [node for value in reached for node in consumers(value) if node.op_type in ("Mul", "Div")]
        for node in readers:
            if _is_product(node.outputs[0], factors, number):
                return node
        reached = [node.outputs[0] for node in readers]
    return None


def _is_product(value: ir.Value, factors: list[ir.Value], number: float) -> bool:
    found, values = _product(value, tuple(factors), _DEPTH)
    return close(found, number) and values == Counter(factors)


def _product(value: ir.Value, stop: tuple[ir.Value, ...], depth: int) -> tuple[float, Counter[ir.Value]]:
    """A value as number * factors, taken apart through Mul and through Div by a number, but not beyond ``stop``."""
    number = scalar(value)
    if number is not None:
        return number, Counter()
    node = producer(value, "Mul", "Div") if depth and not any(value is end for end in stop) else None
    if node is None or any(given is None for given in node.inputs):
        return 1.0, Counter([value])
    a, b = (given for given in node.inputs if given is not None)
    if node.op_type == "Div":
        divisor = scalar(b)
        if not divisor:
            return 1.0, Counter([value])
        number, factors = _product(a, stop, depth - 1)
        return number / divisor, factors
    (left, left_factors), (right, right_factors) = _product(a, stop, depth - 1), _product(b, stop, depth - 1)
    return left * right, left_factors + right_factors
