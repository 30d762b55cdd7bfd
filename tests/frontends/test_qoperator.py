"""Networks in QOperator form: the same grids in QDQ form, and the same numbers as onnxruntime's own integer kernels."""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from passes.graphs import build, noise, session

from edgeq.frontends import load_model
from edgeq.frontends.qoperator import FORMS
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq_converters.prepare import lower_form

NETWORK = """g (float[1,3,9,7] x) => (float[1,5] y) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 0, 0, 1]> (x, w1, b1)  r = Relu(a)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 1]> (r)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 4> (p, w2, b2)
    s = Sigmoid(c)  m = Mul(c, s)  d = Add(m, p)  e = Concat <axis = 1> (d, p)  l = LeakyRelu <alpha = 0.2> (e)
    q = AveragePool <kernel_shape = [2, 2]> (l)  t = Transpose <perm = [0, 1, 3, 2]> (q)
    g1 = GlobalAveragePool(t)  f = Flatten(g1)  z = Gemm <transB = 1> (f, w3, b3)  y = Softmax(z) }"""
WEIGHTS = {"w1": noise(4, 3, 3, 3), "b1": noise(4), "w2": noise(4, 1, 3, 3, seed=1), "b2": noise(4, seed=2),
           "w3": noise(5, 8, seed=3), "b3": noise(5, seed=4)}
FEEDS = [{"x": noise(1, 3, 9, 7, seed=k)} for k in range(8)]


def quantized(folder: Path, *, per_channel: bool) -> onnx.ModelProto:
    """The network as onnxruntime's quantizer writes it in QOperator form."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(FEEDS)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    onnx.save(build(NETWORK, WEIGHTS), folder / "float.onnx")
    quantization.quantize_static(
        str(folder / "float.onnx"), str(folder / "q.onnx"), Reader(), per_channel=per_channel,
        quant_format=quantization.QuantFormat.QOperator, activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8)
    return onnx.load(folder / "q.onnx")


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # onnxruntime.quantization, of its own helpers
def test_the_same_grids_and_numbers(tmp_path: Path, per_channel: bool) -> None:
    given = quantized(tmp_path, per_channel=per_channel)
    before = Counter(node.op_type for node in given.graph.node)
    assert {"QLinearConv", "QLinearAdd", "QLinearConcat", "QGemm", "QLinearMul"} <= set(before)
    model = load_model(given)
    assert {node.domain for node in model.graph} == {""}
    scales = {name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in given.graph.initializer
              if "scale" in (name := tensor.name) and "bias" not in name and "quantized" not in name}
    kept = {value.const_value.tobytes() for value in model.graph.initializers.values() if value.const_value is not None}
    assert set(scales.values()) <= kept
    kernels = session(given)
    expected = np.concatenate([kernels.run(None, feed)[0] for feed in FEEDS])
    got = np.concatenate([out["y"] for out in run_onnx(model, FEEDS)])
    steps = np.abs(got - expected) * 256  # the grid of a Softmax
    assert steps.max() <= 2  # the kernels round Sigmoid, Mul and Add on the way by tables and fixed point
    assert np.median(steps) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_backends_can_fold_what_comes_out(tmp_path: Path) -> None:
    model = load_model(quantized(tmp_path, per_channel=True))
    canonicalize(model)
    folded = lower_form(model)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in folded.graph}


def integers(op: str, inputs: str, **attributes: Any) -> onnx.ModelProto:
    """One operator of com.microsoft between a QuantizeLinear and a DequantizeLinear."""
    text = f"""g (float[2,3,4,6] x) => (float[] y) {{
        q = QuantizeLinear(x, s, z)  r = com.microsoft.{op} {_text(attributes)} ({inputs})
        y = DequantizeLinear(r, t, u) }}"""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 21, "com.microsoft" : 1]> {text}')
    for name, data in {"s": np.float32(0.03), "z": np.uint8(120), "t": np.float32(0.02), "u": np.uint8(99)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    return model


def _text(attributes: dict[str, Any]) -> str:
    return f"<{', '.join(f'{name} = {value}' for name, value in attributes.items())}>" if attributes else ""


ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("QLinearAdd", "q, s, z, q, s, z, t, u", {}),
    ("QLinearMul", "q, s, z, q, s, z, t, u", {}),
    ("QLinearConcat", "t, u, q, s, z, q, s, z", {"axis": 2}),
    ("QLinearLeakyRelu", "q, s, z, t, u", {"alpha": 0.3}),
    ("QLinearSigmoid", "q, s, z, t, u", {}),
    ("QLinearSoftmax", "q, s, z, t, u", {"axis": 1, "opset": 13}),
    ("QLinearAveragePool", "q, s, z, t, u", {"kernel_shape": [2, 3], "strides": [1, 2]}),
    ("QLinearGlobalAveragePool", "q, s, z, t, u", {}),
]


@pytest.mark.parametrize(("op", "inputs", "attributes"), ROWS, ids=[row[0] for row in ROWS])
def test_one_operator(op: str, inputs: str, attributes: dict[str, Any]) -> None:
    given = integers(op, inputs, **attributes)
    model = load_model(given)
    assert [node.domain for node in model.graph] == [""] * len(model.graph)
    feed = {"x": noise(2, 3, 4, 6)}
    expected, got = session(given).run(None, feed)[0], next(run_onnx(model, [feed]))["y"]
    assert np.abs(expected - got).max() <= 0.02 * 1.001  # one step: ties, and a Sigmoid from a table


def test_every_form_is_tested() -> None:
    by_hand = {"QLinearConv", "QLinearMatMul", "QGemm", "QLinearWhere"}
    assert {op for _, op in FORMS} | {"QLinearConcat"} == {row[0] for row in ROWS} | by_hand


def matmul(scale: NDArray[np.float32]) -> onnx.ModelProto:
    return build("""g (float[2,5,4] x) => (float[] y) { q = QuantizeLinear(x, s, z)
        r = QLinearMatMul(q, s, z, w, k, o, t, z)  y = DequantizeLinear(r, t, z) }""",
                 {"s": 0.03, "z": np.uint8(120), "t": 0.05, "w": np.arange(-6, 6, dtype=np.int8).reshape(4, 3),
                   "k": scale, "o": np.int8(0)})


def test_columns_with_scales_of_their_own() -> None:
    """onnxruntime's kernel wants as many zero points as scales; the standard lets one stand for all."""
    scale = np.array([0.5, 0.25, 0.125], np.float32)
    model, feed = load_model(matmul(scale)), {"x": noise(2, 5, 4)}
    x = (np.clip(np.rint(feed["x"] / np.float32(0.03)) + 120, 0, 255) - 120) * np.float32(0.03)
    exact = x @ (np.arange(-6, 6).reshape(4, 3) * scale)
    assert np.abs(next(run_onnx(model, [feed]))["y"] - np.clip(exact, -6.0, 6.75)).max() <= 0.5 * 0.05 * 1.001


