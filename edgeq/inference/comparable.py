"""The values by which two runs of a network are compared."""
from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeq.dimensions import free_dimensions
from edgeq.graph import is_constant


def comparable_values(model: ir.Model) -> list[ir.Value]:
    """The computed outputs; in place of one whose size the data decide, the floats that decide it.

        boxes, scores -> NonMaxSuppression -> GatherND(boxes) -> y [?,4]     :     boxes, scores

    A score that moves by a rounding lets a row in or out, and then nothing tells which row of two runs is which. Of a
    value that was rounded on its way, the float one, which bears the same name in every graph.
    """
    free = free_dimensions(model).keys()
    found: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    stack = [value for value in reversed(model.graph.outputs) if value.producer() is not None]
    outputs = set(stack)
    while stack:
        value = stack.pop()
        producer = value.producer()
        if value in seen or producer is None or _is_weight(producer):
            continue
        seen.add(value)
        if has_known_size(value, free):
            if value in outputs or value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
                found[value if value in outputs else _unrounded(value)] = None
        else:
            stack += [each for each in reversed(producer.inputs) if each is not None and not is_constant(each)]
    return list(found) or [value for value in model.graph.outputs if value.producer() is not None]


def with_comparable_outputs(model: ir.Model) -> ir.Model:
    """The model itself, or a copy that gives `comparable_values`."""
    values = comparable_values(model)
    if set(values) >= set(model.graph.outputs):
        return model
    names = [value.name for value in values]
    model = model.clone()
    by_name = {output.name: output for node in model.graph for output in node.outputs}
    model.graph.outputs[:] = [by_name[name] for name in names]
    return model


def has_known_size(value: ir.Value | None, free: Collection[str]) -> bool:
    """Whether the inputs alone decide a value's shape. free: the names of the dimensions that each run decides."""
    if value is None or value.shape is None:
        return False
    return all(isinstance(d, int) or d.value in free for d in value.shape)


def _is_weight(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear" and is_constant(node.inputs[0])


def _unrounded(value: ir.Value) -> ir.Value:
    """x, of x -> Q -> DQ -> value."""
    for op in ("DequantizeLinear", "QuantizeLinear"):
        producer = value.producer()
        if producer is None or producer.op_type != op or producer.inputs[0] is None:
            break
        value = producer.inputs[0]
    return value
