"""Fitting the weights of whole models: every kind of layer, what must stay as it is, and the ways to ask for it."""
from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal, residual, samples_of

from edgeq.errors import UsageError
from edgeq.inference.partial import PartialRun
from edgeq.inference.reference import run_onnx
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.fit import Fit
from edgeq.quant.methods import STEPS, Method, method_named
from edgeq.quant.plan import make_plan
from edgeq.quant.quantize import quantize
from edgeq.quant.rounding import nearest
from edgeq.scheme import PRESETS, PerBlock, PerChannel, PerTensor, QuantScheme, QuantType
from edgeq.verification.compare import compare
from edgeq_converters.onnxruntime.target import ONNXRUNTIME
from edgeq_converters.tflite.target import TFLITE

SHAPE = (1, 3, 9, 7)
A8 = QuantType(8, signed=False, symmetric=False)


def smooth(shape: tuple[int, ...], count: int = 40, seed: int = 0) -> list[dict[str, NDArray[np.float32]]]:
    """Samples whose neighbours go together, as those of images do: random walks along every axis."""
    random = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        walk = random.normal(size=shape)
        for axis in range(1, len(shape)):
            walk = walk.cumsum(axis) / np.sqrt(shape[axis])
        samples.append({"x": (walk + 0.03 * random.normal(size=shape)).astype(np.float32)})
    return samples


def sqnr(model: ir.Model, graph: ir.Model, shape: tuple[int, ...]) -> float:
    """On samples that were not fitted to."""
    tests = smooth(shape, 20, seed=5)
    return min(d.sqnr_db for d in compare(list(run_onnx(model, tests)), list(run_onnx(graph, tests))))


def quantized(model: ir.Model, shape: tuple[int, ...], scheme: QuantScheme, *, fitted: bool) -> ir.Model:
    plan = make_plan(model, [ONNXRUNTIME, TFLITE], scheme)
    samples = smooth(shape)
    statistics = calibrate(model, plan.sources, samples) if plan.sources else {}
    return quantize(model, plan, statistics, CALIBRATORS["minmax"], nearest, Fit(samples) if fitted else None)


def convolutions() -> ir.Model:
    return network("""
        g (float[1,6,10,8] x) => (float[1,9,8,6] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1, b1)
            r = Relu (a)
            b = Conv <group = 2, pads = [1,1,1,1]> (r, w2, b2)
            c = Conv <group = 12, pads = [1,1,1,1]> (b, w3, b3)
            s = Relu (c)
            y = Conv (s, w4)
        }""", w1=normal(12, 6, 3, 3, seed=1), b1=normal(12, seed=2), w2=normal(12, 6, 3, 3, seed=3),
        b2=normal(12, seed=4), w3=normal(12, 1, 3, 3, seed=5), b3=normal(12, seed=6), w4=normal(9, 12, 3, 3, seed=7))


def products() -> ir.Model:
    return network("""
        g (float[1,5,24] x) => (float[1,5,16] y) {
            a = MatMul (x, w1)
            b = Add (a, b1)
            c = Erf (b)
            d = Add (c, x)
            e = MatMul (d, w2)
            y = Add (e, b2)
        }""", w1=normal(24, 24, seed=1, scale=0.3), b1=normal(24, seed=2), w2=normal(24, 16, seed=3),
        b2=normal(16, seed=4))


@pytest.mark.parametrize("activation", [None, A8], ids=["float activations", "8-bit activations"])
@pytest.mark.parametrize("granularity", [PerChannel(), PerTensor(), PerBlock(8)])
@pytest.mark.parametrize(("make", "shape"), [(convolutions, (1, 6, 10, 8)), (products, (1, 5, 24))])
def test_fitted_weights_beat_rounded_ones_on_new_samples(make: Any, shape: tuple[int, ...], granularity: Any,
                                                         activation: QuantType | None) -> None:
    model = make()
    before = ir.to_proto(model).SerializeToString()
    scheme = QuantScheme(QuantType(4, granularity=granularity), activation)
    gain = (sqnr(model, quantized(model, shape, scheme, fitted=True), shape)
            - sqnr(model, quantized(model, shape, scheme, fitted=False), shape))
    assert gain > 4
    assert ir.to_proto(model).SerializeToString() == before


