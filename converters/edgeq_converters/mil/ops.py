"""The table of op handlers in MIL's words, complete. One file per family; importing a family adds its rows."""
from __future__ import annotations

from typing import Final

from edgeq_converters.mil import (
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
from edgeq_converters.mil.table import op

HANDLERS: Final = op.handlers

FAMILIES = (ops_activation, ops_bits, ops_cast, ops_control, ops_conv, ops_elementwise, ops_gather, ops_linear,
            ops_norm, ops_pool, ops_quantized, ops_reduce, ops_resize, ops_rnn, ops_sample, ops_shape, squares)
