"""Input shapes, what follows from them, and what is said when nothing does."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from passes.graphs import Row, build, check

from edgeq.errors import ModelError, UnsupportedModel
from edgeq.frontends import load_model
from edgeq.graph import OPSET, shape
from edgeq.passes.fold import fold_constants
from edgeq.passes.shapes import _LIKE_INPUT


def load(text: str, constants: dict[str, Any] | None = None, **inputs: tuple[int, ...]) -> Any:
    return load_model(build(text, constants), inputs=inputs)


def test_a_free_batch_is_one() -> None:
    model = load("g (float[N,3,8,6] x) => (float[] y) { y = Relu(x) }")
    assert shape(model.graph.inputs[0]) == shape(model.graph.outputs[0]) == (1, 3, 8, 6)


def test_a_named_dimension_is_the_same_everywhere() -> None:
    text = "g (float[N,3] x, float[2,N] s) => (float[] y) { y = MatMul(s, x) }"
    assert shape(load(text).graph.outputs[0]) == (2, 3)
    assert shape(load(text).graph.inputs[1]) == (2, 1)
    assert shape(load(text, x=(5, 3)).graph.inputs[1]) == (2, 5)


def test_shapes_that_a_file_declares_for_other_inputs_are_forgotten() -> None:
    model = load("g (float[N,3] x) => (float[7,3] y) <float[7,3] a> { a = Relu(x) y = Exp(a) }")
    assert [shape(node.outputs[0]) for node in model.graph] == [(1, 3), (1, 3)]


def test_shape_computations_fold_level_by_level() -> None:
    """Each Reshape has a shape that is only known once the one before it is."""
    text = """g (float[N,3,8,6] x) => (float[] y) {
        s = Shape(x)  n = Gather(s, zero)  a = Concat <axis = 0> (n, minus)  b = Reshape(x, a)
        t = Shape(b)  w = Gather(t, one)  h = Div(w, two)  c = Concat <axis = 0> (h, minus)  y = Reshape(b, c) }"""
    model = load(text, {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]), "minus": np.array([-1])})
    assert [node.op_type for node in model.graph] == ["Reshape", "Reshape"]
    assert shape(model.graph.outputs[0]) == (72, 2)


@pytest.mark.parametrize(("inputs", "message"), [
    ({}, r"input 'x' has free dimensions, Nx3xHxW; .*--input x:1x3x\?x\?"),
    ({"z": (1, 2)}, "no input 'z'; its inputs are x"),
    ({"x": (1, 3, 8)}, "input 'x' has 4 axes, Nx3xHxW; --input gives 1x3x8"),
    ({"x": (1, 4, 8, 6)}, "input 'x' is Nx3xHxW with 3 on axis 1; --input gives 1x4x8x6"),
    ({"x": (1, 3, 0, 6)}, "every size must be positive, got 1x3x0x6"),
])
def test_input_shapes_that_do_not_fit(inputs: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load("g (float[N,3,H,W] x) => (float[] y) { y = Relu(x) }", **inputs)


def test_how_much_is_found_depends_on_the_data() -> None:
    with pytest.raises(ModelError, match=r"NonZero .*depends on the data") as caught:
        load("g (float[2,3] x) => (int64[] z) { y = NonZero(x) z = Neg(y) }")
    assert "Neg" not in str(caught.value)


def test_a_shape_that_the_file_declares_is_not_taken_for_one_that_follows() -> None:
    with pytest.raises(ModelError, match=r"MatMul .*Incompatible dimensions"):
        load("g (float[2,3] x, float[4,5] w) => (float[2,5] y) <float[2,5] z> { z = MatMul(x, w) y = Relu(z) }")


def test_a_shape_computed_from_data_is_named() -> None:
    with pytest.raises(ModelError, match=r"Reshape .*shape computed at run time \(s\)"):
        load("g (float[2,3] x, int64[2] s) => (float[] y) { y = Reshape(x, s) }")


def test_shapes_that_contradict_each_other_are_said() -> None:
    with pytest.raises(ModelError, match=r"MatMul .*Incompatible dimensions"):
        load("g (float[2,3] x, float[4,5] w) => (float[] y) { y = MatMul(x, w) }")


def test_constants_fold_but_large_ones_do_not_grow() -> None:
    large, small = np.array([1024, 513]), np.array([8, 4])
    text = "g (float[1] x) => (float[] y) { a = ConstantOfShape(s) y = Add(x, a) }"
    assert [node.op_type for node in load(text, {"s": small}).graph] == ["Add"]
    assert [node.op_type for node in load(text, {"s": large}).graph] == ["ConstantOfShape", "Add"]


def test_transposed_weights_fold() -> None:
    row = Row("Transpose", "g (float[2,4] x) => (float[] y) { t = Transpose(w) y = MatMul(x, t) }", ["MatMul"],
              {"w": np.arange(12, dtype=np.float32).reshape(3, 4)})
    check(row, fold_constants)


def test_what_the_reference_evaluator_fails_on_folds() -> None:
    """It picks elements with numpy.choose, which takes 32 choices: BERT's position ids have 512 columns."""
    text = "g (float[1,64] x) => (float[] y) { a = GatherElements <axis = 1> (t, i) y = Add(x, a) }"
    row = Row("GatherElements", text, ["Add"], {"t": np.arange(80, dtype=np.float32)[None], "i": np.arange(64)[None]})
    check(row, fold_constants)


def test_quantized_weights_never_fold() -> None:
    """Neither the DequantizeLinear nor a Cast of packed 4-bit integers, which exists to keep them packed."""
    text = """g (float[2,4] x) => (float[] y) { i = Cast <to = 3> (w)  d = DequantizeLinear(i, s)  y = MatMul(x, d) }"""
    proto = build(text, {"s": 0.5})
    proto.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.INT4, [4, 3], list(range(-6, 6))))
    assert [node.op_type for node in load_model(proto).graph] == ["Cast", "DequantizeLinear", "MatMul"]


def test_no_other_operator_is_without_inference() -> None:
    names = {s.name for s in onnx.defs.get_all_schemas() if s.domain == "" and onnx.defs.has(s.name, OPSET, "")}
    schemas = [onnx.defs.get_schema(name, OPSET, "") for name in names]
    without = {schema.name for schema in schemas if not schema.has_type_and_shape_inference_function}
    assert without == _LIKE_INPUT


def test_random_numbers_never_fold() -> None:
    text = "g (float[2] x) => (float[] y) { a = RandomNormal <shape = [2]> () y = Add(x, a) }"
    model = ir.from_proto(build(text))
    fold_constants(model)
    assert [node.op_type for node in model.graph] == ["RandomNormal", "Add"]
    with pytest.raises(UnsupportedModel, match=r"RandomNormal .*other numbers in every run"):
        load(text)
