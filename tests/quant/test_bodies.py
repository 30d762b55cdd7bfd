"""Weights in the bodies of If and Loop: planned, quantized and written like all others."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from opcases import run_onnxruntime
from opcases.engines import BACKENDS, run
from small_graphs import network, normal

from edgeq.backend import graph_backends
from edgeq.frontends import load_model
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS
from edgeq.quant.plan import make_plan
from edgeq.quant.qdq import DEQUANTIZE
from edgeq.quant.quantize import quantize
from edgeq.scheme import PRESETS

TOLERANCE = {"onnxruntime": 1e-5, "tflite": 1e-5, "coreml": 2e-3, "coreai": 1e-5}  # of the largest number
IF = """g (float[1,4,6,5] x, bool[1] c) => (float[1,16,6,5] y) {
    a = Conv (x, w)
    y = If (c) <
        then_branch = t () => (float[1,16,6,5] u) { r = Relu (a)  u = Conv <pads = [1,1,1,1]> (r, w0) },
        else_branch = e () => (float[1,16,6,5] v) {
            q = Transpose <perm = [0,2,3,1]> (a)  h = MatMul (q, w1)  v = Transpose <perm = [0,3,1,2]> (h) }>
}"""
LOOP = """g (float[2,16] x) => (float[2,16] y) {
    y = Loop (n, go, x) <body = b (int64 i, bool k, float[2,16] s) => (bool d, float[2,16] z) {
        d = Identity (k)  p = MatMul (s, w0)  z = Tanh (p) }>
}"""


def prepared(text: str, **constants: Any) -> ir.Model:
    """w0 belongs to the first body, w1 to the second; both are called w there, as perhaps another tensor outside."""
    proto = ir.to_proto(network(text, **constants))
    graph = proto.graph
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    for number, body in enumerate(bodies):
        (tensor,) = (tensor for tensor in graph.initializer if tensor.name == f"w{number}")
        for node in body.node:
            node.input[:] = ["w" if name == tensor.name else name for name in node.input]
        body.initializer.append(tensor)
        body.initializer[0].name = "w"
        graph.initializer.remove(tensor)
    model = load_model(proto)
    canonicalize(model)
    return model


def if_model() -> ir.Model:
    return prepared(IF, w=normal(16, 4, 1, 1), w0=normal(16, 16, 3, 3, seed=1) / 12, w1=normal(16, 16, seed=2) / 4)


def loop_model() -> ir.Model:
    return prepared(LOOP, w0=normal(16, 16, seed=3) / 4, n=np.array(3), go=np.array(True))


def quantized(model: ir.Model, bits: int) -> ir.Model:
    plan = make_plan(model, [backend.target for backend in graph_backends()], PRESETS[f"w{bits}"])
    return quantize(model, plan, {}, CALIBRATORS["mse"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("model", "count"), [(if_model(), 3), (loop_model(), 1)], ids=["If", "Loop"])
def test_engines_read_integers_inside_of_bodies(model: ir.Model, count: int, bits: int, backend: str,
                                                tmp_path: Path) -> None:
    made = quantized(model, bits)
    assert [node.op_type for node in made.graph].count(DEQUANTIZE) == count
    feeds = {value.name: normal(*value.shape.numpy(), seed=9) for value in model.graph.inputs if value.name == "x"}
    for condition in (True, False):
        if count == 3:
            feeds["c"] = np.array([condition])
        expected, given = run_onnxruntime(made, feeds)["y"], run_onnxruntime(model, feeds)["y"]
        assert 10 * np.log10(np.square(given).sum() / np.square(given - expected).sum()) > {8: 38, 4: 13}[bits]
        found = run(backend, made, feeds, tmp_path)["y"]
        assert np.abs(found - expected).max() < TOLERANCE[backend] * np.abs(expected).max()


def test_a_file_with_integers_in_its_branches_is_a_third_of_the_float_one(tmp_path: Path) -> None:
    sizes = []
    for name, model in (("float", if_model()), ("integers", quantized(if_model(), 8))):
        (tmp_path / name).mkdir()
        run("onnxruntime", model, {"x": normal(1, 4, 6, 5), "c": np.array([True])}, tmp_path / name)
        sizes.append((tmp_path / name / "model.onnx").stat().st_size)
    assert sizes[1] < .4 * sizes[0]
