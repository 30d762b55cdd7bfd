"""Models that cannot be converted."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .case import Case, Prepare, argument, convert, model, network, weights


def raw(name: str, data: Callable[[], bytes]) -> Prepare:
    """Convert a file with these bytes."""
    def prepare(folder: Path) -> list[str]:
        (folder / name).write_bytes(data())
        return convert(name)
    return prepare


def _with_nan() -> onnx.ModelProto:
    broken = weights(6, 3, 3, 3)
    broken[1, 2, 0, 0] = np.nan
    return network(conv=broken)


def _lost_data(folder: Path) -> list[str]:
    onnx.save(network(), folder / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    (folder / "net.onnx.data").unlink()
    return convert("net.onnx")


def computed_shape() -> onnx.ModelProto:
    """relu [1,6,8,8] -> the columns whose mean is not 0 [1,6,8,N]: how many there are depends on the data."""
    nodes = [helper.make_node("ReduceMean", ["relu", "axes"], ["means"], "means", keepdims=0),
             helper.make_node("NonZero", ["means"], ["places"], "places"),
             helper.make_node("Squeeze", ["places", "zero"], ["columns"], "columns"),
             helper.make_node("Gather", ["relu", "columns"], ["features"], "gather", axis=3)]
    made = network(nodes=nodes)
    made.graph.initializer.extend([numpy_helper.from_array(np.array([0, 1, 2], np.int64), "axes"),
                                   numpy_helper.from_array(np.array([0], np.int64), "zero")])
    return made


def _node(op: str, domain: str = "") -> Callable[[], onnx.ModelProto]:
    def build() -> onnx.ModelProto:
        made = network(nodes=[helper.make_node(op, ["relu"], ["features"], "odd", domain=domain)])
        if domain:
            made.opset_import.append(helper.make_opsetid(domain, 1))
        return made
    return build


def _two_magic_nodes() -> onnx.ModelProto:
    made = network(nodes=[helper.make_node("Magic", ["relu"], ["between"], "odd", domain="com.example"),
                          helper.make_node("Trick", ["between"], ["features"], "even", domain="com.example")])
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    made.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6, 8, 8])
                                 for name in ("between", "features"))
    return made


def _for(target: str, change: Callable[[], onnx.ModelProto]) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        return [*model(change)(folder)[:3], target]
    return prepare


MODELS = (
    Case("no such file", argument(*convert("net.onnx")), r"net\.onnx"),
    Case("not a model's name", raw("net.txt", lambda: b"hello"), r"net\.txt.*\.onnx.*module:function"),
    Case("truncated", raw("net.onnx", lambda: network().SerializeToString()[:900]), r"net\.onnx"),
    Case("random bytes", raw("net.onnx", lambda: np.random.default_rng(0).bytes(5000)), r"net\.onnx"),
    Case("empty file", raw("net.onnx", bytes), r"net\.onnx"),
    Case("random bytes as .pt2", raw("net.pt2", lambda: np.random.default_rng(0).bytes(5000)), r"net\.pt2"),
    Case("no such module", argument(*convert("nothing_here:build")), r"nothing_here"),
    Case("external data missing", _lost_data, r"net\.onnx\.data"),
    Case("unknown op", model(_node("Frobnicate")), r"Frobnicate.*odd"),
    Case("op of a foreign domain", model(_node("Magic", "com.example")), r"Magic.*odd|com\.example"),
    *(Case(f"all nodes that {target} cannot run", _for(target, _two_magic_nodes),
           rf"2 nodes.*{target}.*Magic 'odd'.*Trick 'even'")
      for target in ("onnxruntime", "tflite", "coreml")),
    Case("free shape", model(lambda: network(shape=("N", 3, "H", "W"))), r"image.*--input"),
    Case("shape that depends on data", _for("tflite", computed_shape), r"NonZero 'places'.*depends on the data"),
    Case("NaN weights", model(_with_nan), r"NaN.*\bw\b"),
    Case("--input of another name", model(network, "--input", "picture:1x3x8x8"), r"picture.*image"),
    Case("--input that frees a fixed size", model(network, "--input", "image:1x3x4..8x8"),
         r"image.*8 on axis 2.*4\.\.8"),
    Case("--input that contradicts the model", model(network, "--input", "image:1x4x8x8"), r"image.*(4|3)"),
)
