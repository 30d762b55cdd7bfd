"""Losses: found in models that were exported with their training objective."""
from __future__ import annotations

import numpy as np

from edgeq_converters.optable import CannotLower
from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.float_expr import Real
from edgeq_converters.tflite.layout import last
from edgeq_converters.tflite.program import Tensor, Value
from edgeq_converters.tflite.table import op


@op("NegativeLogLikelihoodLoss")
def negative_log_likelihood(b: Builder, x: Value, target: Value, weight: Value | None = None, *,
                            ignore_index: int | None = None, reduction: str = "mean") -> Value:
    tensor = b.read(x, last(x.rank, 1))
    return b.result(_loss(b, Real(b, tensor), target, weight, ignore_index, reduction))


@op("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(b: Builder, x: Value, target: Value, weight: Value | None = None, *,
                          ignore_index: int | None = None, reduction: str = "mean") -> tuple[Value, ...]:
    layout = last(x.rank, 1)
    tensor = b.read(x, layout)
    flat = b.reshape(tensor, (tensor.shape[0], int(np.prod(tensor.shape[1:-1])), tensor.shape[-1]))
    logs = b.reshape(b.call("LOG_SOFTMAX", [flat], flat.shape), tensor.shape)
    loss = b.result(_loss(b, Real(b, logs), target, weight, ignore_index, reduction))
    if len(b.node.outputs) == 1 or not b.node.outputs[1].name:
        return (loss,)
    return loss, b.result(logs, layout, 1)


def _loss(b: Builder, logs: Real, target: Value, weight: Value | None, ignore: int | None, reduction: str) -> Tensor:
    """logs [N, .., C], target [N, ..] -> [N, ..], or [] when reduced. mean: over the weights of what is not ignored."""
    if target.dtype.kind != "i":
        raise CannotLower(f"targets of {target.dtype}")
    classes = logs.tensor.shape[-1]
    logs = Real(b, b.reshape(logs.tensor, (target.size, classes)))  # kernels end at rank 6, targets do not
    index = b.reshape(b.cast(b.read(target), np.int32), (target.size,))
    wide = b.reshape(index, (*index.shape, 1))
    every = b.constant(np.arange(classes, dtype=np.int32).reshape((1,) * index.rank + (classes,)))
    shape = (*index.shape, classes)
    hit = Real(b, b.call("EQUAL", [wide, every], shape, dtype=np.bool_, to=None))
    factor = np.ones(classes, np.float32) if weight is None else b.array(weight, "weight").astype(np.float32)
    if ignore is not None and 0 <= ignore < classes:
        factor = factor.copy()
        factor[ignore] = 0
    place = [len(shape) - 1]
    weights = hit.select(logs.constant(np.broadcast_to(factor, (1,) * index.rank + (classes,))), 0.0)
    loss = -hit.select(logs * weights, 0.0).reduce("SUM", place)
    if reduction == "none":
        return b.reshape(loss.tensor, target.shape)
    axes = list(range(len(shape)))
    total = loss.reduce("SUM", axes)
    if reduction == "mean":
        total = total / weights.reduce("SUM", axes)
    return b.reshape(total.tensor, ())
