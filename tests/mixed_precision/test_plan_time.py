"""The time of plans, predicted or taken: what is counted, where float is faster, and what --prefer makes of it."""
from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from small_graphs import feeds, network, normal, samples_of

from edgeq import policy
from edgeq.backend import EmitOptions, graph_backends, target_named
from edgeq.conversion import request
from edgeq.conversion.options import Options
from edgeq.conversion.request import read_request
from edgeq.errors import UsageError
from edgeq.mixed_precision import MixedPrecision, TrialBuilder, choose_precisions
from edgeq.mixed_precision.plan_time import OperatorCosts, plan_quantities
from edgeq.mixed_precision.price import Price
from edgeq.mixed_precision.result import Clock, Clocked
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.methods import Method
from edgeq.quant.plan import Precision
from edgeq.scheme import QuantScheme, QuantType
from edgeq_converters.onnxruntime import emit

SHAPE = (1, 5, 9, 7)
FEEDS = feeds(SHAPE, 12)
Costs = dict[str, dict[str, float]]
EVEN: Costs = {f"{kind} {precision}": {"macs": 1.0} for kind in ("conv", "depthwise")
               for precision in ("float", "int8")}
FREE: Costs = EVEN | {kind: {} for kind in ("quantize image", "dequantize image", "Sigmoid int8", "Sigmoid float")}
FIRST = 16 * 5 * 9 * 9 * 7  # multiplications of the first layer, its 6 channels in a full vector


def gated(loud: float = 1.0) -> ir.Model:
    """One channel in front of the first Sigmoid is so many times the others."""
    w1 = normal(6, 5, 3, 3, seed=1)
    w1[0] *= loud
    return network("""
        g (float[1,5,9,7] x) => (float[1,3,9,7] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1)
            s = Sigmoid (a)
            b = Conv <pads = [1,1,1,1], group = 6> (s, w2)
            t = Sigmoid (b)
            c = Conv <pads = [1,1,1,1]> (t, w3)
            u = Relu (c)
            y = Conv <pads = [1,1,1,1]> (u, w4)
        }""", w1=w1, w2=normal(6, 1, 3, 3, seed=2), w3=normal(4, 6, 3, 3, seed=3), w4=normal(3, 4, 3, 3, seed=4))


def builder_of(model: ir.Model) -> TrialBuilder:
    scheme = QuantScheme(QuantType(8), QuantType(8, signed=False, symmetric=False))
    targets = (target_named("onnxruntime"),)
    samples = samples_of(FEEDS)
    empty = TrialBuilder(model, targets, scheme, samples, {}, CALIBRATORS["minmax"], Method())
    values = [value.name for node in model.graph for value in node.outputs]
    return TrialBuilder(model, targets, scheme, samples, calibrate(model, ["x", *values], samples),
                        CALIBRATORS["minmax"], empty.method)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    def plant(costs: Costs) -> None:
        monkeypatch.setattr(OperatorCosts, "read", classmethod(lambda cls, path: cls("engine 1.0", "machine", costs)))
    return plant


@pytest.mark.parametrize("floats", [(), ("Conv_2",), ("Conv_0", "Sigmoid_1"), ("Sigmoid_3",), ("Conv_2", "Conv_4")])
def test_rounding_is_counted_where_the_engine_rounds(floats: tuple[str, ...], tmp_path: Path) -> None:
    builder = builder_of(gated())
    built = builder.build(dict.fromkeys(floats, Precision(16, False)))
    found = plan_quantities(builder.units, built.plan)
    emit(built.graph, tmp_path, EmitOptions())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 4
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    run = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["quantize image", "runs"] == run["QuantizeLinear"]
    assert found["dequantize image", "runs"] == run["DequantizeLinear"]
    assert sum(found[f"{kind} int8", "runs"] for kind in ("conv", "depthwise")) == run["QLinearConv"]
    assert found["depthwise float" if "Conv_2" in floats else "depthwise int8", "macs"] == 16 * 9 * 9 * 7


@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_is_predicted_to_be_faster(seed: int, planted: Any) -> None:
    random = np.random.default_rng(seed)
    kinds = [f"{kind} {precision}" for kind in ("conv", "depthwise", "Sigmoid") for precision in ("float", "int8")]
    planted({kind: {"numbers": float(random.uniform(0, 3))} for kind in kinds} | {
        kind: {"numbers": float(random.uniform(0, 1))} for kind in ("quantize image", "dequantize image")})
    builder = builder_of(gated())
    price = Price(builder, "balanced")
    assert builder.integers is not None
    names = list(builder.work)
    every = [frozenset(chosen) for count in range(len(names) + 1) for chosen in itertools.combinations(names, count)]
    assert price.extra(price.fastest(), frozenset()) == pytest.approx(min(price.extra(some, frozenset())
                                                                       for some in every), abs=1e-6)
    for some in every[1:]:  # step by step or at once
        first = frozenset(sorted(some)[:1])
        steps = price.extra(first, frozenset()) + price.extra(some, first)
        assert steps == pytest.approx(price.extra(some, frozenset()))


def chosen(model: ir.Model, prefer: str = "balanced", clock: Clock | None = None) -> MixedPrecision:
    return choose_precisions(builder_of(model), samples_of(FEEDS), prefer, clock=clock)


def clock_that_says(in_float: float, *own: float) -> Clock:
    """Of every trial; plain takes one millisecond."""
    return lambda graphs: {"onnxruntime": ((in_float, 1.0, *own)[:len(graphs)], Clocked("engine 1.0", "machine", 1, 9))}


@pytest.mark.parametrize(("prefer", "extra", "taken"), [
    ("balanced", .015, True), ("balanced", .05, False), ("accuracy", .05, True), ("accuracy", .15, False),
    ("speed", .015, False), ("speed", 0, True)])
