"""ONNX files and protos -> onnx_ir.Model, with the quirks of their writers removed."""
from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir import external_data

from edgeq import external_weights
from edgeq.errors import ModelError
from edgeq.graph import OPSET

_DEFAULT_DOMAIN: Final = ("", "ai.onnx")


def read_onnx(path: Path) -> ir.Model:
    """Read a .onnx file. Tensors in external files are read too, but above 1 GB in all they stay there.

    Raises:
        ModelError: the file, or a file of external data it names, is missing, damaged or outside the model's folder.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX model: it is damaged, cut short or of another format") from None
    model = from_proto(proto, str(path))
    external_data.set_base_dir(model.graph, str(path.absolute().parent))
    if _check_external_data(model, path) <= external_weights.IN_MEMORY_BYTES:
        external_data.load_to_model(model)
    else:
        external_weights.keep_on_disk(model)
    return model


def from_proto(proto: onnx.ModelProto, source: str) -> ir.Model:
    """An onnx.ModelProto (left as it is) -> ir.Model. ``source`` names it in messages."""
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelError(f"{source} is not an ONNX model: it holds no graph with outputs")
    versions = [entry.version for entry in proto.opset_import if entry.domain in _DEFAULT_DOMAIN]
    if not versions and (not proto.opset_import or any(node.domain in _DEFAULT_DOMAIN for node in proto.graph.node)):
        raise ModelError(f"{source} does not say which ONNX opset it uses")
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises many kinds for a graph that is inconsistent
        raise ModelError(f"{source} is not a valid ONNX model: {_first_line(error)}") from error
    # Some writers import the default domain twice (onnx/sklearn-onnx does); the nodes follow the newer one. A model of
    # other domains alone (ai.onnx.ml) imports it not at all.
    model.opset_imports.pop("ai.onnx", None)
    model.opset_imports[""] = max(versions, default=OPSET)
    return model


def _check_external_data(model: ir.Model, path: Path) -> int:
    """Refuse what is missing -> bytes of all tensors in external files."""
    folder, total = path.absolute().parent, 0
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            file = folder / str(tensor.location)
            if not file.resolve().is_relative_to(folder.resolve()):
                raise ModelError(f"{path}: the weights of '{value.name}' lie outside its folder: {tensor.location}")
            if not file.is_file():
                raise ModelError(f"{path}: its file of weights is missing: {file}")
            if file.stat().st_size < (tensor.offset or 0) + tensor.nbytes:
                raise ModelError(f"{path}: its file of weights is cut short: {file} ends before '{value.name}'")
            total += tensor.nbytes
    return total


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
