from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, network, normal, residual

from edgeq.graph import constant
from edgeq.inference.reference import run_onnx
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.plan import make_plan
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq.quant.quantize import quantize
from edgeq.scheme import PRESETS, QuantParams, QuantType
from edgeq.scheme import quantize as to_integers
from edgeq.targets import Target
from edgeq.verification.compare import compare
from edgeq_converters.onnxruntime.target import ONNXRUNTIME
from edgeq_converters.tflite.target import TFLITE

SHAPE = (1, 3, 9, 7)


def quantized(model: ir.Model, *targets: Target, preset: str = "w8a8") -> ir.Model:
    plan = make_plan(model, targets, PRESETS[preset])
    return quantize(model, plan, calibrate(model, plan.sources, feeds(SHAPE)), CALIBRATORS["minmax"])


def test_the_quantized_graph_stays_near_the_float_one_and_leaves_it_unchanged() -> None:
    model = residual()
    before = ir.to_proto(model).SerializeToString()
    graph = quantized(model, ONNXRUNTIME, TFLITE)
    assert ir.to_proto(model).SerializeToString() == before
    (difference,) = compare(list(run_onnx(model, feeds(SHAPE))), list(run_onnx(graph, feeds(SHAPE))))
    assert 30 < difference.sqnr_db < 70


def test_onnxruntime_fuses_every_planned_op_into_integer_kernels(tmp_path: Path) -> None:
    import onnxruntime

    ir.save(quantized(residual(), ONNXRUNTIME), tmp_path / "q.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in ir.load(tmp_path / "fused.onnx").graph]
    assert ops.count("QLinearConv") == 2
    assert {"QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= set(ops)
    assert not {"Conv", "FusedConv", "Add", "Gemm"} & set(ops)


def test_weights_are_narrow_and_biases_lie_on_the_product_grid() -> None:
    graph = quantized(residual(), ONNXRUNTIME).graph
    conv = next(node for node in graph if node.op_type == "Conv")
    data, weight, bias = (value.producer() for value in conv.inputs)
    integers = constant(weight.inputs[0])
    assert integers.dtype == np.int8
    assert integers.min() >= -127
    assert (np.abs(integers.reshape(4, -1)).max(1) == 127).all(), "every channel uses its whole range"
    expected = constant(data.inputs[1]) * constant(weight.inputs[1])
    np.testing.assert_array_equal(constant(bias.inputs[1]), expected.astype(np.float32))
    error = constant(bias.inputs[0]) * constant(bias.inputs[1]) - normal(4, seed=2)
    assert (np.abs(error) <= constant(bias.inputs[1]) / 2 + 1e-6).all()


def test_a_bias_too_large_for_32_bits_widens_its_channel() -> None:
    bias = np.array([1e6, 0.1], np.float32)
    model = network("""
        g (float[1,3,9,7] x) => (float[1,2,9,7] y) { y = Conv (x, w, b) }
        """, w=np.stack([normal(3, 1, 1, scale=1e-6), normal(3, 1, 1)]), b=bias)
    graph = quantized(model, ONNXRUNTIME)
    (output,) = (run["y"] for run in run_onnx(graph, feeds(SHAPE, 1)))
    assert np.abs(output[0, 0] / 1e6 - 1).max() < 0.01


def test_a_value_that_float_ops_read_too_is_rounded_only_for_the_integer_ops() -> None:
    model = network("""
        g (float[1,3,9,7] x) => (float[1,2,9,7] y, float[1,3,9,7] z) {
            e = Erf (x)
            y = Conv (e, w)
            z = Erf (e)
        }""", w=normal(2, 3, 1, 1))
    graph = quantized(model, ONNXRUNTIME)
    conv = next(node for node in graph.graph if node.op_type == "Conv")
    assert conv.inputs[0].producer().op_type == DEQUANTIZE
    (expected,), (got,) = (list(run_onnx(m, feeds(SHAPE, 1))) for m in (model, graph))
    np.testing.assert_allclose(got["z"], expected["z"], atol=1e-6)


def test_outputs_keep_their_names_and_stay_float() -> None:
    model = network("g (float[1,3,9,7] x) => (float[1,2,9,7] y) { y = Conv (x, w) }", w=normal(2, 3, 1, 1))
    graph = quantized(model, TFLITE).graph
    assert [value.name for value in graph.outputs] == ["y"]
    assert graph.outputs[0].dtype == ir.DataType.FLOAT
    assert graph.outputs[0].producer().op_type == DEQUANTIZE


def test_four_bits_are_stored_as_four_bits(tmp_path: Path) -> None:
    model = network("g (float[1,64] x) => (float[1,96] y) { y = Gemm (x, w) }", w=normal(64, 96))
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w4"])
    ir.save(quantize(model, plan, {}, CALIBRATORS["minmax"]), tmp_path / "q.onnx")
    assert 64 * 96 / 2 < (tmp_path / "q.onnx").stat().st_size < 64 * 96 / 2 + 2000


def test_a_weight_with_two_readers_gets_one_copy_and_each_bias_its_own_grid() -> None:
    model = network("""
        g (float[1,3,9,7] x) => (float[1,3,9,7] y) {
            a = Conv (x, w, b)
            y = Conv (a, w, b)
        }""", w=normal(3, 3, 1, 1, scale=5), b=normal(3))
    graph = quantized(model, ONNXRUNTIME)
    (difference,) = compare(list(run_onnx(model, feeds(SHAPE))), list(run_onnx(graph, feeds(SHAPE))))
    assert difference.sqnr_db > 30
    assert sum(name.startswith("w_q") for name in graph.graph.initializers) == 1
    assert sum(name.startswith("b_q") for name in graph.graph.initializers) == 2


def test_every_quantized_value_is_one_pair() -> None:
    nodes = list(quantized(residual(), ONNXRUNTIME).graph)
    stored = [node.outputs[0] for node in nodes if node.op_type == QUANTIZE]
    assert all(len(value.uses()) == 1 for value in stored)


@pytest.mark.parametrize("kind", [QuantType(8, False, False), QuantType(8), QuantType(4)])
def test_integers_agree_with_onnxruntime(kind: QuantType) -> None:
    params = QuantParams(kind, np.float32(0.037), np.int32(0 if kind.symmetric else 131))
    x = normal(3, 50, scale=2)
    low, high = kind.range
    name = f"{'' if kind.signed else 'u'}int{kind.bits}"
    model = network("""
        g (float[3,50] x) => (float[3,50] y) {
            q = QuantizeLinear (x, s, z)
            y = DequantizeLinear (q, s, z)
        }""", s=np.float32(0.037), z=_zero_point(params, name))
    (run,) = run_onnx(model, [{"x": x}])
    ours = (to_integers(x, params) - params.zero_point) * np.float32(0.037)
    inside = (ours > (low - params.zero_point + 1) * 0.037) & (ours < (high - params.zero_point) * 0.037)
    np.testing.assert_allclose(ours[inside], run["y"][inside], rtol=1e-6)


def _zero_point(params: QuantParams, name: str):
    import ml_dtypes

    return params.zero_point.astype(ml_dtypes.int4 if name == "int4" else name)
