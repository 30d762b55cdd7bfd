"""Normalizations. Epsilons are always written: MIL's defaults are not ONNX's."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from edgeq_converters.mil.builder import Builder, Operand, Var
from edgeq_converters.mil.ops_conv import per_channel
from edgeq_converters.mil.squares import over_root_of_squares, root_of_squares
from edgeq_converters.mil.table import op

BATCH_AND_SPACE: Final = [0, 2, 3]  # the schema's default, in its own type


@op("BatchNormalization")
def batch_normalization(b: Builder, x: Operand, scale: Operand, bias: Operand, mean: Operand, variance: Operand, *,
                        epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0) -> Any:
    """x * s + t with s = scale / sqrt(variance + epsilon), t = bias - mean * s, both [C], computed here in double.

    training_mode: the statistics are x's own -> (y, running mean, running variance).
    """
    if training_mode:
        return _own_statistics(b, x, scale, bias, mean, variance, epsilon, momentum)
    factors = [b.known(operand) for operand in (scale, bias, mean, variance)]
    if all(factor is not None for factor in factors):
        gamma, beta, center, spread = (np.asarray(factor, np.float64) for factor in factors)
        s = gamma / np.sqrt(spread + epsilon)
        scaled = b.op("mul", x=x, y=per_channel(s, b.rank(x)))
        return b.op("add", x=scaled, y=per_channel(beta - center * s, b.rank(x)))
    shape = [1, -1] + [1] * (b.rank(x) - 2)
    gamma_, beta_, center_, spread_ = (b.reshape(v, [1, b.shape(v)[0], *shape[2:]])
                                       for v in (scale, bias, mean, variance))
    root = b.op("sqrt", x=b.op("add", x=spread_, y=float(epsilon)))
    normal = b.op("real_div", x=b.op("sub", x=x, y=center_), y=root)
    return b.op("add", x=b.op("mul", x=normal, y=gamma_), y=beta_)


def _own_statistics(b: Builder, x: Operand, scale: Operand, bias: Operand, mean: Operand, variance: Operand,
                    epsilon: float, momentum: float) -> tuple[Var, Var, Var]:
    channels = b.shape(x)[1]
    along, shape = [axis for axis in range(b.rank(x)) if axis != 1], [1, channels] + [1] * (b.rank(x) - 2)
    center = b.op("reduce_mean", x=x, axes=along, keep_dims=True)
    centered = b.op("sub", x=x, y=center)
    spread = b.op("reduce_mean", x=b.op("square", x=centered), axes=along, keep_dims=True)
    normal = b.op("real_div", x=centered, y=b.op("sqrt", x=b.op("add", x=spread, y=float(epsilon))))

    def running(old: Operand, new: Var) -> Var:
        kept = b.op("mul", x=b.reshape(old, (channels,)), y=float(momentum))
        return b.op("add", x=kept, y=b.op("mul", x=b.reshape(new, (channels,)), y=1 - momentum))

    return _affine(b, normal, scale, bias, shape), running(mean, center), running(variance, spread)


def _standardised(b: Builder, x: Operand, axes: list[int], epsilon: float) -> Var:
    return b.op("layer_norm", x=x, axes=axes, epsilon=float(epsilon))


def _affine(b: Builder, x: Var, scale: Operand, bias: Operand, shape: Sequence[int] | None = None) -> Var:
    """x * scale + bias, either absent or reshaped to `shape` first."""
    if scale is not None:
        x = b.op("mul", x=x, y=scale if shape is None else b.reshape(scale, shape))
    if bias is not None:
        x = b.op("add", x=x, y=bias if shape is None else b.reshape(bias, shape))
    return x


@op("LayerNormalization")
def layer_normalization(b: Builder, x: Operand, scale: Operand, bias: Operand = None, *, axis: int = -1,
                        epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    """Over the axes from `axis` on -> (y, mean, 1 / standard deviation)."""
    shape = b.shape(x)
    axes = list(range(axis % len(shape), len(shape)))
    normal = shape[axes[0]:]
    known = [b.known(v) if v is not None else None for v in (scale, bias)]
    if all(v is None or (k is not None and k.shape == normal) for v, k in zip((scale, bias), known, strict=True)):
        y = b.op("layer_norm", x=x, axes=axes, gamma=known[0], beta=known[1], epsilon=float(epsilon))
    else:
        y = _affine(b, _standardised(b, x, axes, epsilon), scale, bias)
    assert b.node is not None
    if len(b.node.outputs) == 1:
        return y
    mean = b.op("reduce_mean", x=x, axes=axes, keep_dims=True)
    variance = b.op("reduce_mean", x=b.op("square", x=b.op("sub", x=x, y=mean)), axes=axes, keep_dims=True)
    return y, mean, b.op("rsqrt", x=b.op("add", x=variance, y=float(epsilon)), epsilon=0.0)


@op("InstanceNormalization")
def instance_normalization(b: Builder, x: Operand, scale: Operand, bias: Operand, *, epsilon: float = 1e-5) -> Var:
    gamma, beta = b.known(scale), b.known(bias)
    if b.rank(x) in (3, 4) and gamma is not None and beta is not None:
        return b.op("instance_norm", x=x, gamma=gamma, beta=beta, epsilon=float(epsilon))
    normal = _standardised(b, x, list(range(2, b.rank(x))), epsilon)
    return _affine(b, normal, scale, bias, [1, b.shape(x)[1]] + [1] * (b.rank(x) - 2))


@op("GroupNormalization")
def group_normalization(b: Builder, x: Operand, scale: Operand, bias: Operand, *, num_groups: int,
                        epsilon: float = 1e-5, stash_type: int = 1) -> Var:
    """x [N,C,..] in num_groups groups of channels; scale and bias [C]."""
    shape = b.shape(x)
    groups = b.reshape(x, (shape[0], num_groups, int(np.prod(shape[1:])) // num_groups))
    normal = b.reshape(_standardised(b, groups, [2], epsilon), shape)
    return _affine(b, normal, scale, bias, [1, shape[1]] + [1] * (len(shape) - 2))


@op("RMSNormalization")
def rms_normalization(b: Builder, x: Operand, scale: Operand, *, axis: int = -1, epsilon: float = 1e-5,
                      stash_type: int = 1) -> Var:
    axes = list(range(axis % b.rank(x), b.rank(x)))
    root = root_of_squares(b, x, axes, mean=True, epsilon=float(epsilon))
    return b.op("mul", x=b.op("real_div", x=x, y=root), y=scale)


@op("MeanVarianceNormalization")
def mean_variance_normalization(b: Builder, x: Operand, *, axes: Sequence[int] = BATCH_AND_SPACE) -> Var:
    """(x - mean) / (standard deviation + 1e-9), https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html"""
    along = [axis % b.rank(x) for axis in axes]
    centered = b.op("sub", x=x, y=b.op("reduce_mean", x=x, axes=along, keep_dims=True))
    variance = b.op("reduce_mean", x=b.op("square", x=centered), axes=along, keep_dims=True)
    return b.op("real_div", x=centered, y=b.op("add", x=b.op("sqrt", x=variance), y=1e-9))


@op("LpNormalization")
def lp_normalization(b: Builder, x: Operand, *, axis: int = -1, p: int = 2) -> Var:
    """x / norm; zeros stay zeros."""
    if p == 2:
        return over_root_of_squares(b, x, [axis])
    norm = b.op("reduce_sum", x=b.op("abs", x=x), axes=[axis], keep_dims=True)
    return b.op("real_div", x=x, y=b.op("maximum", x=norm, y=float(np.finfo(b.dtype).tiny)))


@op("LRN")
def lrn(b: Builder, x: Operand, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Var:
    return b.op("local_response_norm", x=x, size=size, alpha=float(alpha), beta=float(beta), k=float(bias))


