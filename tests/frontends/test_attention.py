"""Attention in bfloat16, bit for bit against ONNX's reference implementation, which rounds after every step."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from passes.graphs import session

from edgeq.frontends import load_model

SHAPES = {"q": (2, 3, 5, 12), "k": (2, 3, 7, 12), "v": (2, 3, 7, 9), "mask": (5, 7)}


def attention(**attributes: Any) -> onnx.ModelProto:
    """q [2,3,5,12], k [2,3,7,12], v [2,3,7,9] -> y [2,3,5,9], all bfloat16."""
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, size) for name, size in SHAPES.items()]
    y = helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, (2, 3, 5, 9))
    node = helper.make_node("Attention", list(SHAPES), ["y"], **attributes)
    graph = helper.make_graph([node], "g", given, [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def both(model: onnx.ModelProto, *, exact: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(ONNX's reference, ours run by onnxruntime), as float32."""
    random = np.random.default_rng(7)
    kind = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
    feed = {name: random.normal(size=size).astype(kind) for name, size in SHAPES.items()}
    expected: Any = ReferenceEvaluator(model).run(None, feed)
    got = session(load_model(model, exact=exact)).run(None, {k: v.astype(np.float32) for k, v in feed.items()})
    return expected[0].astype(np.float32), got[0]


@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"scale": 0.2}], ids=str)
def test_every_step_rounds(attributes: dict[str, Any]) -> None:
    expected, got = both(attention(**attributes), exact=True)
    np.testing.assert_array_equal(got, expected)


def test_one_rounding_at_the_end_is_near_but_not_the_same() -> None:
    expected, got = both(attention(), exact=False)
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
