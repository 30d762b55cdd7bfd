"""What onnxruntime does otherwise than the standard says, held to ONNX's reference implementation."""
from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from passes.graphs import assert_close, build, noise

from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes.missing_kernels import whole_indices, wide_integers


@pytest.mark.parametrize(("op", "kind"), [("Max", "int16"), ("Min", "uint16"), ("BitShift", "uint16")])
def test_narrow_integers(op: str, kind: str) -> None:
    attributes = ' <direction = "LEFT">' if op == "BitShift" else ""
    given = build(f"g ({kind}[2,3] x, {kind}[3] z) => ({kind}[] y) {{ y = {op}{attributes} (x, z) }}")
    model = load_model(given)
    assert wide_integers(model) == 1
    feed = {"x": np.array([[1, 40000, 7], [65535, 3, 9]]).astype(kind), "z": np.array([2, 5, 15]).astype(kind)}
    np.testing.assert_array_equal(next(run_onnx(model, [feed]))["y"], ReferenceEvaluator(given).run(None, feed)[0])


def test_an_unsigned_exponent() -> None:
    given = build("g (float[3] x, uint64[3] z) => (float[] y) { y = Pow(x, z) }")
    model, feed = load_model(given), {"x": noise(3), "z": np.array([0, 2, 5], np.uint64)}
    assert wide_integers(model) == 1
    assert_close([feed["x"]**np.array([0, 2, 5], np.float32)], list(next(run_onnx(model, [feed])).values()))


def test_indices_that_are_not_whole() -> None:
    """By the standard they are cast to int64 first; onnx's own evaluator compares floats, so numpy is the judge."""
    model = load_model(build("g (float[4] x) => (float[4,3] y) { y = OneHot(x, d, v) }",
                             {"d": np.array(3), "v": np.array([-1, 2], np.float32)}))
    assert whole_indices(model) == 1
    assert whole_indices(model) == 0
    found = next(run_onnx(model, [{"x": np.array([0.5, -0.5, 2.9, -1.0], np.float32)}]))["y"]
    np.testing.assert_array_equal(found, np.where(np.eye(3)[[0, 0, 2, 2]] == 1, 2, -1))
