"""Channels scaled up here and down there: the float function stays, and the integers lose less."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal, residual
from zoo_models import needs_zoo, zoo

from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.methods import method_named
from edgeq.quant.plan import make_plan
from edgeq.quant.quantize import quantize
from edgeq.quant.scaling.accept import scale_channels
from edgeq.quant.scaling.proposals import PROPOSALS, Channels, awq, equalize, fold_gains, smooth
from edgeq.quant.scaling.sites import find_sites
from edgeq.scheme import PRESETS
from edgeq.verification.compare import compare
from edgeq_converters.onnxruntime.target import ONNXRUNTIME

Array = NDArray[np.float32]


def convolutions() -> ir.Model:
    """Dense -> pool -> depthwise -> grouped -> dense: channels pass Relu, MaxPool and Pad."""
    return network("""
        g (float[1,6,12,10] x) => (float[1,7,5,4] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1, b1)
            r = Relu (a)
            m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
            b = Conv <group = 12, pads = [1,1,1,1]> (m, w2, b2)
            l = LeakyRelu (b)
            p = Pad (l, pads)
            c = Conv <group = 3> (p, w3)
            y = Conv (c, w4, b4)
        }""", w1=normal(12, 6, 3, 3, seed=1), b1=normal(12, seed=2), w2=normal(12, 1, 3, 3, seed=3),
        b2=normal(12, seed=4), w3=normal(9, 4, 3, 3, seed=5), w4=normal(7, 9, 1, 1, seed=6), b4=normal(7, seed=7),
        pads=np.array([0, 0, 0, 0, 0, 0, 1, 1]))


def transformer() -> ir.Model:
    """LayerNorm -> two MatMuls, one gated by the other -> MatMul; a ConvTranspose and a Flatten live elsewhere."""
    return network("""
        g (float[1,5,16] x) => (float[1,5,8] y) {
            n = LayerNormalization (x, s, t)
            u = MatMul (n, w1)
            v = Add (u, b1)
            k = MatMul (n, w2)
            h = Sigmoid (k)
            d = Mul (v, h)
            y = MatMul (d, w3)
        }""", s=np.exp(normal(16, seed=9)), t=normal(16, seed=8), w1=normal(16, 12, seed=1), b1=normal(12, seed=2),
        w2=normal(16, 12, seed=3), w3=normal(12, 8, seed=4))


def upsampling() -> ir.Model:
    return network("""
        g (float[1,4,5,3] x) => (float[1,6] y) {
            a = ConvTranspose <strides = [2,2]> (x, w1, b1)
            r = Relu (a)
            b = ConvTranspose (r, w2, b2)
            f = Flatten (b)
            y = Gemm <transB = 1> (f, w3, b3)
        }""", w1=normal(4, 6, 3, 3, seed=1), b1=normal(6, seed=2), w2=normal(6, 5, 2, 2, seed=3), b2=normal(5, seed=4),
        w3=normal(6, 480, seed=5), b3=normal(6, seed=6))


def feeds(model: ir.Model, count: int = 24, seed: int = 0) -> list[dict[str, Array]]:
    shape, random = model.graph.inputs[0].shape, np.random.default_rng(seed)
    return [{"x": random.normal(size=tuple(shape.numpy())).astype(np.float32)} for _ in range(count)]


MODELS = {"convolutions": convolutions, "transformer": transformer, "upsampling": upsampling, "residual": residual}


@pytest.mark.parametrize(("name", "sites"), [
    ("convolutions", {"Conv_0": 1, "Conv_3": 1, "Conv_6": 1}),
    ("upsampling", {"ConvTranspose_0": 1, "ConvTranspose_2": 1}),
    ("transformer", {"LayerNormalization_0": 2, "MatMul_1": 1}), ("residual", {})])
def test_places_are_found_and_any_scale_leaves_the_function_as_it_is(name: str, sites: dict[str, int]) -> None:
    model, scaled = MODELS[name](), MODELS[name]()
    found = list(find_sites(scaled.graph))
    assert {site.name: len(site.readers) for site in found} == sites  # residual: all are added to something
    for number, site in enumerate(found):
        site.apply(np.exp(np.random.default_rng(number).normal(size=site.channels)).astype(np.float32))
    tests = feeds(model, 4)
    (line,) = compare(list(run_onnx(model, tests)), list(run_onnx(scaled, tests)))
    assert line.sqnr_db > 100
    assert {value.name for value in scaled.graph.outputs} == {value.name for value in model.graph.outputs}


def freed(model: ir.Model, axis: int, named: bool) -> ir.Model:
    """With one axis of every computed value free: of one name, or of none that is known to be another value's."""
    computed = (value for node in model.graph for value in node.outputs)
    for value in (value for value in (*model.graph.inputs, *computed) if value.shape is not None):
        value.shape = ir.Shape([("T" if named else None) if k == axis else size for k, size in enumerate(value.shape)])
    return model


