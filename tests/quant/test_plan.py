from __future__ import annotations

import numpy as np
import pytest
from small_graphs import network, normal, residual

from edgeq.errors import UsageError
from edgeq.quant.plan import Precision, QuantPlan, make_plan
from edgeq.scheme import PRESETS, PerBlock, PerChannel, QuantScheme, QuantType
from edgeq.targets import Fixed
from edgeq_converters.coreml.target import COREML
from edgeq_converters.onnxruntime.target import ONNXRUNTIME
from edgeq_converters.tflite.target import TFLITE

W8A8, W4A8 = PRESETS["w8a8"], PRESETS["w4a8"]


def reasons(plan: QuantPlan) -> dict[str, str]:
    return {kept.op: kept.reason for kept in plan.kept}


def test_a_relu_is_absorbed_and_the_value_in_front_of_it_gets_no_grid() -> None:
    plan = make_plan(residual(), [ONNXRUNTIME], W8A8)
    assert {"x", "r", "c", "t"} <= set(plan.groups)
    assert not {"a", "s"} & set(plan.groups)


def test_the_last_softmax_stays_float_and_says_why() -> None:
    plan = make_plan(residual(), [ONNXRUNTIME, TFLITE, COREML], W8A8)
    assert "y" not in plan.groups
    assert "the model's answer" in reasons(plan)["Softmax"]


def test_a_gemm_before_float_ops_writes_float_only_where_every_target_can() -> None:
    assert "z" not in make_plan(residual(), [ONNXRUNTIME], W8A8).groups
    assert "z" in make_plan(residual(), [ONNXRUNTIME, TFLITE], W8A8).groups


def test_values_that_an_engine_moves_share_a_grid() -> None:
    model = network("""
        g (float[1,2,6,4] x) => (float[1,5,6,2] y) {
            a = Conv (x, w1)
            b = MaxPool <kernel_shape = [1,2], strides = [1,2]> (a)
            c = Conv <strides = [1,2]> (x, w2)
            d = Concat <axis = 1> (b, c)
            y = Conv (d, w3)
        }""", w1=normal(3, 2, 1, 1), w2=normal(2, 2, 1, 1), w3=normal(5, 5, 1, 1))
    tflite = make_plan(model, [TFLITE], W8A8)
    assert tflite.groups["a"] == tflite.groups["b"] == tflite.groups["c"] == tflite.groups["d"]
    assert set(tflite.sources) == {"x", "a", "c", "y"}, "pooled and concatenated values bring nothing new"
    ort = make_plan(model, [ONNXRUNTIME], W8A8)
    assert ort.groups["a"] == ort.groups["b"]
    assert len({ort.groups[name] for name in "acd"}) == 3, "ONNX Runtime's Concat rescales"


def test_a_fixed_grid_is_taken_over_and_never_observed() -> None:
    model = network("""
        g (float[1,2,4,6] x) => (float[1,3,4,6] y) {
            a = Conv (x, w1)
            s = Sigmoid (a)
            m = Mul (a, s)
            y = Conv (m, w2)
        }""", w1=normal(2, 2, 1, 1), w2=normal(3, 2, 1, 1))
    plan = make_plan(model, [TFLITE], W8A8)
    assert plan.fixed == {"s": Fixed(1 / 256, 0)}
    assert "s" not in plan.sources


def test_an_attention_mask_and_what_follows_it_stay_float() -> None:
    mask = np.triu(np.full((5, 5), -1e9, np.float32), 1)
    model = network("""
        g (float[1,5,4] x) => (float[1,5,3] y) {
            q = MatMul (x, wq)
            k = MatMul (x, wk)
            t = Transpose <perm = [0,2,1]> (k)
            s = MatMul (q, t)
            m = Add (s, mask)
            p = Softmax (m)
            v = MatMul (p, q)
            y = MatMul (v, wo)
        }""", wq=normal(4, 4, seed=1), wk=normal(4, 4, seed=2), wo=normal(4, 3, seed=3), mask=mask)
    plan = make_plan(model, [TFLITE], W8A8)
    assert "attention mask" in reasons(plan)["Add"]
    assert reasons(plan)["Softmax"] == "an input arrives in float"
    assert not {"s", "m", "p"} & set(plan.groups)


BETWEEN = ("Abs (a)", "Neg (a)", "Exp (a)", "HardSigmoid (a)", "ReduceMean (a, axes)", "ReduceMax (a, axes)",
           "ReduceMin (a, axes)", "GlobalMaxPool (a)", "GatherND <batch_dims = 1> (a, whole)")


@pytest.mark.parametrize("between", BETWEEN)
def test_what_one_engine_has_a_kernel_for_is_planned_for_all_alike(between: str) -> None:
    """ONNX Runtime alone leaves the op in float; beside TFLite it is given TFLite's grids."""
    model = network(f"""g (float[1,2,4,6] x) => (float[] y) {{
        a = Conv (x, w1) b = {between} y = Conv (b, w2) }}""", w1=normal(2, 2, 1, 1), w2=normal(3, 2, 1, 1),
                    axes=np.array([3]), whole=np.arange(2).reshape(1, 2, 1))
    alone, together = (make_plan(model, targets, W8A8) for targets in ([TFLITE], [ONNXRUNTIME, TFLITE, COREML]))
    assert not alone.kept
    assert {"a", "b"} <= set(alone.groups)
    assert (alone.groups, alone.fixed, alone.sources) == (together.groups, together.fixed, together.sources)
    moves = ("ReduceMax", "ReduceMin", "GlobalMaxPool", "GatherND")
    assert (alone.groups["a"] == alone.groups["b"]) == between.startswith(moves)
    assert "b" not in make_plan(model, [ONNXRUNTIME], W8A8).rounded


