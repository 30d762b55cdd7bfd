"""Weights in half precision: the same graph, half the bytes."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from edgeq.graph import constant, initializer, is_constant
from edgeq.targets import WEIGHT_INPUTS

LARGEST = float(np.finfo(np.float16).max)


def store_half(model: ir.Model) -> ir.Model:
    """A copy whose weights are float16; a weight that float16 cannot hold stays as it is.

        Conv(x, float32 w)      =>      Conv(x, Cast(float16 w))
    """
    model = model.clone()
    store_half_in_place(model, list(_weights(model.graph)))
    return model


def store_half_in_place(model: ir.Model, weights: Iterable[ir.Value]) -> None:
    """The same for some weights of a model that the caller owns."""
    for weight in weights:
        data = constant(weight)
        assert data is not None
        if max(data.max(initial=0.0), -data.min(initial=0.0)) > LARGEST:
            continue
        stored = initializer(model.graph, f"{weight.name}_half", data.astype(np.float16), weight)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{stored.name}_cast")
        cast.outputs[0].name = f"{stored.name}_float"
        cast.outputs[0].shape, cast.outputs[0].type = weight.shape, weight.type
        model.graph.insert_before(model.graph[0], cast)
        weight.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[weight.name or ""]


def _weights(graph: ir.Graph) -> Iterator[ir.Value]:
    for value in graph.initializers.values():
        readers = {(use.node.op_type, use.idx) for use in value.uses()}
        is_weight = any(index in WEIGHT_INPUTS.get(op, ()) for op, index in readers)
        if is_weight and is_constant(value) and value.dtype == ir.DataType.FLOAT and not value.is_graph_output():
            yield value

