"""Streaming models: which inputs are outputs of the step before, and what becomes of 8 bits when they are fed back."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal

import edgeq
import edgeq_runtime
from edgeq.conversion.metadata import input_specs
from edgeq.errors import EdgeqError
from edgeq.quant.recordings import roll_out
from edgeq.quant.samples import open_samples
from edgeq.state import check_state, loop_nodes, mark_state, state_pairs

STEPS, HELD_OUT = 300, 60


def averaging() -> ir.Model:
    """x [1,16] -> layer -> average over about 50 steps, which is the state -> layer -> y [1,8]."""
    return network("""
        g (float[1,16] x, float[1,32] state) => (float[1,8] y, float[1,32] state_out) {
            a = Gemm <transB = 1> (x, w1, b1)
            r = Relu (a)
            kept = Mul (state, keep)
            new = Mul (r, take)
            state_out = Add (kept, new)
            y = Gemm <transB = 1> (state_out, w2, b2)
        }""", w1=normal(32, 16, seed=1, scale=.3), b1=normal(32, seed=2), w2=normal(8, 32, seed=3, scale=.3),
        b2=normal(8, seed=4), keep=np.float32([.98]), take=np.float32([.02]))


def recording(seed: int) -> NDArray[np.float32]:
    """[steps, 1, 16], which changes slowly beside its noise."""
    slow = np.sin(np.arange(STEPS)[:, None] / 8 + np.arange(16))
    return (normal(STEPS, 16, seed=seed) + slow).astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streaming") / "averaging.onnx"
    ir.save(averaging(), path)
    return path


@pytest.fixture(scope="module")
def bundles(model: Path) -> dict[str, edgeq.Bundle]:
    made = edgeq.convert(model, target=["onnxruntime", "tflite"], calibration={"x": recording(0)},
                         output=model.with_suffix(""))
    return {bundle.manifest.target: bundle for bundle in made}


def rolled(path: Path, xs: NDArray[np.float32], state: NDArray[np.float32]) -> Iterator[dict[str, NDArray[Any]]]:
    """By plain onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for x in xs:
        found = dict(zip(names, session.run(None, {"x": x, "state": state}), strict=True))
        state = found["state_out"]
        yield found


def sqnr_db(expected: list[Mapping[str, Any]], got: list[Mapping[str, Any]], name: str) -> float:
    real, found = (np.array([outputs[name] for outputs in each], np.float64) for each in (expected, got))
    return float(10 * np.log10((real ** 2).sum() / ((real - found) ** 2).sum()))


ZEROS = np.zeros((1, 32), np.float32)


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_a_state_that_would_drift_stays_float(bundles: dict[str, edgeq.Bundle], model: Path, target: str) -> None:
    """On integers, an error that no single step shows makes 24 dB of it within 300 steps."""
    bundle, xs = bundles[target], recording(1)
    assert bundle.manifest.state == {"state": "state_out"}
    assert {"Mul", "Add"} <= {kept["op"] for kept in bundle.report["quantization"]["kept_float"]}
    with edgeq_runtime.load(bundle.path) as opened:
        got = [opened.run({"x": x}) for x in xs]
        assert opened.self_test().status == "pass"
    assert sqnr_db(list(rolled(model, xs, ZEROS)), got, "y") > 40


def test_the_figure_is_over_time(bundles: dict[str, edgeq.Bundle], model: Path) -> None:
    """That of the artifact fed back by hand, over the held-out end of the recording, from the float state before it."""
    xs, bundle = recording(0), bundles["onnxruntime"]
    expected = list(rolled(model, xs, ZEROS))
    begin = expected[-HELD_OUT - 1]["state_out"]
    got = list(rolled(bundle.path / bundle.manifest.entry, xs[-HELD_OUT:], begin))
    for found in bundle.report["verification"]["against_float"]:
        assert found["sqnr_db"] == pytest.approx(sqnr_db(expected[-HELD_OUT:], got, found["output"]), abs=.01)


