"""Loop and Scan: shapes that hold in every iteration, and the same numbers when they are written out."""
from __future__ import annotations

import numpy as np
import pytest
from passes.graphs import assert_close, build, feeds, noise, session

from edgeq.errors import ModelError
from edgeq.frontends import load_model
from edgeq.graph import shape
from edgeq.inference.reference import run_onnx
from edgeq.passes.loops import unroll_loops

SCAN = """g (float[2] s, float[3,2] x) => (float[] y, float[] z) {{
    y, z = Scan <num_scan_inputs = 1 {attributes}, body = b (float[2] a, float[2] e) => (float[2] t, float[2] o) {{
        m = Mul(a, k)  t = Add(m, e)  o = Identity(t) }}> (s, {given}) }}"""
LOOP = """g (float[2] s) => (float[] y, float[] z) {
    y, z = Loop <body = b (int64 i, bool c, float[2] a) => (bool d, float[2] t, float[2] o) {
        f = Cast <to = 1> (i)  m = Add(a, f)  t = Mul(m, k)  d = Identity(c)  o = Neg(a) }> (n, go, s) }"""
K = {"k": np.array([0.5, -1.5], np.float32)}
ROWS = {
    "Scan": (SCAN.format(attributes="", given="x"), K),
    "Scan backwards": (SCAN.format(attributes=", scan_input_directions = [1], scan_output_directions = [1]", given="x"),
                       K),
    "Scan along the last axis": (
        SCAN.replace("float[3,2] x", "float[2,3] x").format(
            attributes=", scan_input_axes = [1], scan_output_axes = [-1]", given="x"), K),
    "Loop": (LOOP, {**K, "n": np.array(4), "go": np.array(True)}),
}


@pytest.mark.parametrize("name", ROWS)
def test_written_out_they_compute_the_same(name: str) -> None:
    text, constants = ROWS[name]
    given = build(text, constants)
    before = session(given)
    sample = feeds(before)
    expected = before.run(None, sample)
    model = load_model(given)
    assert [shape(output) for output in model.graph.outputs] == [result.shape for result in expected]
    assert unroll_loops(model) == 1
    assert not {"Loop", "Scan"} & {node.op_type for node in model.graph}
    assert_close(expected, list(next(run_onnx(model, [sample])).values()))


def test_a_loop_that_data_ends_stays() -> None:
    text = LOOP.replace("d = Identity(c)", "w = ReduceSum <keepdims = 0> (t)  d = Less(w, limit)")
    given = build(text, {**K, "n": np.array(4), "go": np.array(True), "limit": np.array(1e9, np.float32)})
    with pytest.raises(ModelError, match=r"Loop .*depends on the data"):
        load_model(given)
    model = load_model(given, open_sizes=True)
    assert unroll_loops(model) == 0
    assert len(model.graph.outputs[1].shape or ()) == 2


def test_a_loop_that_would_be_very_long_stays() -> None:
    model = load_model(build(LOOP, {**K, "n": np.array(50_000), "go": np.array(True)}))
    assert unroll_loops(model) == 0


def test_a_carried_value_that_grows_has_a_free_axis() -> None:
    text = """g (float[1,2] s) => (float[] y) {
        y = Loop <body = b (int64 i, bool c, float[1,2] a) => (bool d, float[] t) {
            t = Concat <axis = 0> (a, a)  d = Identity(c) }> (n, go, s) }"""
    given = build(text, {"n": np.array(3), "go": np.array(True)})
    model = load_model(given, open_sizes=True)
    dims = list(model.graph.outputs[0].shape or ())
    assert dims[1] == 2
    assert not isinstance(dims[0], int)
    sample = {"s": noise(1, 2)}
    assert next(run_onnx(model, [sample]))["y"].shape == (8, 2)
