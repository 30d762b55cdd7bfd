"""Parts of bundles made by hand, so that the runtime is tested without the converter."""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from edgeq_runtime.manifest import FILE_NAME, FileEntry

MakeBundle = Callable[..., Path]


def entries(folder: Path) -> tuple[FileEntry, ...]:
    """Every file of a folder but the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE_NAME)
    return tuple(FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size,
                           hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)


def affine_model() -> onnx.ModelProto:
    """sum = image * 2 + offset, count = the image's number of elements; the batch is free."""
    nodes = [
        helper.make_node("Mul", ["image", "two"], ["twice"]),
        helper.make_node("Add", ["twice", "offset"], ["sum"]),
        helper.make_node("Size", ["image"], ["count"]),
    ]
    graph = helper.make_graph(
        nodes, "affine",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3]),
         helper.make_tensor_value_info("offset", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("count", TensorProto.INT64, []),
         helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
