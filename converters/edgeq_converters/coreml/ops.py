"""The table of op handlers, complete. One file per family; importing a family adds its rows."""
from __future__ import annotations

from edgeq_converters.coreml import (
    ops_activation,
    ops_bits,
    ops_cast,
    ops_control,
    ops_conv,
    ops_elementwise,
    ops_gather,
    ops_linear,
    ops_norm,
    ops_pool,
    ops_quantized,
    ops_reduce,
    ops_resize,
    ops_rnn,
    ops_sample,
    ops_shape,
    squares,
)
from edgeq_converters.coreml.table import op as TABLE

__all__ = ["TABLE"]

FAMILIES = (ops_activation, ops_bits, ops_cast, ops_control, ops_conv, ops_elementwise, ops_gather, ops_linear,
            ops_norm, ops_pool, ops_quantized, ops_reduce, ops_resize, ops_rnn, ops_sample, ops_shape, squares)
