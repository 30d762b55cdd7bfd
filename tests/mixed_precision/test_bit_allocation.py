"""4 bits by default: the layers that keep 8 bits are those that lose most, in about the bytes of the rules."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, network, normal

import edgeq_runtime
from edgeq import convert, policy
from edgeq.bundle.folder import Bundle
from edgeq.inference.reference import run_onnx
from edgeq.mixed_precision import bit_allocation
from edgeq.verification.compare import compare

SHAPE = (1, 4, 8, 6)
FEEDS = feeds(SHAPE, 12)


def lopsided() -> ir.Model:
    """In w3 each channel has one weight that is 20 times the others, which a grid of 15 steps rounds to zero. The rules
    widen the last layer, which is as large.
    """
    hard = normal(8, 16, 3, 3, seed=3)
    hard[np.arange(8), np.arange(8), 1, 1] = 20
    return network("""
        g (float[1,4,8,6] x) => (float[1,17,8,6] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1)
            r = Relu (a)
            b = Conv <pads = [1,1,1,1]> (r, w2)
            s = Relu (b)
            c = Conv <pads = [1,1,1,1]> (s, w3)
            t = Relu (c)
            y = Conv <pads = [1,1,1,1]> (t, w4)
        }""", w1=normal(96, 4, 3, 3, seed=1), w2=normal(16, 96, 3, 3, seed=2), w3=hard,
        w4=normal(17, 8, 3, 3, seed=4))


def converted(path: Path, **words: Any) -> tuple[Bundle, float]:
    model = lopsided()
    bundle = convert(model, target="onnxruntime", bits=4, activations="float", calibration=FEEDS, output=path, **words)
    with edgeq_runtime.load(bundle.path) as engine:
        (difference,) = compare(list(run_onnx(model, FEEDS)), [engine.run(dict(feed)) for feed in FEEDS])
    return bundle, difference.sqnr_db


def weight_bytes(bundle: Bundle) -> int:
    graph = ir.load(bundle.path / "model.onnx").graph
    return sum(value.const_value.nbytes for value in graph.initializers.values() if value.dtype.bitwidth <= 8)


def test_the_layer_that_loses_most_keeps_8_bits(tmp_path: Path) -> None:
    by_rule, plain = converted(tmp_path / "rule", method="sum-preserving+gptaq+refit+bias")
    bundle, measured = converted(tmp_path / "measured")
    assert "Conv_4" not in by_rule.report["quantization"]["higher_precision_layers"]
    assert bundle.report["quantization"]["higher_precision_layers"]["Conv_4"] == 8
    assert measured > plain + 3
    assert weight_bytes(bundle) <= policy.ALLOCATION_MOST_BYTES.value * weight_bytes(by_rule)
    (found,) = bundle.report["mixed_precision"]["measured"]
    assert found["score"] > found["plain"] + policy.ALLOCATION_WORTH_DB.value
    (chosen,) = (trial for trial in found["trials"] if trial["chosen"])
    assert chosen["score"] == found["score"]
    assert f"8 bits; rounded weights alone: sqnr {found['score']:.4g} dB" in (bundle.path / "report.html").read_text()


def test_rules_hold_where_nothing_better_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "ALLOCATION_WORTH_DB", replace(policy.ALLOCATION_WORTH_DB, value=200.0))
    by_rule, _ = converted(tmp_path / "rule", method="sum-preserving+gptaq+refit+bias")
    bundle, _ = converted(tmp_path / "b")
    assert not bundle.report["mixed_precision"]["layers"]
    assert (bundle.report["quantization"]["higher_precision_layers"]
            == by_rule.report["quantization"]["higher_precision_layers"])


def test_an_embedding_table_pays_for_no_other_layer(tmp_path: Path) -> None:
    """It has 8 bits in any case, and here more bytes than all else at 8 bits would add."""
    model = network("""
        g (int64[1,8] ids) => (float[1,8,10] y) {
            e = Gather (table, ids)
            a = MatMul (e, w1)
            r = Relu (a)
            b = MatMul (r, w2)
            s = Relu (b)
            y = MatMul (s, w3)
        }""", table=normal(2000, 16), w1=normal(16, 64, seed=1), w2=normal(64, 64, seed=2), w3=normal(64, 10, seed=3))
    random = np.random.default_rng(0)
    samples = [{"ids": random.integers(0, 2000, (1, 8))} for _ in range(12)]
    bundle = convert(model, target="onnxruntime", bits=4, activations="float", calibration=samples,
                     output=tmp_path / "b")
    assert "MatMul_3" not in bundle.report["quantization"]["higher_precision_layers"]


def test_what_is_too_large_to_measure_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bit_allocation, "LARGEST", 1000)
    bundle, _ = converted(tmp_path / "b")
    assert "too large to measure" in bundle.report["mixed_precision"]["measured"][0]["note"]
    assert "layers not compared: the network is too large" in (bundle.path / "report.html").read_text()
