"""Models that cannot be converted."""
from __future__ import annotations

import os
import zipfile
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


def _cycle() -> onnx.ModelProto:
    made = network()
    made.graph.node[0].input[1] = "conv"
    return made


def _bytes_that_do_not_fit() -> onnx.ModelProto:
    made = network()
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[:-1]
    return made


def _function_with_a_file_of_the_host() -> onnx.ModelProto:
    """A local function whose constant lies outside the model's folder."""
    made = network(nodes=[helper.make_node("scaled", ["relu"], ["features"], "odd", domain="mine")])
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/hostname")
    made.functions.append(helper.make_function(
        "mine", "scaled", ["x"], ["y"], [helper.make_node("Constant", [], ["c"], value=tensor),
                                         helper.make_node("Mul", ["x", "c"], ["y"])], [helper.make_opsetid("", 21)]))
    made.opset_import.append(helper.make_opsetid("mine", 1))
    return made


def _escapes() -> onnx.ModelProto:
    made = network()
    made.graph.node[0].input[1] = "\x1b[2Jw"
    return made


def _pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "net.onnx")
    return convert("net.onnx")


def _pickled(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "net.pt2", "w") as archive:
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/data/constants/custom_obj_0", b"cos\nsystem\n(S'true'\ntR.")
    return convert("net.pt2")


MODELS = (
    Case("no such file", argument(*convert("net.onnx")), r"net\.onnx"),
    Case("not a model's name", raw("net.txt", lambda: b"hello"), r"net\.txt.*\.onnx.*module:function"),
    Case("truncated", raw("net.onnx", lambda: network().SerializeToString()[:900]), r"net\.onnx"),
    Case("random bytes", raw("net.onnx", lambda: np.random.default_rng(0).bytes(5000)), r"net\.onnx"),
    Case("empty file", raw("net.onnx", bytes), r"net\.onnx"),
    Case("random bytes as .pt2", raw("net.pt2", lambda: np.random.default_rng(0).bytes(5000)), r"net\.pt2"),
    Case("no such module", argument(*convert("nothing_here:build")), r"nothing_here"),
    Case("external data missing", _lost_data, r"net\.onnx\.data"),
    Case("cycle", model(_cycle), r"Conv 'first' waits for its own result: the graph has a cycle"),
    Case("weights whose bytes do not fit", model(_bytes_that_do_not_fit), r"weights 'w'.*648 bytes, and holds 647"),
    Case("file of the host in a function", model(_function_with_a_file_of_the_host),
         r"weights of 'c' lie outside its folder: /etc/hostname"),
    Case("escape sequence in a name", model(_escapes), r"reads '\\x1b\[2Jw', which nobody produces"),
    Case("pipe", _pipe, r"cannot read net\.onnx: it is no file"),
    Case("pickle in a .pt2", _pickled, r"custom_obj_0', which may be a pickle or a program.*--trust"),
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