def test_eval_feeds_back(bundles: dict[str, edgeq.Bundle], model: Path) -> None:
    """Labels are what the float model says step by step; without its state it says other things."""
    xs = recording(2)
    labels = np.array([np.argmax(outputs["y"]) for outputs in rolled(model, xs, ZEROS)])
    found = edgeq.evaluate(bundles["onnxruntime"], data={"x": xs, "labels": labels}, metric="top1", reference=model)
    assert found.float_score == 100
    assert found.score > 97
    alone = [np.argmax(next(rolled(model, x[None], ZEROS))["y"]) for x in xs]
    assert np.mean(alone == labels) < .9


@pytest.mark.parametrize("form", ["rows", "begun", "batches", "recorded"])
def test_every_form_of_samples_is_rolled_out(model: Path, form: str, tmp_path: Path) -> None:
    xs, begin = recording(3), normal(1, 32, seed=9)
    parts = {"rows": [(xs, ZEROS)], "begun": [(xs, begin)], "batches": [(xs[:100], ZEROS), (xs[100:], ZEROS)],
             "recorded": [(xs[:100], begin), (xs[100:], ZEROS)]}[form]
    runs = [list(rolled(model, part, state)) for part, state in parts]
    before = [[state, *(outputs["state_out"] for outputs in run[:-1])]
              for (_, state), run in zip(parts, runs, strict=True)]
    np.savez(tmp_path / "begun.npz", x=xs[:, 0], state=begin)
    data = {"rows": {"x": xs}, "begun": tmp_path / "begun.npz", "batches": [part[:, 0] for part, _ in parts],
            "recorded": [{"x": x, "state": state} for (part, _), states in zip(parts, before, strict=True)
                         for x, state in zip(part, states, strict=True)]}[form]
    net = averaging()
    mark_state(net)
    samples = roll_out(net, open_samples(data, input_specs(net)))
    for feed, state in zip(samples, np.concatenate(before), strict=True):
        np.testing.assert_allclose(feed["state"], state[None] if state.ndim == 1 else state, atol=1e-5)
    assert sum("state" in feed for feed in samples.running()) == len(parts)
    held = samples.hold_out()[1]
    assert held is not None
    assert held.count == HELD_OUT
    steps = [feed["x"].tobytes() for feed in samples]
    places = [steps.index(feed["x"].tobytes()) for feed in held]
    assert places == list(range(places[0], places[0] + HELD_OUT))  # a stretch of time, not samples from everywhere


@pytest.mark.parametrize(("before", "after", "found"), [
    ("state", "stateN", True), ("h0", "hn", True), ("c_in", "c_out", True), ("cache_1", "new_cache_1", True),
    ("conv_cache", "conv_cache_out", True), ("past_conv.0", "present_conv.0", True), ("prev_frame", "next_frame", True),
    ("hidden", "76", True), ("state", "getitem_1", True),  # by order and type: the last outputs
    ("image_in", "image_out", False), ("left", "right", False)])
def test_what_names_say(before: str, after: str, found: bool) -> None:
    net = averaging()
    net.graph.inputs[1].name, net.graph.outputs[1].name = before, after
    mark_state(net)
    check_state(net)
    assert state_pairs(net) == ({before: after} if found else {})