@pytest.mark.parametrize(("name", "axis", "named", "sites"), [
    ("convolutions", 2, True, 3), ("convolutions", 2, False, 3), ("upsampling", 0, True, 2), ("upsampling", 2, True, 1),
    ("transformer", 1, True, 2), ("transformer", 1, False, 1)])
def test_free_sizes_hide_only_what_depends_on_them(name: str, axis: int, named: bool, sites: int) -> None:
    """Behind upsampling, a free height leaves open how many numbers of the Flatten are one channel's; the factors of a
    gate that may be broadcast are not scaled.
    """
    free, fixed = freed(MODELS[name](), axis, named), {site.name: site for site in find_sites(MODELS[name]().graph)}
    found = list(find_sites(free.graph))
    assert len(found) == sites
    for site in found:
        assert site.channels == fixed[site.name].channels
        assert site.axis == fixed[site.name].axis
        np.testing.assert_array_equal(site.after, fixed[site.name].after)


@pytest.mark.parametrize("graph", [
    "r = Sigmoid (a) y = Conv (r, w2)", "r = Relu (a) c = Conv (r, w2) y = Add (c, r)", "r = Relu (a) y = Conv (r, r)",
    "r = Clip (a, zero, six) y = Conv (r, w2)"], ids=["sigmoid", "second reader", "no constant", "clip"])
def test_what_does_not_let_scales_pass_is_no_place(graph: str) -> None:
    model = network(f"g (float[1,4,4,4] x) => (float[1,4,?,?] y) {{ a = Conv (x, w1) {graph} }}".replace("?,?", "4,4")
                    if "r, r" not in graph else "g (float[1,4,4,4] x) => (float[1,1,1,1] y) "
                    "{ a = Conv (x, w1) r = Relu (a) y = Conv (r, r) }",
                    w1=normal(4, 4, 1, 1, seed=1), w2=normal(4, 4, 1, 1, seed=2),
                    zero=np.zeros((), np.float32), six=np.full((), 6, np.float32))
    assert list(find_sites(model.graph)) == []


# -- the formulas, on arrays -------------------------------------------------------------------------------------------

def test_equalizing_makes_the_largest_weights_of_both_layers_alike() -> None:
    before, after = np.array([8, 1, 0.5], np.float32), np.array([0.5, 1, 2], np.float32)
    scale = equalize(Channels(after, before))[0]
    ratio = before / scale / (after * scale)
    assert ratio == pytest.approx(np.full(3, ratio[0]), rel=1e-5)


def test_smoothing_at_one_half_gives_peaks_and_weights_one_ratio() -> None:
    peak, after = np.array([80, 1, 3], np.float32), np.array([0.5, 1, 2], np.float32)
    scale = smooth(Channels(after, peak=peak))[1]
    ratio = (peak / scale) / (after * scale)
    assert ratio == pytest.approx(np.full(3, ratio[0]), rel=1e-5)


def test_folding_a_gain_leaves_none_of_it() -> None:
    gain = np.array([4, 0.25, 2], np.float32)
    (scale,) = fold_gains(Channels(np.ones(3, np.float32), gain=gain))
    assert gain / scale == pytest.approx(np.full(3, gain[0] / scale[0]), rel=1e-5)


