"""ONNX files and protos -> onnx_ir.Model, with the quirks of their writers removed."""
from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from edgeq.errors import ModelError, first_line
from edgeq.external_weights import resolve
from edgeq.frontends.check import DEFAULT_DOMAINS, check_structure
from edgeq.frontends.tensors import dense
from edgeq.graph import OPSET


def read_onnx(path: Path) -> ir.Model:
    """Read a .onnx file. Tensors in external files are read too, but above 1 GB in all they stay there.

    Raises:
        ModelError: the file, or a file of external data it names, is missing, damaged or outside the model's folder.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"cannot read {path}: it is no file")  # a pipe would be waited for
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX model: it is damaged, cut short or of another format") from None
    return from_proto(proto, str(path), path.absolute().parent)


def from_proto(proto: onnx.ModelProto, source: str, folder: Path | None = None) -> ir.Model:
    """An onnx.ModelProto (left as it is) -> ir.Model, once it has passed the check at the door.

    source: names it in messages. folder: where its external data lie; by default the current one.

    Raises:
        ModelError: it is no network, see `check_structure`, or external data are missing or outside the folder.
    """
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelError(f"{source} is not an ONNX model: it holds no graph with outputs")
    check_structure(proto, source)
    versions = [entry.version for entry in proto.opset_import if entry.domain in DEFAULT_DOMAINS]
    if not versions and (not proto.opset_import or any(node.domain in DEFAULT_DOMAINS for node in proto.graph.node)):
        raise ModelError(f"{source} does not say which ONNX opset it uses")
    try:
        model = ir.from_proto(dense(proto, source, folder))
    except ModelError:
        raise
    except Exception as error:  # onnx_ir raises many kinds for a graph that is inconsistent
        raise ModelError(f"{source} is not a valid ONNX model: {first_line(error)}") from error
    resolve(model, source, folder)
    # Some writers import the default domain twice (onnx/sklearn-onnx does); the nodes follow the newer one. A model of
    # other domains alone (ai.onnx.ml) imports it not at all.
    model.opset_imports.pop("ai.onnx", None)
    model.opset_imports[""] = max(versions, default=OPSET)
    for graph in model.graphs():
        for value in graph.inputs:
            if value.shape is not None:  # -1 is how some writers say that a size is free
                value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in value.shape])
        for value in graph.initializers.values():
            if value.const_value is not None:  # whatever the file declares
                value.shape = ir.Shape(tuple(value.const_value.shape.numpy()))
                value.type = ir.TensorType(value.const_value.dtype)
    return model


def from_ir(given: ir.Model) -> ir.Model:
    """An onnx_ir model (left as it is) -> a copy, once it has passed the check at the door.

    Raises:
        ModelError: see `from_proto`.
    """
    model, source = given.clone(), "the given onnx_ir model"
    resolve(model, source)
    check_structure(_without_weights(model, source), source)
    return model


def _without_weights(model: ir.Model, source: str) -> onnx.ModelProto:
    """The message of a model whose weights are elsewhere: their bytes are onnx_ir's own, and need no check."""
    shell = model.clone()
    for graph in shell.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None:
                value.const_value = ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, name=str(value.name),
                                                      shape=ir.Shape(tuple(tensor.shape.numpy())))
    try:
        return ir.to_proto(shell)
    except Exception as error:  # names that are None, attributes of no type
        raise ModelError(f"{source} is not valid: {first_line(error)}") from error
