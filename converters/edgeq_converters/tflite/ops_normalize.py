"""Normalizations: softmax as a kernel, the others as float formulas."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.float_expr import Real, Term
from edgeq_converters.tflite.layout import Layout, channels_last, identity, last, permute
from edgeq_converters.tflite.ops_shape import padded
from edgeq_converters.tflite.program import Value
from edgeq_converters.tflite.table import op
from edgeq_converters.tflite.weights import real_numbers
from edgeq_converters.tflite.windows import VALID


@op("Softmax", "LogSoftmax")
def softmax(b: Builder, x: Value, *, axis: int = -1) -> Value:
    """The kernels work on the last axis as it is stored."""
    axis %= max(x.rank, 1)
    layout = b.common_layout(x)
    if layout[-1:] != (axis,):
        layout = last(x.rank, axis)
    kernel = "SOFTMAX" if b.node.op_type == "Softmax" else "LOG_SOFTMAX"
    options: dict[str, Any] = {"beta": 1.0} if kernel == "SOFTMAX" else {}
    tensor = b.read(x, layout)
    flat = b.reshape(tensor, (int(np.prod(tensor.shape[:-1])), tensor.shape[-1])) if tensor.rank > 4 else tensor
    made = b.through(kernel, [flat], flat.shape, **options)
    return b.result(b.reshape(made, tensor.shape), layout)


def _shaped(b: Builder, x: Value, parameter: Value | None, behind: int, layout: Layout) -> Term | None:
    """A parameter, known or computed, over axes of x of which `behind` more follow, ready to broadcast against x stored
    in `layout`."""
    if parameter is None:
        return None
    wide = (1,) * (x.rank - parameter.rank - behind) + parameter.shape + (1,) * behind
    if parameter.data is not None:
        return np.asarray(real_numbers(parameter).reshape(wide).transpose(layout), np.float32)
    return Real(b, b.transpose(b.reshape(b.read(parameter), wide), layout))


def _by_channel(b: Builder, x: Value, parameter: Value | None, layout: Layout) -> Term | None:
    return _shaped(b, x, parameter, x.rank - 2, layout)


def _standardized(x: Real, places: list[int], epsilon: float) -> Real:
    """(x - mean) / sqrt(variance + epsilon) over tensor axes."""
    centred = x - x.reduce("MEAN", places)
    return centred * ((centred * centred).reduce("MEAN", places) + epsilon).run("RSQRT")


def _affine(x: Real, scale: Term | None, bias: Term | None) -> Real:
    x = x if scale is None else x * scale
    return x if bias is None else x + bias


@op("LayerNormalization")
def layer_normalization(b: Builder, x: Value, scale: Value, bias: Value | None = None, *, axis: int = -1,
                        epsilon: float = 1e-5, stash_type: int = 1) -> tuple[Value | None, ...]:
    axis %= x.rank
    layout = b.common_layout(x)
    places = sorted(layout.index(a) for a in range(axis, x.rank))
    source = Real(b, b.read(x, layout))
    mean = source.reduce("MEAN", places)
    centred = source - mean
    deviation = ((centred * centred).reduce("MEAN", places) + epsilon).run("RSQRT")
    real = centred * deviation
    made = _affine(real, _shaped(b, x, scale, 0, layout), _shaped(b, x, bias, 0, layout))
    asked = [(index, part) for index, part in ((1, mean), (2, deviation))
             if index < len(b.node.outputs) and b.node.outputs[index].name]
    extra = [None] * (max((index for index, _ in asked), default=0))
    results: list[Value | None] = [b.result(made.tensor, layout), *extra]
    for index, part in asked:
        results[index] = b.result(part.tensor, layout, index)
    return tuple(results)


@op("RMSNormalization")
def rms_normalization(b: Builder, x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5,
                      stash_type: int = 1) -> Value:
    axis %= x.rank
    layout = b.common_layout(x)
    places = sorted(layout.index(a) for a in range(axis, x.rank))
    real = Real(b, b.read(x, layout))
    made = real * ((real * real).reduce("MEAN", places) + epsilon).run("RSQRT")
    return b.result(_affine(made, _shaped(b, x, scale, 0, layout), None).tensor, layout)


@op("InstanceNormalization")
def instance_normalization(b: Builder, x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    layout = b.common_layout(x)
    real = _standardized(Real(b, b.read(x, layout)), sorted(layout.index(a) for a in range(2, x.rank)), epsilon)
    made = _affine(real, _by_channel(b, x, scale, layout), _by_channel(b, x, bias, layout))
    return b.result(made.tensor, layout)


@op("GroupNormalization")
def group_normalization(b: Builder, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5,
                        stash_type: int = 1) -> Value:
    """Over [C / groups, spatial..] of each group, scale and bias per channel (opset 21).

    In ONNX order a group is one run of numbers; with the channels last, [N, pixels, groups, C / groups] parts them.
    """
    n, c, pixels = x.shape[0], x.shape[1], x.size // (x.shape[0] * x.shape[1])
    layout = b.common_layout(x)
    apart: tuple[int, ...]
    if layout == channels_last(x.rank) and x.rank > 2:
        apart, places = (n, pixels, num_groups, c // num_groups), [1, 3]
    else:
        layout, apart, places = identity(x.rank), (n, num_groups, c // num_groups * pixels), [2]
    tensor = b.read(x, layout)
    real = _standardized(Real(b, b.reshape(tensor, apart)), places, epsilon)
    back = Real(b, b.reshape(real.tensor, tensor.shape))
    return b.result(_affine(back, _by_channel(b, x, scale, layout), _by_channel(b, x, bias, layout)).tensor, layout)


@op("BatchNormalization")
def batch_normalization(b: Builder, x: Value, scale: Value, bias: Value, mean: Value, variance: Value, *,
                        epsilon: float = 1e-5, momentum: float = 0.9,
                        training_mode: int = 0) -> Value | tuple[Value, ...]:
    if training_mode:
        return _batch_statistics(b, x, scale, bias, mean, variance, epsilon, momentum)
    layout = b.common_layout(x)
    real = Real(b, b.read(x, layout))
    if all(value.data is not None for value in (scale, bias, mean, variance)):
        s, o, m, v = (real_numbers(value) for value in (scale, bias, mean, variance))
        factor = (s / np.sqrt(v + epsilon)).astype(np.float32)
        shape = permute([-1 if axis == 1 else 1 for axis in range(x.rank)], layout)
        made = real * factor.reshape(shape) + (o - m * factor).astype(np.float32).reshape(shape)
        return b.result(made.tensor, layout)
    centre, spread = (_by_channel(b, x, value, layout) for value in (mean, variance))
    assert centre is not None
    assert spread is not None
    deviation = (spread if isinstance(spread, Real) else real.constant(spread)) + epsilon
    made = _affine((real - centre) * deviation.run("RSQRT"), _by_channel(b, x, scale, layout),
                   _by_channel(b, x, bias, layout))
    return b.result(made.tensor, layout)


def _batch_statistics(b: Builder, x: Value, scale: Value, bias: Value, mean: Value, variance: Value, epsilon: float,
                      momentum: float) -> tuple[Value, ...]:
    """With the batch's own mean and variance, and the running ones a step further."""
    layout = b.common_layout(x)
    real = Real(b, b.read(x, layout))
    places = sorted(layout.index(axis) for axis in range(x.rank) if axis != 1)
    centre = real.reduce("MEAN", places)
    centred = real - centre
    spread = (centred * centred).reduce("MEAN", places)
    made = _affine(centred * (spread + epsilon).run("RSQRT"), _by_channel(b, x, scale, layout),
                   _by_channel(b, x, bias, layout))
    results = [b.result(made.tensor, layout)]
    for index, (part, running) in enumerate(((centre, mean), (spread, variance)), 1):
        if index < len(b.node.outputs):
            flat = Real(b, b.reshape(part.tensor, (x.shape[1],)))
            past = Real(b, b.read(running)) * momentum
            results.append(b.result((flat * (1 - momentum) + past).tensor, None, index))
    return tuple(results)


