"""All ops that the interpreter runs, one module per family."""
from __future__ import annotations

from edgeq.verify.mlpackage.optable import OpTable
from edgeq.verify.mlpackage.ops import (
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

FAMILIES = (activation, control, convolution, creation, elementwise, indexing, linear, normalization, pool, quantization,
            recurrent, reduction, resizing, shaping)


def all_ops() -> OpTable:
    """The table of every family."""
    return OpTable.union(*(family.op for family in FAMILIES))
