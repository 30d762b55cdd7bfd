"""Channels rotated between linear layers: the float function stays, and outliers are spread over all of them."""
from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal, residual, samples_of
from zoo_models import needs_zoo, zoo

from edgeq.errors import UsageError
from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS
from edgeq.quant.methods import method_named
from edgeq.quant.plan import make_plan
from edgeq.quant.quantize import quantize
from edgeq.quant.scaling.rotate import rotate_channels
from edgeq.quant.scaling.rotations import hadamard, rotation
from edgeq.quant.scaling.sites import data_of, store
from edgeq.quant.scaling.streams import ROTATED, RotatableStream, find_streams
from edgeq.scheme import PRESETS
from edgeq.verification.compare import compare
from edgeq_converters.onnxruntime.target import ONNXRUNTIME

Feeds = list[dict[str, NDArray[np.float32]]]
TOKENS, WIDTH, HEADS, VOCABULARY = 7, 24, 3, 40

RMS = """
    {0}_q = Mul ({1}, {1})
    {0}_m = ReduceMean <keepdims = 1> ({0}_q, last)
    {0}_e = Add ({0}_m, eps)
    {0}_r = Sqrt ({0}_e)
    {0}_d = Div ({1}, {0}_r)
    {0}_n = Mul ({0}_d, {0}_gain)"""
LAYER = "\n    {0}_n = LayerNormalization ({1}, {0}_gain, {0}_bias)"