def test_float_is_taken_as_far_as_it_may_cost(prefer: str, extra: float, taken: bool, planted: Any) -> None:
    """So much of all time, of the first layer, which ruins the outputs; the second would cost more."""
    builder = builder_of(gated())
    plain = plan_quantities(builder.units, builder.plan({}))
    total = sum(amount for (_, quantity), amount in plain.items() if quantity == "macs")
    planted(FREE | {f"conv {kind}": {"macs": 1 + extra * total / FIRST} for kind in ("float", "stored")} | {
        f"depthwise {kind}": {"macs": 9.0} for kind in ("float", "stored")})
    found = chosen(gated(30.0), prefer)
    assert any(given.integer_activations is False for given in found.layers.values()) == taken


def test_what_is_slower_on_integers_is_named_and_left_in_float(planted: Any) -> None:
    planted(FREE | {"depthwise int8": {"macs": 9.0}})
    found = chosen(gated())
    (measured,) = found.measured
    assert found.layers["Conv_2"].integer_activations is False
    assert found.layers["Conv_2"].reason.startswith("computes faster in float")
    assert found.layers["Conv_4"].integer_activations is None
    (sentence,) = measured.slower
    assert "On onnxruntime plain 8 bits would take" in sentence
    assert "Conv costs" in sentence


@pytest.mark.parametrize(("prefer", "in_float", "own", "taken"), [
    ("balanced", 2.0, 1.015, True), ("balanced", 2.0, 1.05, False), ("accuracy", 2.0, 1.05, True),
    ("accuracy", 2.0, 1.15, False), ("speed", 2.0, 1.015, False), ("balanced", 1.01, 1.015, False)])
@pytest.mark.parametrize("predicted", [0.0, 9.0])
def test_the_clock_decides_whatever_was_predicted(prefer: str, in_float: float, own: float, taken: bool,
                                                  predicted: float, planted: Any) -> None:
    planted(FREE | {f"conv {kind}": {"macs": 1 + predicted} for kind in ("float", "stored")})
    found = chosen(gated(30.0), prefer, clock_that_says(in_float, own))
    assert any(given.integer_activations is False for given in found.layers.values()) == taken
    (measured,) = found.measured
    assert measured.trials
    assert all(trial.beside == {"float": {"onnxruntime": in_float}, "plain": {"onnxruntime": 1.0}}
               for trial in measured.trials)


@pytest.mark.parametrize(("own", "taken"), [(0.7, True), (0.9, False)])
def test_what_was_predicted_to_be_faster_must_be(own: float, taken: bool, planted: Any) -> None:
    planted(FREE | {"depthwise int8": {"macs": 9.0}})
    found = chosen(gated(), "speed", clock_that_says(2.0, own))
    assert any(given.reason.startswith("computes faster in float") for given in found.layers.values()) == taken


def test_trials_halve_the_path_to_the_last_that_is_fast_enough(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(FREE)
    monkeypatch.setattr(policy, "FALLBACK_MOST_BYTES", replace(policy.FALLBACK_MOST_BYTES, value=9.0))

    def clock(graphs: Sequence[ir.Model]) -> dict[str, tuple[list[float], Clocked]]:
        rounded = [sum(node.op_type == "QuantizeLinear" for node in graph.graph) for graph in graphs]
        times = [9.0, 1.0, *(1 + .03 * (rounded[1] - count) for count in rounded[2:])]
        return {"onnxruntime": (times, Clocked("engine 1.0", "machine", 1, 9))}

    (measured,) = chosen(gated(30.0), "accuracy", clock).measured
    fast = [trial for trial in measured.trials if trial.times["onnxruntime"] <= policy.PREFER_ACCURACY.value]
    assert 0 < len(fast) < len(measured.trials)
    assert measured.chosen is max(fast, key=lambda trial: trial.score)
    assert [trial.float_share for trial in measured.trials] == sorted(trial.float_share for trial in measured.trials)


def test_measured_costs_are_numbers_of_known_kinds() -> None:
    for costs in (OperatorCosts.read(backend.costs) for backend in graph_backends() if backend.costs is not None):
        assert {"run", "quantize image", "dequantize image", "conv int8", "conv float"} <= costs.nanoseconds.keys()
        assert all(0 < number < 1e6 for row in costs.nanoseconds.values() for number in row.values())


@pytest.mark.parametrize(("target", "words", "message"), [
    ("onnxruntime", {"prefer": "speed", "calibration": None}, "--prefer speed weighs float layers among 8-bit activat"),
    ("onnxruntime", {"measure": True, "calibration": None}, "--measure weighs float layers among 8-bit activations"),
    ("coreml", {"measure": True}, "--measure: coreml has no engine here .* leave --measure out"),
    ("tensorrt", {"measure": True, "board": "emulated:pi4"}, "--measure: tensorrt has no engine here"),
    ("tflite", {"measure": True, "method": "nearest"}, "--measure times the float layers that --method auto tries"),
    ("tflite", {"measure": True, "metric": "sqnr", "min_metric": 30.0}, "leave it out of a search"),
    ("tflite", {"measure": True, "board": "emulated:toaster"}, "toaster"),
    ("tflite", {"board": "emulated:pi4"}, "--board emulated:pi4 is where --measure takes times")])
def test_what_cannot_be_weighed_is_refused(target: str, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_request(target, Options(**{"calibration": FEEDS, **words}))


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"tflite's engine is not installed here: pip install ai-edge-litert.*--board"):
        read_request("tflite", Options(calibration=FEEDS, measure=True))
    assert read_request("tflite", Options(calibration=FEEDS, measure=True, board="emulated:pi4")).options.board
