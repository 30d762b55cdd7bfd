"""Where the numbers that a product multiplies were integers."""
from __future__ import annotations

from typing import Final

import onnx_ir as ir

from edgeq.ops import MOVING, data_inputs
from edgeq.quant.qdq import DEQUANTIZE

# What the builder sees through when it looks for integers to multiply: what only moves numbers, and casts.
_SEEN_THROUGH: Final = MOVING | {"Cast", "Concat"}


def dequantizers(product: ir.Node) -> set[ir.Node]:
    """The DequantizeLinear nodes behind both factors of a matrix product."""
    found, seen, waiting = set(), set(), [value for value in product.inputs[:2] if value is not None]
    while waiting:
        producer = waiting.pop().producer()
        if producer is None or producer in seen or producer.domain != "":
            continue
        seen.add(producer)
        if producer.op_type == DEQUANTIZE:
            found.add(producer)
        elif producer.op_type in _SEEN_THROUGH:
            inputs = [producer.inputs[index] for index in data_inputs(producer.op_type, len(producer.inputs))]
            waiting += [value for value in inputs if value is not None]
    return found