def test_a_choice_between_integers() -> None:
    text = """g (float[2,3] x, bool[2,3] c) => (float[] y) { q = QuantizeLinear(x, s, z)
        r = com.microsoft.QLinearWhere(c, q, s, z, q, s, z, t, u)  y = DequantizeLinear(r, t, u) }"""
    given = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 21, "com.microsoft" : 1]> {text}')
    for name, data in {"s": np.float32(0.03), "z": np.uint8(120), "t": np.float32(0.02), "u": np.uint8(99)}.items():
        given.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    model, feed = load_model(given), {"x": noise(2, 3), "c": np.array([[True, False, True], [False, True, False]])}
    assert [node.op_type for node in model.graph].count("Where") == 1
    np.testing.assert_allclose(next(run_onnx(model, [feed]))["y"], session(given).run(None, feed)[0], atol=0.0201)


def test_what_moves_integers_stays_on_their_grid() -> None:
    text = """g (float[1,2,4,6] x) => (float[] y) { q = QuantizeLinear(x, s, z)  p = MaxPool <kernel_shape = [2, 2]> (q)
        r = com.microsoft.QLinearGlobalAveragePool(p, s, z, t, z)  y = DequantizeLinear(r, t, z) }"""
    given = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 21, "com.microsoft" : 1]> {text}')
    for name, data in {"s": np.float32(0.03), "z": np.uint8(120), "t": np.float32(0.02)}.items():
        given.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(data), name))
    model = load_model(given)
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    before, after = pool.inputs[0].producer(), next(iter(pool.outputs[0].uses())).node
    assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")
    assert before.inputs[1] is after.inputs[1]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_channels_last_is_left_alone() -> None:
    given = integers("QLinearGlobalAveragePool", "q, s, z, t, u", channels_last=1)
    given.graph.value_info.append(onnx.helper.make_tensor_value_info("r", onnx.TensorProto.UINT8, [2, 1, 1, 6]))
    assert any(node.domain == "com.microsoft" for node in load_model(given).graph)
