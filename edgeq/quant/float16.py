"""Weights in half precision: the same graph, half the bytes."""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgeq.graph import all_nodes, constant, initializer
from edgeq.quant.plan.units import weights_of

LARGEST = float(np.finfo(np.float16).max)


def store_half(model: ir.Model) -> ir.Model:
    """A copy whose weights are float16; a weight that float16 cannot hold stays as it is.

        Conv(x, float32 w)      =>      Conv(x, Cast(float16 w))
    """
    model = model.clone()
    store_half_in_place(model, _weights(model.graph))
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


def _weights(graph: ir.Graph) -> list[ir.Value]:
    weights = {value for node in all_nodes(graph) for value in weights_of(node)}
    return [value for value in graph.initializers.values() if value in weights and not value.is_graph_output()]

