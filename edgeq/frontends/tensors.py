"""What a file says of single tensors: do their bytes fit their shapes? And sparse ones as dense ones."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from edgeq.errors import ModelError
from edgeq.external_weights import IN_MEMORY_BYTES, resolved

MAX_ELEMENTS: Final = 2**31 - 1  # of one tensor: engines count them in 32 bits (TfLiteIntArray, MLMultiArray's strides)
# Where each type keeps its elements when they are not raw bytes, and how many entries an element takes: onnx.proto.
_COMPLEX: Final = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_FIELDS: Final[dict[int, str]] = {
    TensorProto.FLOAT: "float_data", TensorProto.COMPLEX64: "float_data", TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data", TensorProto.INT64: "int64_data", TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data", TensorProto.STRING: "string_data",
}
_ALL_FIELDS: Final = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def value_problems(value: onnx.ValueInfoProto) -> Iterator[str]:
    """What a file declares of a value. A negative size is a writer's word for a free one."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return
    tensor = value.type.tensor_type
    if tensor.elem_type and tensor.elem_type not in TensorProto.DataType.values():
        yield f"value '{value.name}' is of a type that ONNX does not have ({tensor.elem_type})"
    yield from _size([max(dim.dim_value, 1) for dim in tensor.shape.dim], f"value '{value.name}'")


def _size(dims: Sequence[int], where: str) -> Iterator[str]:
    if any(dim < 0 for dim in dims):
        yield f"{where} has the shape {list(dims)}"
    elif math.prod(dims) > MAX_ELEMENTS or max(dims, default=0) > MAX_ELEMENTS:
        yield f"{where} of the shape {list(dims)} has more than 2**31 elements, which no engine addresses"


def tensor_problems(tensor: TensorProto, where: str) -> Iterator[str]:
    """The content of a tensor, but for one in another file."""
    kind, dims = tensor.data_type, list(tensor.dims)
    if kind == TensorProto.UNDEFINED or kind not in TensorProto.DataType.values():
        yield f"{where} has no type that ONNX knows ({kind})"
        return
    yield from _size(dims, where)
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    held = [name for name in _ALL_FIELDS if len(getattr(tensor, name))]
    name = "raw_data" if tensor.HasField("raw_data") else _FIELDS.get(kind, "int32_data")
    if (kind == TensorProto.STRING and name == "raw_data") or set(held) - {name}:
        yield f"{where} holds its elements where its type does not keep them ({', '.join(held)})"
        return
    expected, got = _entries(kind, math.prod(dims), raw=name == "raw_data"), len(getattr(tensor, name))
    if expected != got:
        unit = "bytes" if name == "raw_data" else "numbers"
        yield f"{where} of the shape {dims} should hold {expected} {unit}, and holds {got}"


def _entries(kind: int, size: int, *, raw: bool) -> int:
    """How many bytes or entries of a field `size` elements take; those below 8 bits share a byte."""
    bits = 8 if kind == TensorProto.STRING else ir.DataType(kind).bitwidth
    if raw:
        return -(-size * bits // 8)
    if bits < 8:
        return -(-size * bits // 8)
    return size * (2 if kind in _COMPLEX else 1)


def sparse_problems(sparse: SparseTensorProto, where: str) -> Iterator[str]:
    yield from _size(list(sparse.dims), where)
    yield from tensor_problems(sparse.values, where)
    yield from tensor_problems(sparse.indices, f"the indices of {where}")
    count, rank = list(sparse.values.dims), len(sparse.dims)
    if len(count) != 1 or list(sparse.indices.dims) not in (count, [*count, rank]) or (
            sparse.indices.data_type != TensorProto.INT64) or sparse.values.data_type == TensorProto.STRING:
        yield f"{where}: values {count} and indices {list(sparse.indices.dims)} do not belong together"


# -- sparse tensors ----------------------------------------------------------------------------------------------------

def dense(model: ModelProto, source: str, folder: Path | None) -> ModelProto:
    """A model whose sparse weights and constants are dense: itself where there are none, else a copy.

    source: names the model in messages. folder: of the model, where its external data lie.

    Raises:
        ModelError: an index lies outside its tensor, which would be larger than 1 GB, or external data are not there.
    """
    graphs, nodes = _everything(model)
    if not any(graph.sparse_initializer for graph in graphs) and not any(map(_sparse_constant, nodes)):
        return model
    made = ModelProto()
    made.CopyFrom(model)
    graphs, nodes = _everything(made)
    for graph in graphs:
        graph.initializer.extend(_dense(sparse, sparse.values.name, source, folder)
                                 for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]
    for node in filter(_sparse_constant, nodes):
        tensor = _dense(node.attribute[0].sparse_tensor, node.output[0], source, folder)
        node.attribute[0].CopyFrom(helper.make_attribute("value", tensor))
    return made


def _everything(model: ModelProto) -> tuple[list[GraphProto], list[NodeProto]]:
    """Every graph and node of a model, in bodies and functions too."""
    graphs = [model.graph]
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes:  # grows on the way
        for attribute in node.attribute:
            inner = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            graphs += inner
            nodes += [found for graph in inner for found in graph.node]
    return graphs, nodes


def _sparse_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["sparse_value"]


def _dense(sparse: SparseTensorProto, name: str, source: str, folder: Path | None) -> TensorProto:
    """Indices count through the flat tensor, or there is one for each axis."""
    shape = list(sparse.dims)
    values, indices = (resolved(ir.serde.deserialize_tensor(tensor), name, source, folder).numpy()
                       for tensor in (sparse.values, sparse.indices))
    if math.prod(shape) * values.dtype.itemsize > IN_MEMORY_BYTES:
        raise ModelError(f"{source}: weights '{name}' of the shape {shape} are sparse and would be larger than 1 GB")
    limits = np.array([math.prod(shape)] if indices.ndim == 1 else shape, np.int64)
    if (indices < 0).any() or (indices.reshape(len(values), -1) >= limits).any():
        raise ModelError(f"{source}: an index of the sparse weights '{name}' lies outside of the shape {shape}")
    made = np.zeros(shape, values.dtype)
    if indices.ndim == 1:
        made.reshape(-1)[indices] = values
    else:
        made[tuple(indices.T)] = values
    return numpy_helper.from_array(made, name)