@op("LpNormalization")
def lp_normalization(b: Builder, x: Value, *, axis: int = -1, p: int = 2) -> Value:
    layout = b.common_layout(x)
    place = [layout.index(axis % x.rank)]
    real = Real(b, b.read(x, layout))
    norm = real.run("ABS").reduce("SUM", place) if p == 1 else (real * real).reduce("SUM", place).run("SQRT")
    return b.result((real / norm.maximum(1e-30)).tensor, layout)  # a zero vector stays zero


@op("MeanVarianceNormalization")
def mean_variance_normalization(b: Builder, x: Value, *, axes: Sequence[int] = [0, 2, 3]) -> Value:
    layout = b.common_layout(x)
    real = Real(b, b.read(x, layout))
    places = sorted(layout.index(axis % x.rank) for axis in axes)
    centred = real - real.reduce("MEAN", places)
    deviation = (centred * centred).reduce("MEAN", places).run("SQRT")
    return b.result((centred / (deviation + 1e-9)).tensor, layout)


@op("LRN")
def local_response(b: Builder, x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75,
                   bias: float = 1.0) -> Value:
    """x / (bias + alpha * mean over `size` channels of x * x) ** beta. The kernel knows odd windows only, and the
    reference resolver's computes something else."""
    last_axis = last(x.rank, 1)
    tensor = b.read(x, last_axis)
    channels = x.shape[1]
    flat = (1, x.size // channels, channels, 1)
    squares = b.reshape(b.call("MUL", [tensor, tensor], tensor.shape), flat)
    before = (size - 1) // 2
    wide = padded(b, squares, [(0, 0), (0, 0), (before, size - 1 - before), (0, 0)])
    mean = b.call("AVERAGE_POOL_2D", [wide], flat, padding=VALID, strideH=1, strideW=1, filterHeight=1,
                  filterWidth=size)
    divisor = (Real(b, b.reshape(mean, tensor.shape)) * alpha + bias).run("POW", beta)
    return b.result((Real(b, tensor) / divisor).tensor, last_axis)
