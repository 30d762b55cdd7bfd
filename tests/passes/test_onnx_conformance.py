"""What onnxruntime does otherwise than the standard says, held to ONNX's reference implementation."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from passes.graphs import assert_close, build, noise, session

from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes.onnx_conformance import align_uneven_corners, unpool_then_pad, whole_indices, wide_integers

UNPOOL = ("g (float[1,1,2,3] x, int64[1,1,2,3] i) => (float[] y)"
          " { y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (x, i, n) }")


def held(text: str, constants: dict[str, Any], feed: dict[str, NDArray[Any]], run: Any) -> list[NDArray[Any]]:
    """Rewrite once, and hold the result to the reference -> what onnxruntime makes of the model as given."""
    given = build(text, constants)
    model = load_model(given)
    assert run(model) == 1
    assert run(model) == 0
    assert_close(ReferenceEvaluator(given).run(None, feed), list(next(run_onnx(model, [feed])).values()))
    return list(session(given).run(None, feed))


def test_unpool_into_more() -> None:
    feed = {"x": noise(1, 1, 2, 3), "i": np.array([[[[0, 3, 5], [12, 20, 23]]]])}
    other = held(UNPOOL, {"n": np.array([1, 1, 5, 8])}, feed, unpool_then_pad)
    assert np.flatnonzero(other[0]).tolist() == [0, 3, 5, 12, 20, 23]  # in rows of 8, where the pooled tensor had 6


def test_unpool_into_what_was_pooled_stays() -> None:
    assert unpool_then_pad(load_model(build(UNPOOL, {"n": np.array([1, 1, 4, 6])}))) == 0


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_corners_of_a_size_that_is_not_whole(mode: str) -> None:
    text = (f'g (float[1,2,5,7] x) => (float[] y) {{ y = Resize <mode = "{mode}",'
            ' coordinate_transformation_mode = "align_corners"> (x, "", s) }')
    held(text, {"s": np.array([1, 1, 0.7, 1.5], np.float32)}, {"x": noise(1, 2, 5, 7)}, align_uneven_corners)


def test_corners_of_whole_sizes_stay() -> None:
    text = ('g (float[1,2,4,6] x) => (float[] y) { y = Resize <mode = "linear",'
            ' coordinate_transformation_mode = "align_corners"> (x, "", s) }')
    assert align_uneven_corners(load_model(build(text, {"s": np.array([1, 1, 0.5, 2], np.float32)}))) == 0


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