def transformer(norm: str = RMS, behind: str = "") -> ir.Model:
    """ids [1,7] -> embedding and position -> attention with three heads of values -> gated MLP -> logits [1,7,11].

    norm: how it normalizes before each of the three. behind: more nodes that read the residual stream s2.
    """
    body = f"""
        g (int64[1,{TOKENS}] x) => (float[1,{TOKENS},11] y) {{
            e = Gather (table, x)
            s0 = Add (e, position)
            {norm.format("a", "s0")}
            scores = MatMul (a_n, wa)
            p = Softmax (scores)
            v = MatMul (a_n, wv)
            vb = Add (v, bv)
            vh = Reshape (vb, split)
            vt = Transpose <perm = [0,2,1,3]> (vh)
            p4 = Unsqueeze (p, one)
            o = MatMul (p4, vt)
            ot = Transpose <perm = [0,2,1,3]> (o)
            oc = Reshape (ot, joined)
            oo = MatMul (oc, wo)
            s1 = Add (s0, oo)
            {norm.format("b", "s1")}
            u = MatMul (b_n, wu)
            h = MatMul (b_n, wg)
            hs = Sigmoid (h)
            m = Mul (u, hs)
            d = MatMul (m, wd)
            s2 = Add (s1, d)
            {norm.format("c", "s2")}
            y = MatMul (c_n, head)
            {behind}
        }}"""
    gains = {f"{name}_gain": np.exp(0.3 * normal(WIDTH, seed=k)) for k, name in enumerate("abc")}
    biases = {f"{name}_bias": normal(WIDTH, seed=k, scale=0.1) for k, name in enumerate("abc")} if norm == LAYER else {}
    return network(
        body, **gains, **biases, table=normal(VOCABULARY, WIDTH, seed=5), position=normal(TOKENS, WIDTH, seed=6),
        wa=normal(WIDTH, TOKENS, seed=7, scale=0.2), wv=normal(WIDTH, 12, seed=8, scale=0.2), bv=normal(12, seed=9),
        wo=normal(12, WIDTH, seed=10, scale=0.3), wu=normal(WIDTH, 20, seed=11, scale=0.2),
        wg=normal(WIDTH, 20, seed=12, scale=0.2), wd=normal(20, WIDTH, seed=13, scale=0.2),
        head=normal(WIDTH, 11, seed=14, scale=0.2), last=np.array([-1]), one=np.array([1]),
        eps=np.full((), 1e-5, np.float32), split=np.array([1, TOKENS, HEADS, 4]), joined=np.array([1, TOKENS, 12]),
        gain=np.exp(normal(WIDTH)), zero=np.array([0]), half=np.array([WIDTH // 2]), offset=np.ones((), np.float32))


def tokens(count: int, seed: int = 0) -> Feeds:
    random = np.random.default_rng(seed)
    return [{"x": random.integers(0, VOCABULARY, (1, TOKENS))} for _ in range(count)]


def rotated(model: ir.Model) -> tuple[ir.Model, list[RotatableStream]]:
    model = model.clone()
    streams = list(find_streams(model.graph))
    for seed, stream in enumerate(streams):
        stream.apply(rotation(stream.size, seed, keeps_mean=stream.keeps_mean))
    for stream in streams:
        stream.rename()
    return model, streams


def decibel(model: ir.Model, other: ir.Model, tests: Feeds) -> float:
    return min(line.sqnr_db for line in compare(list(run_onnx(model, tests)), list(run_onnx(other, tests))))


# -- the matrices ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 64, 576, 768])
def test_a_hadamard_matrix_is_orthogonal_and_of_one_magnitude(size: int) -> None:
    """576 = 72 * 8 and 768 = 12 * 64: the widths of small language models."""
    found = hadamard(size)
    assert found is not None
    np.testing.assert_allclose(found @ found.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(np.abs(found), size**-0.5)


@pytest.mark.parametrize("size", [3, 7, 28, 172])
def test_where_no_construction_has_one_there_is_none(size: int) -> None:
    assert hadamard(size) is None


@pytest.mark.parametrize("keeps_mean", [False, True])
@pytest.mark.parametrize("size", [2, 7, 24, 172])
def test_rotations_are_orthogonal_and_the_same_again(size: int, keeps_mean: bool) -> None:
    found = rotation(size, 3, keeps_mean=keeps_mean)
    np.testing.assert_allclose(found @ found.T, np.eye(size), atol=1e-12)
    assert (found == rotation(size, 3, keeps_mean=keeps_mean)).all()
    if keeps_mean:
        np.testing.assert_allclose(found.sum(axis=1), 1)
    elif size > 2:
        assert not np.allclose(found, rotation(size, 4))


# -- the function stays ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("norm", [RMS, LAYER], ids=["rms", "layer norm"])
def test_the_residual_stream_and_each_head_rotate(norm: str) -> None:
    model = transformer(norm)
    turned, streams = rotated(model)
    assert {(len(stream.products), stream.size, stream.keeps_mean) for stream in streams} == {
        (7, WIDTH, norm == LAYER), (2, 4, False)}
    assert decibel(model, turned, tests=tokens(4)) > 100
    names = {value.name or "" for node in turned.graph for value in node.outputs}
    assert {f"s1{ROTATED}", f"c_n{ROTATED}", f"vt{ROTATED}", "y", "m", "p"} < names
    for name in ("table", "position", "wv", "bv", "head", "c_gain"):
        assert not np.allclose(data_of(model.graph.initializers[name]), data_of(turned.graph.initializers[name]))


@pytest.mark.parametrize("weight", ["wa", "wu", "head", "wo", "wd"])
def test_one_weight_turned_the_wrong_way_would_be_noticed(weight: str) -> None:
    model = transformer()
    turned, streams = rotated(model)
    stream = max(streams, key=lambda stream: len(stream.products))
    matrix = rotation(WIDTH, streams.index(stream))
    value = turned.graph.initializers[weight]
    store(value, stream.rotations[value](data_of(value).astype(np.float64), matrix.T @ matrix.T))
    assert decibel(model, turned, tokens(4)) < 20


def test_gains_of_nothing_and_shared_gains_are_taken_up() -> None:
    model = transformer()
    gain = data_of(model.graph.initializers["a_gain"]).copy()
    gain[[2, 5]] = 0
    store(model.graph.initializers["a_gain"], gain)
    node = next(node for node in model.graph if node.outputs[0].name == "c_n")
    node.replace_input_with(1, model.graph.initializers["a_gain"])
    turned, streams = rotated(model)
    assert len(streams) == 2
    assert decibel(model, turned, tokens(4)) > 100


def test_how_many_tokens_there_are_may_stay_free() -> None:
    model = transformer()
    for node in model.graph:
        for value in node.outputs:
            sizes = [] if value.shape is None else list(value.shape.numpy())
            value.shape = ir.Shape(["T" if size == TOKENS else size for size in sizes])
    assert [stream.size for stream in find_streams(model.graph)] == [4, WIDTH]


@needs_zoo
def test_a_real_language_model_stays_the_same_function() -> None:
    samples = list(zoo().feeds("lm_stories260k", "calib", 1))
    model = load_model(str(zoo().model("lm_stories260k")), inputs={"input_ids": samples[0]["input_ids"].shape})
    canonicalize(model)
    turned, streams = rotated(model)
    assert sorted((stream.size, len(stream.products)) for stream in streams) == [(8, 2)] * 5 + [(64, 36)]
    assert decibel(model, turned, samples) > 95


# -- where there is no such stream -------------------------------------------------------------------------------------

@pytest.mark.parametrize("behind", [
    "z = Relu (s2)", "z = Softmax (s2)", "r = Mul (s2, gain) z = Relu (r)", "z = Slice (s2, zero, half, last)",
    "r = Mul (s2, s2) z = ReduceSum (r, one)", "r = Mul (s2, s2) z = Exp (r)", "z = Add (s2, offset)",
    "z = Concat <axis = 2> (s2, s2)", "z = Transpose <perm = [0,2,1]> (s2)", "z = Add (head, head)",
    "z = Relu (table)", "z = Relu (c_gain)", "z = Div (offset, s2)"])
def test_a_stream_that_anything_else_reads_stays(behind: str) -> None:
    """The values of the attention's heads are another stream."""
    assert [stream.size for stream in find_streams(transformer(behind=behind).graph)] == [4]


def test_a_stream_that_leaves_the_network_stays() -> None:
    model = transformer()
    model.graph.outputs.append(next(node.outputs[0] for node in model.graph if node.outputs[0].name == "s2"))
    assert [stream.size for stream in find_streams(model.graph)] == [4]


def test_what_has_no_stream_is_left_as_it_is() -> None:
    model = residual()
    before = ir.to_proto(model).SerializeToString()
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w4"])
    samples = [{"x": normal(1, 3, 9, 7, seed=k)} for k in range(4)]
    assert method_named("rotate").scale(model, plan, samples_of(samples), 4) == []
    assert ir.to_proto(model).SerializeToString() == before


# -- rotated where it helps --------------------------------------------------------------------------------------------

def with_outliers(model: ir.Model, factor: float = 30) -> ir.Model:
    """The same function; every normalization makes two channels so much larger, and the weights behind smaller."""
    stream = max(find_streams(model.graph), key=lambda stream: len(stream.products))
    for number, gain in enumerate(stream.gains):
        channels = np.ones(WIDTH, np.float32)
        channels[[number, 11 + number]] = factor
        for weight, turn in stream.rotations.items():
            if turn.times is gain:
                store(weight, data_of(weight) / channels[:, None])
        store(gain, data_of(gain) * channels)
    return model


def quantized_db(reference: ir.Model, text: str) -> float:
    model, method, samples = reference.clone(), method_named(text), tokens(24)
    method.scale(model, make_plan(model, [ONNXRUNTIME], PRESETS["w4"]), samples_of(samples), 4)
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w4"])
    fit = method.fit(samples_of(samples), 4)
    graph = quantize(model, plan, {}, CALIBRATORS["minmax"], method.rounding, fit, method.search)
    return decibel(reference, graph, tokens(16, seed=7))


@pytest.mark.parametrize("others", ["nearest", "gptq+descent"])
def test_outliers_are_spread(others: str) -> None:
    model = with_outliers(transformer())
    assert decibel(transformer(), model, tokens(2)) > 100
    assert quantized_db(model, f"rotate+{others}") > quantized_db(model, others) + 3


def test_a_stream_is_one_decision_and_the_report_lists_it() -> None:
    model = with_outliers(transformer())
    before = model.clone()
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w4"])
    (done,) = [one for one in rotate_channels(model, plan, tokens(24), fitted=False) if one.place != "MatMul_10"]
    assert done.method == "rotate"
    assert done.error_ratio < 0.7
    assert decibel(before, model, tokens(4)) > 100


def test_what_does_not_help_is_not_rotated() -> None:
    """Weights that lie on their grid lose nothing; turned, they would."""
    model = transformer()
    for name, value in model.graph.initializers.items():
        if name.startswith("w") or name == "head":
            data = np.clip(np.rint(data_of(value) * 30), -7, 7)
            data[0], data[-1] = 7, -7
            store(value, data / 32)
    before = ir.to_proto(model).SerializeToString()
    assert rotate_channels(model, make_plan(model, [ONNXRUNTIME], PRESETS["w4"]), tokens(24), fitted=False) == []
    assert ir.to_proto(model).SerializeToString() == before


def test_rotating_needs_samples() -> None:
    with pytest.raises(UsageError, match="rotate needs real samples: add --calibration"):
        method_named("rotate").scale(transformer(), make_plan(transformer(), [ONNXRUNTIME], PRESETS["w4"]), None, 4)