def test_dead_channels_and_missing_numbers_get_no_scale() -> None:
    channels = Channels(np.array([0, 1, 4], np.float32), np.array([1, 0, 4], np.float32), mean=np.zeros(3, np.float32))
    for propose in PROPOSALS.values():
        for scale in propose(channels):
            assert np.isfinite(scale).all()
            assert (scale > 0).all()
    assert (equalize(channels)[0][:2] == 1).all()
    assert all((scale == 1).all() for scale in awq(channels))


# -- on graphs ---------------------------------------------------------------------------------------------------------

def uneven(model: ir.Model) -> ir.Model:
    """The same function with channels that differ by up to a thousand in size, as training likes to leave them."""
    for number, site in enumerate(list(find_sites(model.graph))):
        site.apply(np.exp(np.random.default_rng(number).normal(size=site.channels) * 2).astype(np.float32))
    return model


def quantized_db(reference: ir.Model, model: ir.Model, preset: str) -> float:
    plan, tests = make_plan(model, [ONNXRUNTIME], PRESETS[preset]), feeds(model, 16, seed=7)
    statistics = calibrate(model, plan.sources, feeds(model)) if plan.sources else {}
    graph = quantize(model, plan, statistics, CALIBRATORS["minmax"], method_named("nearest").rounding)
    return compare(list(run_onnx(reference, tests)), list(run_onnx(graph, tests)))[0].sqnr_db


@pytest.mark.parametrize(("name", "preset", "method"), [
    *((name, "w8a8", method) for name in ("convolutions", "upsampling") for method in ("equalize", "smooth", "awq")),
    *(("transformer", "w4a8", method) for method in ("fold-gains", "smooth", "awq"))])
def test_uneven_channels_are_repaired(name: str, preset: str, method: str) -> None:
    """A gain in front of a product, and weights that undo it, are what fold-gains is for."""
    reference, model = MODELS[name](), uneven(MODELS[name]())
    before = quantized_db(reference, model, preset)
    done = scale_channels(model, make_plan(model, [ONNXRUNTIME], PRESETS[preset]), [method], feeds(model), fitted=False)
    assert done
    assert all(one.error_ratio < 0.97 for one in done)
    assert quantized_db(reference, model, preset) > before + 2


def test_equalizing_needs_no_samples() -> None:
    reference, model = convolutions(), uneven(convolutions())
    before = quantized_db(reference, model, "w4")
    done = scale_channels(model, make_plan(model, [ONNXRUNTIME], PRESETS["w4"]), ["equalize"], None, fitted=False)
    assert [one.method for one in done] == ["equalize"] * len(done)
    assert done
    assert quantized_db(reference, model, "w4") > before + 5


def test_what_does_not_help_is_left_alone() -> None:
    model = convolutions()
    before = ir.to_proto(model).SerializeToString()
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w8"])
    done = scale_channels(model, plan, ["awq"], [{"x": np.ones((1, 6, 12, 10), np.float32)}] * 2, fitted=False)
    if not done:
        assert ir.to_proto(model).SerializeToString() == before
    assert all(one.error_ratio < 0.97 for one in done)


@needs_zoo
@pytest.mark.parametrize(("item", "free"), [("coco_fastestdet", {}), ("lm_stories260k", {}),
                                            ("lm_stories260k", {"input_ids": (1, "1..384")})])
def test_real_networks_stay_the_same_function(item: str, free: dict[str, tuple[int | str, ...]]) -> None:
    """Even with every site scaled by something."""
    sizes = {name: array.shape for name, array in next(iter(zoo().feeds(item))).items()}
    model = load_model(str(zoo().model(item)), inputs=free or sizes)
    canonicalize(model)
    scaled, samples = model.clone(), list(zoo().feeds(item, "calib", 2))
    sites = list(find_sites(scaled.graph))
    assert len(sites) >= 15
    for number, site in enumerate(sites):
        site.apply(np.exp(np.random.default_rng(number).normal(size=site.channels)).astype(np.float32))
    for line in compare(list(run_onnx(model, samples)), list(run_onnx(scaled, samples))):
        assert line.sqnr_db > 95
