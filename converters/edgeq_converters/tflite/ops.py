"""All handlers of this backend."""
from __future__ import annotations

from edgeq_converters.optable import OpTable
from edgeq_converters.tflite import (
    ops_bits,
    ops_conv,
    ops_einsum,
    ops_elementwise,
    ops_index,
    ops_linear,
    ops_loss,
    ops_normalize,
    ops_pool,
    ops_recurrent,
    ops_reduce,
    ops_sample,
    ops_scatter,
    ops_shape,
    ops_signal,
)
from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.table import op

FAMILIES = (ops_bits, ops_conv, ops_einsum, ops_elementwise, ops_index, ops_linear, ops_loss, ops_normalize, ops_pool,
            ops_recurrent, ops_reduce, ops_sample, ops_scatter, ops_shape, ops_signal)


def table() -> OpTable[Builder]:
    """The table, filled by importing the families above."""
    return op