def test_weights_do_not_make_up_for_values_that_were_cut_off() -> None:
    """A sample whose values are all cut off would bend every weight behind them, to the loss of all others."""
    model = products()
    stored = []
    for activation in (None, A8):
        plan = make_plan(model, [ONNXRUNTIME], QuantScheme(QuantType(4, granularity=PerChannel()), activation))
        samples = smooth((1, 5, 24))
        narrow = calibrate(model, plan.sources, samples[:2]) if plan.sources else {}
        samples[3] = {"x": 40 * samples[3]["x"]}
        graph = quantize(model, plan, narrow, CALIBRATORS["minmax"], nearest, Fit(samples))
        stored.append({name: value.const_value.numpy() for name, value in graph.graph.initializers.items()
                       if value.dtype == ir.DataType.INT4})
    assert stored[0].keys() == stored[1].keys() != set()
    for name, integers in stored[0].items():
        np.testing.assert_array_equal(integers, stored[1][name])


def test_the_transposed_convolution_is_fitted_too() -> None:
    model = network("""
        g (float[1,6,5,4] x) => (float[1,4,11,9] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1, b1)
            y = ConvTranspose <strides = [2,2]> (a, w2, b2)
        }""", w1=normal(6, 6, 3, 3, seed=1), b1=normal(6, seed=2), w2=normal(6, 4, 3, 3, seed=3), b2=normal(4, seed=4))
    scheme = QuantScheme(QuantType(4, granularity=PerChannel()))
    shape = (1, 6, 5, 4)
    fitted, rounded = (sqnr(model, quantized(model, shape, scheme, fitted=yes), shape) for yes in (True, False))
    assert fitted > rounded + 4


def test_a_weight_with_two_readers_is_left_to_rounding() -> None:
    model = network("""
        g (float[1,3,9,7] x) => (float[1,3,9,7] y) {
            a = Conv (x, w, b)
            y = Conv (a, w, b)
        }""", w=normal(3, 3, 1, 1), b=normal(3))
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w4"])
    assert Fit(smooth(SHAPE))(model, plan) == {}


def test_a_bias_with_two_readers_stays_as_it_is() -> None:
    model = network("""
        g (float[1,3,9,7] x) => (float[1,3,9,7] y) {
            a = Conv (x, w1, b)
            y = Conv (a, w2, b)
        }""", w1=normal(3, 3, 1, 1), w2=normal(3, 3, 1, 1, seed=1), b=normal(3))
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w4"])
    found = Fit(smooth(SHAPE))(model, plan)
    assert [fitted.bias for fitted in found.values()] == [None, None]


def test_inputs_of_a_layer_are_those_that_running_the_whole_model_gives() -> None:
    model = network("""
        g (float[1,3,9,7] x) => (float[1,2,9,7] y) {
            a = Conv (x, w1)
            t = ReduceMax <keepdims = 0> (a)
            p = Greater (t, zero)
            s = If (p) <
                then_branch = yes () => (float[1,4,9,7] o) { n = Exp (a) o = Add (n, a) },
                else_branch = no () => (float[1,4,9,7] o) { o = Neg (a) }
            >
            u = Add (s, a)
            y = Conv (u, w2)
        }""", w1=normal(4, 3, 1, 1, scale=0.1), w2=normal(2, 4, 1, 1), zero=np.float32(0))
    samples = smooth(SHAPE, 3)
    first, last = (node for node in model.graph if node.op_type == "Conv")
    replaced = {"w1": normal(4, 3, 1, 1, seed=7, scale=0.1)}
    partial = PartialRun(model, samples, needed=[first, last], replaced=replaced)
    partial.run_until(first)
    np.testing.assert_array_equal(partial.inputs(first, 0)[1], samples[1]["x"])
    partial.run_until(last)
    full = model.clone()
    full.graph.initializers["w1"].const_value = ir.tensor(replaced["w1"], name="w1")
    value = next(node for node in full.graph if node.name == "Add_4" or node.outputs[0].name == "u").outputs[0]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((1, 4, 9, 7))
    full.graph.outputs[0] = value
    for got, run in zip(partial.inputs(last, 0), run_onnx(full, samples), strict=True):
        np.testing.assert_allclose(got, run["u"], rtol=1e-5, atol=1e-6)


