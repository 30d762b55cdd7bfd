"""All ops that the interpreter runs, one module per family."""
from __future__ import annotations

from edgeq.verification.mlpackage.ops import (
    activation,
    control,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    normalization,
    pool,
    quantization,
    recurrent,
    reduction,
    resizing,
    shaping,
)
from edgeq.verification.mlpackage.optable import OpTable

FAMILIES = (activation, control, convolution, creation, elementwise, indexing, linear, normalization, pool,
            quantization, recurrent, reduction, resizing, shaping)


def all_ops() -> OpTable:
    """The table of every family."""
    return OpTable.union(*(family.op for family in FAMILIES))


_RANDOM = "random numbers have no reference to compare with"
REFUSED = {
    "random_bernoulli": _RANDOM, "random_categorical": _RANDOM, "random_normal": _RANDOM, "random_uniform": _RANDOM,
    "classify": "its outputs are a label and a dictionary, not tensors",
    "conv_quantized": "it is marked experimental, and its quantization is not documented",
    "non_maximum_suppression": "what it writes where fewer boxes are left than asked for is not documented",
}
"""Ops of MIL without a handler, and why."""
