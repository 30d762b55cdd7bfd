"""The target `toy`."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.backend import Artifact, Available, Backend, EmitOptions, Probe
from edgeq.devices import Device
from edgeq.targets import FREE, SAME, Target, each, row_table

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq_runtime.manifest import Manifest

SOURCE = "https://onnx.ai/onnx/api/reference.html"
ROWS = row_table(each(("Conv", "Gemm", "MatMul", "Relu", "Add", "GlobalAveragePool"), FREE, SOURCE),
                 each(("MaxPool", "Flatten", "Reshape"), SAME, SOURCE))
FURTHER = {"QuantizeLinear", "DequantizeLinear", "Softmax"}


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    import onnx_ir as ir

    from edgeq.errors import Problem, UnsupportedModel
    from edgeq.graph import label

    refused = [Problem(label(node), node.op_type, "toys have no such thing") for node in model.graph
               if node.op_type not in FURTHER.union(ROWS)]
    if refused:
        raise UnsupportedModel("toy", refused)
    ir.save(model, folder / "model.toy", format="protobuf")
    return Artifact("model.toy", "toy", ">=1.0", options={"told": options.compute})


def probe(path: Path, network: ir.Model, manifest: Manifest) -> Probe:
    import onnx_ir as ir

    from edgeq.verification.probe import GraphProbe

    return GraphProbe(ir.load(path, format="protobuf"), network, {})


BACKEND = Backend(
    target=Target("toy", "toy", "Toys", "int8 per channel", "int8 static", "", ROWS), emit=emit, probe=probe,
    options=frozenset({"compute"}), devices={"toy-board": Available(preferred=True), "pi4": Available()})
BOARD = Device("toy-board", "A board of toys", threads=1)