def test_constant_samples_and_dead_channels_give_a_finite_model() -> None:
    model = residual()
    weight = model.graph.initializers["w1"].const_value.numpy().copy()
    weight[1] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(weight, name="w1")
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w4a8"])
    samples = [{"x": np.zeros(SHAPE, np.float32)}] * 3
    graph = quantize(model, plan, calibrate(model, plan.sources, samples), CALIBRATORS["mse"], nearest, Fit(samples))
    for value in graph.graph.initializers.values():
        data = value.const_value.numpy()
        assert data.dtype.kind not in "f" or np.isfinite(data).all()
    (run,) = run_onnx(graph, [{"x": normal(*SHAPE)}])
    assert np.isfinite(run["y"]).all()


@pytest.mark.parametrize("name", [*STEPS, "equalize+gptq+descent", "bias+awq+clip+sum-preserving"])
def test_every_method_quantizes(name: str) -> None:
    model, samples = residual(), smooth(SHAPE, 6)
    given = samples_of(samples)
    method, prepared = method_named(name), model.clone()
    method.scale(prepared, make_plan(prepared, [ONNXRUNTIME], PRESETS["w4a8"]), given, 4)
    plan = make_plan(prepared, [ONNXRUNTIME], PRESETS["w4a8"])
    graph = quantize(prepared, plan, calibrate(prepared, plan.sources, samples), CALIBRATORS["minmax"],
                     method.rounding, method.fit(given, 4), method.search)
    assert sqnr(model, graph, SHAPE) > 6


def test_a_method_that_needs_samples_says_so_and_auto_does_without() -> None:
    with pytest.raises(UsageError, match="--calibration"):
        method_named("gptq").fit(None, 4)
    assert method_named("auto").fit(None, 4) is None
    assert method_named("auto").fit(None, 8) is None
    assert method_named("auto-2026.11").fit(samples_of(smooth(SHAPE, 1)), 8) is None
    with pytest.raises(UsageError, match="awq needs real samples"):
        method_named("awq").scale(residual(), make_plan(residual(), [ONNXRUNTIME], PRESETS["w4"]), None, 4)
    with pytest.raises(UsageError, match=r"there is no 'gtpq', 'mse'; take steps joined by \+.*gptq"):
        method_named("gtpq+descent+mse")


def test_the_order_of_steps_does_not_matter_but_what_they_add_does() -> None:
    names = ("rotate", "equalize", "clip", "nearest", "gptaq", "refit", "bias")
    orders = [names, names[::-1], *(tuple(np.random.default_rng(seed).permutation(names)) for seed in range(20))]
    assert len({method_named("+".join(order)) for order in orders}) == 1
    assert method_named("gptq+descent") != method_named("gptq")
    assert method_named("gptq+gptq") == method_named("gptq")


def is_refused(text: str) -> bool:
    try:
        method_named(text)
    except UsageError:
        return True
    return False


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(STEPS, 2)))
def test_two_steps_are_refused_where_one_would_undo_the_other(one: str, other: str) -> None:
    """Those that a method may hold together say the same in both orders, when they are added by hand."""
    assert is_refused(f"{one}+{other}") == is_refused(f"{other}+bias+{one}")
    if not is_refused(f"{one}+{other}"):
        by_hand = [STEPS[one](STEPS[other](Method())), STEPS[other](STEPS[one](Method()))]
        assert len({replace(method, scalings=tuple(sorted(method.scalings))) for method in by_hand}) == 1


@pytest.mark.parametrize("text", ["adaround+gptq", "gptaq+descent+gptq", "clip+hqq", "sum-preserving+nearest",
                                  "auto+nearest"])
def test_methods_that_contradict_themselves(text: str) -> None:
    with pytest.raises(UsageError, match=r"contradict each other, since each .* name one of them"):
        method_named(text)