def test_the_mean_of_squares_under_a_root_stays_float() -> None:
    """A normalization divides by it: its kernels are integer ones, but nothing gains from 8 bits of it."""
    model = network("""g (float[1,5,4] x) => (float[1,5,3] y) {
        a = MatMul (x, w1) s = Mul (a, a) m = ReduceMean (s, axes) e = Add (m, epsilon) r = Sqrt (e) n = Div (a, r)
        y = MatMul (n, w2) }""", w1=normal(4, 4), w2=normal(4, 3), axes=np.array([2]),
                    epsilon=np.array(1e-5, np.float32))
    plan = make_plan(model, [TFLITE], W8A8)
    assert {op for op, reason in reasons(plan).items() if reason == "only float ops read its result"} == {
        "Mul", "ReduceMean", "Add"}


def test_a_residual_stream_between_float_norms_stays_float() -> None:
    model = network("""
        g (float[1,5,4] x) => (float[1,5,3] y) {
            a = MatMul (x, w1)
            b = Add (a, b1)
            r = Add (b, x)
            n = LayerNormalization (r, gamma, beta)
            y = MatMul (n, w2)
        }""", w1=normal(4, 4), b1=normal(4), gamma=normal(4), beta=normal(4), w2=normal(4, 3))
    plan = make_plan(model, [ONNXRUNTIME], W8A8)
    assert set(plan.groups) == {"x", "n"}
    assert [bias.value for bias in plan.biases] == ["b1"]


@pytest.mark.parametrize(("scheme", "expected"), [
    (W8A8, {"w1": QuantType(8, granularity=PerChannel(0)), "w3": QuantType(8, granularity=PerChannel(0))}),
    (QuantScheme(QuantType(4, granularity=PerBlock(2))), {"w3": QuantType(8, granularity=PerChannel(0)),
                                                          "w2": QuantType(4, granularity=PerChannel(0))}),
])
def test_granularity_follows_the_op(scheme: QuantScheme, expected: dict[str, QuantType]) -> None:
    kinds = {weight.value: weight.type for weight in make_plan(residual(), [ONNXRUNTIME], scheme).weights}
    assert {name: kinds[name] for name in expected} == expected


def test_a_matrix_is_cut_into_blocks_along_its_inputs() -> None:
    model = network("g (float[1,6] x) => (float[1,5] y) { y = Gemm (x, w) }", w=normal(6, 5))
    (weight,) = make_plan(model, [ONNXRUNTIME], QuantScheme(QuantType(4, granularity=PerBlock(3)))).weights
    assert weight.type == QuantType(4, granularity=PerBlock(3, 0))


def test_the_last_layer_and_the_smallest_keep_eight_bits_while_they_hold_few_of_the_weights() -> None:
    model = network("""
        g (float[1,40] x) => (float[1,4] y) {
            a = MatMul (x, w1)
            b = MatMul (a, w2)
            c = MatMul (b, w3)
            d = MatMul (c, w4)
            e = Add (d, b4)
            y = Softmax (e)
        }""", w1=normal(40, 40), w2=normal(40, 2), w3=normal(2, 40), w4=normal(40, 4), b4=normal(4))
    assert [weight.type.bits for weight in make_plan(model, [TFLITE], W4A8).weights] == [4, 8, 4, 8]


def test_depthwise_filters_keep_eight_bits_when_the_rest_has_four() -> None:
    model = network("""
        g (float[1,6,9,7] x) => (float[1,5,7,5] y) {
            a = Conv <group = 6> (x, w1)
            y = Conv (a, w2)
        }""", w1=normal(6, 1, 3, 3), w2=normal(5, 6, 1, 1))
    assert [weight.type.bits for weight in make_plan(model, [TFLITE], W4A8).weights] == [8, 4]


def test_keep_float_takes_a_layer_out_altogether() -> None:
    plan = make_plan(residual(), [ONNXRUNTIME], W8A8, keep_float=["^Conv_2$"])
    assert "w2" not in {weight.value for weight in plan.weights}
    assert "c" not in plan.groups
    assert reasons(plan)["Conv"] == "kept float by --keep-float"


def test_without_activations_only_weights_are_planned() -> None:
    plan = make_plan(residual(), [ONNXRUNTIME], PRESETS["w4"])
    assert not plan.groups
    assert not plan.sources
    assert not plan.biases
    assert len(plan.weights) == 3


def test_a_layer_gets_what_it_is_given_instead_of_the_scheme() -> None:
    given = {"Conv_2": Precision(weight_bits=4, integer_activations=False, reason="it is the worst"),
             "Conv_0": Precision(weight_bits=16)}
    plan = make_plan(residual(), [ONNXRUNTIME], W8A8, layers=given)
    assert {weight.value: weight.type.bits for weight in plan.weights} == {"w2": 4, "w3": 8}
    assert plan.half == ("w1",)
    assert reasons(plan)["Conv"] == "it is the worst"
    assert ("Conv_2", 0) not in plan.readers
    assert not [bias for bias in plan.biases if bias.weight == "w2"], "float layers add float biases"


def test_a_layer_can_have_float_weights_alone() -> None:
    plan = make_plan(residual(), [ONNXRUNTIME], PRESETS["w4"], layers={"Conv_2": Precision(weight_bits=32)})
    assert not plan.half
    assert "w2" not in {weight.value for weight in plan.weights}


def test_a_name_that_no_layer_has_is_refused_with_those_that_come_near() -> None:
    with pytest.raises(UsageError, match=r"--keep-float \^Cnov_2\$: no layer has such a name; near it: 'Conv_2'"):
        make_plan(residual(), [ONNXRUNTIME], W8A8, keep_float=["Gemm", "^Cnov_2$"])