@pytest.mark.parametrize(("words", "message"), [
    ({"state": "memory=state_out"}, "--state memory=state_out: give an input and the output that it is in the next "
                                    "step; the inputs are x, state, the outputs y, state_out"),
    ({"state": "state=y"}, r"'state' is float32\[1,32\] and 'y' float32\[1,8\]; what is fed back has one type"),
    ({"state": ["state=state_out", "x=state_out"]}, "each once"),
    ({"state": "state"}, "--state state: give INPUT=OUTPUT for each state, or none"),
    ({"calibration_cache": "cache.npz"}, "--calibration-cache goes on where samples ended"),
])
def test_bad_states_are_one_message(model: Path, words: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeqError, match=message):
        edgeq.convert(model, target="onnxruntime", calibration={"x": recording(0)}, output=tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_a_free_size_is_no_state(tmp_path: Path) -> None:
    """What grows cannot be fed back; said, it is refused, and found, it is none."""
    net = network("""
        g (float[1,4] x, float[n,4] cache) => (float[1,4] y, float[m,4] cache_out) {
            cache_out = Concat <axis = 0> (cache, x)
            y = ReduceMean <keepdims = 1> (cache_out, axes)
        }""", axes=np.array([0]))
    ir.save(net, tmp_path / "grows.onnx")
    words = {"target": "onnxruntime", "bits": 32, "inputs": {"cache": "1..8x4"}, "output": tmp_path / "out"}
    assert edgeq.convert(tmp_path / "grows.onnx", **words).manifest.state == {}
    with pytest.raises(EdgeqError, match="what is fed back has one type and one fixed shape"):
        edgeq.convert(tmp_path / "grows.onnx", force=True, state="cache=cache_out", **words)


def test_prev_x_is_what_next_x_was() -> None:
    net = network("""
        g (float[1,4] x, float[1,4] prev_x) => (float[1,4] y, float[1,4] next_x) {
            y = Sub (x, prev_x)
            next_x = Identity (x)
        }""")
    mark_state(net)
    assert state_pairs(net) == {"prev_x": "next_x"}


def test_a_loop_is_what_leads_a_state_to_itself() -> None:
    """An LSTM's two states lead to each other; the layer that reads a cache of frames leads to no frame."""
    net = network("""
        g (float[1,4] x, float[1,4] h, float[1,4] c, float[2,4] cache)
        => (float[1,4] y, float[1,4] h_out, float[1,4] c_out, float[2,4] cache_out) {
            frames = Concat <axis = 0> (cache, x)
            cache_out = Slice (frames, one, three, axis)
            seen = ReduceMean <keepdims = 1> (frames, axis)
            both = Add (seen, h)
            gate = Sigmoid (both)
            c_out = Mul (gate, c)
            h_out = Tanh (c_out)
            y = Relu (h_out)
        }""", one=np.array([1]), three=np.array([3]), axis=np.array([0]))
    mark_state(net)
    assert [node.op_type for node in loop_nodes(net)] == ["Concat", "Slice", "Add", "Sigmoid", "Mul", "Tanh"]


def test_the_runtime_keeps_a_state(model: Path, tmp_path: Path) -> None:
    xs = recording(4)[:5]
    expected = list(rolled(model, xs, ZEROS))
    bundle = edgeq.convert(model, target="onnxruntime", bits=32, output=tmp_path / "float")
    with edgeq_runtime.load(bundle.path) as opened:
        buffer = {"state_out": np.empty((1, 32), np.float32)}  # written anew by every run
        for _ in range(2):
            for x, outputs in zip(xs, expected, strict=True):
                np.testing.assert_allclose(opened.run({"x": x}, out=buffer)["y"], outputs["y"], rtol=1e-5, atol=1e-5)
            opened.reset()
        np.testing.assert_allclose(opened.predict(xs[0])["y"], expected[0]["y"], rtol=1e-5, atol=1e-5)
        given = opened.run({"x": xs[1], "state": expected[0]["state_out"]})
        np.testing.assert_allclose(given["y"], expected[1]["y"], rtol=1e-5, atol=1e-5)


def test_without_state_nothing_is_kept(model: Path, tmp_path: Path) -> None:
    bundle = edgeq.convert(model, target="onnxruntime", bits=32, state="none", output=tmp_path / "float")
    assert bundle.manifest.state == {}
    with edgeq_runtime.load(bundle.path) as opened, pytest.raises(edgeq_runtime.InputError, match="no input 'state'"):
        opened.run({"x": recording(0)[0]})
