"""Constant folding: what depends on no input is computed now."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.external_weights import derived
from edgeq.graph import IR_VERSION, OPSET, all_nodes, attribute, constant, static, value_bytes
from edgeq.inference.session import open_session
from edgeq.ops import RANDOM

MAX_GROWTH_BYTES: Final = 2**20  # a constant may be this large even when its inputs are smaller

_NEVER: Final = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",  # they are the number format, not a computation
    "Constant", "If", "Loop", "Scan", "Optional", "SequenceConstruct", "SequenceEmpty",
}) | RANDOM


def fold_constants(model: ir.Model) -> int:
    """Compute every node whose inputs are constants, and every Shape or Size of a static shape. -> nodes removed.

        x[N,8,4] -> Shape -> Gather(1) -> Unsqueeze -> Concat(-1) -> Reshape     =>     x, [8,-1] -> Reshape

    Left alone: QuantizeLinear and DequantizeLinear, casts of packed integers (both would unpack weights that are stored
    small on purpose), random numbers, and results that are over 1 MB and larger than their inputs. A node that
    onnxruntime cannot evaluate stays in the graph.
    """
    return sum(fold_node(node) for node in list(all_nodes(model.graph)))


def fold_node(node: ir.Node) -> bool:
    """Fold one node, if that is possible and wise (see `fold_constants`) -> whether it is gone."""
    if node.domain != "" or node.op_type in _NEVER or node.graph is None:
        return False
    if any(output.is_graph_output() for output in node.outputs):
        return False  # an output must be computed by a node
    results = _static_shape(node) if node.op_type in ("Shape", "Size") else _known_sizes(node)
    if results is None:
        results = _evaluate(node) if _may_evaluate(node) else None
    if results is None:
        return False
    _replace(node, results)
    return True


def _static_shape(node: ir.Node) -> list[NDArray[Any]] | None:
    dims = static(node.inputs[0])
    if dims is None:
        return None
    if node.op_type == "Size":
        return [np.asarray(math.prod(dims), np.int64)]
    return [np.asarray(dims[attribute(node, "start", 0):attribute(node, "end", None)], np.int64)]


def _known_sizes(node: ir.Node) -> list[NDArray[Any]] | None:
    """Sizes that are numbers, taken out of a shape in which others are free."""
    source = node.inputs[0].producer() if node.op_type in ("Gather", "Slice") and node.inputs[0] is not None else None
    data = source.inputs[0] if source is not None and source.op_type == "Shape" and source.domain == "" else None
    if source is None or data is None or data.shape is None:
        return None
    given = {str(value.name): array for value in node.inputs[1:] if value is not None
             and (array := constant(value)) is not None}
    if len(given) < len(set(node.inputs[1:]) - {None}):
        return None
    sizes = [d if isinstance(d, int) else -1 for d in data.shape]
    shape = np.asarray(sizes[attribute(source, "start", 0):attribute(source, "end", None)], np.int64)
    results = evaluate(node, {source.outputs[0].name or "": shape, **given})
    return results if results is not None and (results[0] >= 0).all() else None


def _may_evaluate(node: ir.Node) -> bool:
    inputs = [value for value in node.inputs if value is not None]
    tensors = [value.const_value for value in inputs if not value.is_graph_input()]
    if len(tensors) < len(inputs) or any(tensor is None for tensor in tensors):
        return False
    if any(tensor.dtype.bitwidth < 8 for tensor in tensors if tensor is not None):
        return False
    given = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    sizes = [value_bytes(output) for output in node.outputs]  # one that is open may be too large; shapes will tell
    return all(size is not None and size <= max(given, MAX_GROWTH_BYTES) for size in sizes)


def _evaluate(node: ir.Node) -> list[NDArray[Any]] | None:
    feeds = {str(value.name): data for value in node.inputs if value is not None
             and (data := constant(value)) is not None}
    return evaluate(node, feeds)


def evaluate(node: ir.Node, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]] | None:
    """What onnxruntime, whose word the whole network is checked by, computes from the named inputs; None where it
    cannot, as with types that it has no kernel for.
    """
    try:
        # One thread: a pool would outlast a small computation.
        session = open_session(_alone(node, feeds), fused=False, arena=False, threads=1, log=4)
        return [np.asarray(result, order="C") for result in session.run(None, dict(feeds))]
    except Exception:  # its exceptions share no base class; whatever it raises, the node is still right where it stands
        return None


def _alone(node: ir.Node, feeds: Mapping[str, NDArray[Any]]) -> bytes:
    """A model of one node, all of whose inputs are fed."""
    import onnx

    inputs = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(data.dtype), data.shape)
              for name, data in feeds.items()]
    proto = ir.to_proto(node)
    proto.output[:] = [name or f"absent_{number}" for number, name in enumerate(proto.output)]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output]
    graph = onnx.helper.make_graph([proto], "constant", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def _replace(node: ir.Node, results: list[NDArray[Any]]) -> None:
    graph = node.graph
    assert graph is not None
    for output, data in zip(node.outputs, results, strict=True):
        if not output.uses():
            continue
        name = output.name
        output.name = None
        value = ir.Value(name=name, const_value=derived(data, node.inputs, name), shape=ir.Shape(data.shape),
                         type=ir.TensorType(ir.DataType.from_numpy(data.dtype)))
        graph.register_initializer(value)
        output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
