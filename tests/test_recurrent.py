"""Recurrent layers from the plan to the engines: integer weights inside, and states that callers feed back."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import run_onnxruntime
from opcases.engines import BACKENDS, run
from small_graphs import network, normal

import edgeq_runtime
from edgeq.backend import graph_backends
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.graph import attribute, constant
from edgeq.quant.calibrate import CALIBRATORS
from edgeq.quant.plan import make_plan
from edgeq.quant.qdq import DEQUANTIZE
from edgeq.quant.quantize import quantize
from edgeq.scheme import PRESETS, PerChannel, QuantType

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TOLERANCE = {"onnxruntime": 1e-5, "tflite": 1e-5, "coreml": 2e-3, "coreai": 1e-5}  # of the largest number
STORED = {"coreml": "weight.bin", "coreai": "main.mlirb"}  # the file with the weights, where it is not model.*
HIDDEN, INPUTS = 24, 30
Arrays = dict[str, NDArray[Any]]


def rows(*shape: int, seed: int) -> NDArray[np.float32]:
    """Weights [D, rows, K] whose rows differ by factors of up to ten: a scale in the wrong place shows."""
    spread = 10 ** np.linspace(-1, 0, shape[0] * shape[1]).reshape(*shape[:2], 1)
    return (normal(*shape, seed=seed) * spread / np.sqrt(shape[2])).astype(np.float32)


def layer(op: str, **attributes: Any) -> ir.Model:
    """x [5,2,30] -> both directions of one layer [5,2,2,24]."""
    count = GATES[op] * HIDDEN
    extra = "".join(f", {name} = {value}" for name, value in attributes.items())
    return network(f"""g (float[5,2,{INPUTS}] x) => (float[5,2,2,{HIDDEN}] y) {{
        y = {op} <hidden_size = {HIDDEN}, direction = "bidirectional"{extra}> (x, w, r, b) }}""",
                   w=rows(2, count, INPUTS, seed=1), r=rows(2, count, HIDDEN, seed=2), b=normal(2, 2 * count, seed=3))


def quantized(model: ir.Model, bits: int) -> ir.Model:
    plan = make_plan(model, [backend.target for backend in graph_backends()], PRESETS[f"w{bits}"])
    return quantize(model, plan, {}, CALIBRATORS["mse"])


@pytest.mark.parametrize("op", GATES)
def test_both_weights_are_planned_with_a_scale_for_each_row_of_the_gates(op: str) -> None:
    plan = make_plan(layer(op), [backend.target for backend in graph_backends()], PRESETS["w8a8"])
    assert [(weight.value, weight.type) for weight in plan.weights] == [
        (name, QuantType(8, granularity=PerChannel(1))) for name in "wr"]
    targets = [backend.target for backend in graph_backends()]
    assert not make_plan(layer(op), targets, PRESETS["w8"], keep_float=[op]).weights


@pytest.mark.parametrize("bits", [8, 4])
def test_every_weight_stays_within_a_step_of_its_row(bits: int) -> None:
    model = layer("LSTM")
    for node in quantized(model, bits).graph:
        if node.op_type != DEQUANTIZE:
            continue
        assert attribute(node, "axis") == 1
        stored, scale = (constant(value) for value in node.inputs[:2])
        assert stored is not None
        assert scale is not None
        weight = constant(model.graph.initializers[str(node.inputs[0].name).removesuffix("_q")])
        assert weight is not None
        step = np.abs(weight).max(axis=(0, 2)) / (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(scale, step, rtol=1e-6)
        errors = (stored.astype(np.float32) * scale[:, None] - weight) / step[:, None]
        assert np.abs(errors).max() < 1.001
        assert np.abs(errors.sum(2)).max() < 1.501, "the errors of a row cancel, to half a step and one of the other's"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("op", GATES)
def test_engines_compute_the_quantized_layer_and_its_file_holds_integers(op: str, bits: int, backend: str,
                                                                         tmp_path: Path) -> None:
    feeds = {"x": normal(5, 2, INPUTS, seed=7)}
    sizes = []
    for name, model in (("float", layer(op)), ("integers", quantized(layer(op), bits))):
        (tmp_path / name).mkdir()
        expected = run_onnxruntime(model, feeds)["y"]
        found = run(backend, model, feeds, tmp_path / name)["y"]
        assert np.abs(found - expected).max() < TOLERANCE[backend] * np.abs(expected).max()
        (file,) = (tmp_path / name).rglob(STORED.get(backend, "model.*"))
        sizes.append(file.stat().st_size)
    weights = 2 * GATES[op] * HIDDEN * (INPUTS + HIDDEN)
    kept = {"coreml": 1.0}.get(backend, bits / 8)  # bytes; rows this short have no room for a table of 16 halves
    assert sizes[0] - sizes[1] > .6 * weights * ((2 if backend == "coreml" else 4) - kept)


@pytest.mark.parametrize("backend", ["tflite", "coreml"])
@pytest.mark.parametrize("op", GATES)
def test_layers_that_are_written_out_keep_their_integers(op: str, backend: str, tmp_path: Path) -> None:
    made, feeds = quantized(layer(op, clip=1.5), 8), {"x": normal(5, 2, INPUTS, seed=7)}
    expected, found = run_onnxruntime(made, feeds)["y"], run(backend, made, feeds, tmp_path)["y"]
    assert np.abs(found - expected).max() < TOLERANCE[backend] * np.abs(expected).max()
    (file,) = tmp_path.rglob({"coreml": "weight.bin"}.get(backend, "model.tflite"))
    stored = constant(made.graph.initializers["r_q"])
    assert stored is not None
    assert stored[0, :3].tobytes() in file.read_bytes(), "rows of the first gate, as integers"


def two_layers(more: str = "", outputs: str = "", state: str = "") -> ir.Model:
    """x [12,1,30] -> [12,1,48]."""
    hidden = 2 * HIDDEN
    return network(f"""g (float[12,1,{INPUTS}] x) => (float[12,1,{hidden}] y{outputs}) {{
        a = LSTM <hidden_size = {hidden}> (x, w, r, b)
        s = Squeeze (a, one)
        c{more} = LSTM <hidden_size = {hidden}> (s, v, q, b{state})
        y = Squeeze (c, one) }}""", w=rows(1, 4 * hidden, INPUTS, seed=1), r=rows(1, 4 * hidden, hidden, seed=2),
                   v=rows(1, 4 * hidden, hidden, seed=3), q=rows(1, 4 * hidden, hidden, seed=4),
                   b=normal(1, 8 * hidden, seed=5), one=np.array([1]), h0=np.zeros((1, 1, hidden), np.float32),
                   c0=np.full((1, 1, hidden), .5, np.float32))


def lstm_operators(model: ir.Model, folder: Path) -> tuple[int, int, int]:
    """-> (fused, all operators, bytes) of its .tflite file."""
    from ai_edge_litert import schema_py_generated as schema
    from converters.tflite_files import parsed

    (bundle,) = convert_all(model, "tflite", Options(bits=8, force=True), folder / "bundle")
    data = (bundle.path / "model.tflite").read_bytes()
    made = parsed(data)
    codes = [made.operatorCodes[one.opcodeIndex].builtinCode for one in made.subgraphs[0].operators]
    return codes.count(schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM), len(codes), len(data)


def test_tflite_has_one_operator_for_all_steps_of_an_lstm(tmp_path: Path) -> None:
    """Its variables survive a run, so the runtime resets them: the second run is the first."""
    from ai_edge_litert.interpreter import Interpreter

    fused, operators, size = lstm_operators(two_layers(), tmp_path)
    assert (fused, operators) == (2, 10)
    assert size < .4 * len(ir.to_proto(two_layers()).SerializeToString())
    feed = {"x": normal(12, 1, INPUTS, seed=6)}
    expected = run_onnxruntime(two_layers(), feed)["y"]
    with edgeq_runtime.load(tmp_path / "bundle") as model:
        first, second = model.run(feed)["y"], model.run(feed)["y"]
    assert decibel(expected, first) > 40
    np.testing.assert_array_equal(first, second)
    bare = Interpreter(str(tmp_path / "bundle" / "model.tflite"))
    bare.allocate_tensors()
    found = []
    for _ in range(2):
        bare.set_tensor(bare.get_input_details()[0]["index"], feed["x"])
        bare.invoke()
        found.append(bare.get_tensor(bare.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(first, found[0])
    assert np.abs(found[1] - first).max() > .01, "without the reset"


@pytest.mark.parametrize(("words", "fused"), [
    ({"more": ", h", "outputs": ", float[1,1,48] h"}, 2), ({"state": ", , h0"}, 2),
    ({"more": ", h, c1", "outputs": ", float[1,1,48] c1"}, 1), ({"state": ", , h0, c0"}, 1)])
def test_an_lstm_with_a_state_of_the_callers_is_written_out(words: dict[str, str], fused: int, tmp_path: Path) -> None:
    assert lstm_operators(two_layers(**words), tmp_path)[0] == fused
    feed = {"x": normal(12, 1, INPUTS, seed=6)}
    expected = run_onnxruntime(two_layers(**words), feed)
    with edgeq_runtime.load(tmp_path / "bundle") as model:
        for name, found in model.run(feed).items():
            assert decibel(expected[name], found) > 40


def test_a_large_lstm_multiplies_integers_in_onnxruntime(tmp_path: Path) -> None:
    """Against the graph as written, with everything that the op can be given; as near as 8-bit weights are to float."""
    hidden, size, bound = 160, 96, 40
    model = network(f"""g (float[7,2,{size}] x, float[2,2,{hidden}] h, float[2,2,{hidden}] c)
            => (float[7,2,2,{hidden}] y, float[2,2,{hidden}] y_h, float[2,2,{hidden}] y_c) {{
        y, y_h, y_c = LSTM <hidden_size = {hidden}, direction = "bidirectional", clip = 2.5> (x, w, r, b, l, h, c, p)
        }}""",
                    w=rows(2, 4 * hidden, size, seed=1), r=rows(2, 4 * hidden, hidden, seed=2),
                    b=normal(2, 8 * hidden, seed=3), l=np.array([7, 5], np.int32), p=normal(2, 3 * hidden, seed=4))
    feeds = {"x": normal(7, 2, size, seed=5), "h": normal(2, 2, hidden, seed=6), "c": normal(2, 2, hidden, seed=7)}
    for bits in (8, 4):
        made = quantized(model, bits)
        found = run("onnxruntime", made, feeds, tmp_path)
        assert "DynamicQuantizeLSTM" in [node.op_type for node in ir.load(tmp_path / "model.onnx").graph]
        for name, expected in run_onnxruntime(made, feeds).items():
            assert decibel(expected, found[name]) > bound


# One step of a stream: frames x go in with the states of the step before, and the new states come out.
STREAMS = {
    "LSTM": ("""g (float[1,1,40] x, float[2,1,1,32] state) => (float[1,1,6] y, float[2,1,1,32] next) {
        f = MatMul (x, front)  a = Relu (f)
        h, c = Split <axis = 0, num_outputs = 2> (state)
        h0 = Squeeze (h, zero)  c0 = Squeeze (c, zero)
        o, h1, c1 = LSTM <hidden_size = 32> (a, w, r, b, , h0, c0)
        s = Squeeze (o, one)  y = MatMul (s, back)
        h2 = Unsqueeze (h1, zero)  c2 = Unsqueeze (c1, zero)
        next = Concat <axis = 0> (h2, c2)
    }""", 4),
    "GRU": ("""g (float[1,1,40] x, float[1,1,32] state) => (float[1,1,6] y, float[1,1,32] next) {
        f = MatMul (x, front)  a = Relu (f)
        o, next = GRU <hidden_size = 32, linear_before_reset = 1> (a, w, r, b, , state)
        s = Squeeze (o, one)  y = MatMul (s, back)
    }""", 3),
}
# How near the float network five steps must stay: in float, with 8-bit weights, with 8-bit activations too.
LEAST_DB = {32: 60, 8: 35, "8 with samples": 30}


def stream(run_step: Callable[[Arrays], Mapping[str, Any]], state: tuple[int, ...]) -> NDArray[Any]:
    """y of five steps, and the last state."""
    fed, seen = np.zeros(state, np.float32), []
    for step in range(5):
        outputs = run_step({"x": normal(1, 1, 40, seed=step), "state": fed})
        fed = np.asarray(outputs["next"])
        seen.append(np.ravel(outputs["y"]))
    return np.concatenate([*seen, fed.ravel()])


@pytest.mark.parametrize("bits", LEAST_DB)
@pytest.mark.parametrize("op", STREAMS)
def test_a_state_that_is_fed_back_for_five_steps(op: str, bits: int | str, tmp_path: Path) -> None:
    text, gates = STREAMS[op]
    model = network(text, front=normal(40, 48, seed=1) / 6, w=rows(1, 32 * gates, 48, seed=2),
                    r=rows(1, 32 * gates, 32, seed=3), b=normal(1, 64 * gates, seed=4) / 2,
                    back=normal(32, 6, seed=5), zero=np.array([0]), one=np.array([1]))
    state = tuple(int(d) for d in model.graph.inputs[1].shape.numpy())  # type: ignore[union-attr]
    samples: list[Arrays] = []
    expected = stream(lambda feeds: run_onnxruntime(model, samples.append(feeds) or feeds), state)
    options = Options(bits=32 if bits == 32 else 8, calibration=samples if bits == "8 with samples" else None,
                      keep_qdq=tmp_path / "graph.onnx", verify=False)
    bundles = convert_all(ir.to_proto(model), BACKENDS, options, tmp_path)
    graph = stream(lambda feeds: run_onnxruntime(ir.load(tmp_path / "graph.onnx"), feeds), state)
    for bundle in bundles:
        with edgeq_runtime.load(bundle.path) as loaded:
            found = stream(loaded.run, state)
        assert decibel(expected, found) > LEAST_DB[bits]
        # Half precision moves a number to the next integer here and there: less than the integers themselves cost.
        least = min(55, decibel(expected, graph)) if bundle.manifest.target in ("coreml", "coreai") else 90
        assert decibel(graph, found) > least


def decibel(expected: NDArray[Any], found: NDArray[Any]) -> float:
    return float(10 * np.log10(np.square(expected).sum() / (np.square(found - expected).sum() + 1e-20)))
