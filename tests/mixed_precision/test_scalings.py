"""Channels are scaled where the outputs of the whole network gain by it, and only there."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, network, normal

import edgeq
import edgeq_runtime
from edgeq.inference.reference import run_onnx
from edgeq.mixed_precision import scalings
from edgeq.quant.scaling.accept import Scaled
from edgeq.verification.compare import compare

SHAPE = (1, 3, 10, 8)
FEEDS, OTHERS = feeds(SHAPE, 40), feeds(SHAPE, 52)[40:]


def uneven(spread: float) -> ir.Model:
    """A depthwise layer's channels differ by up to `spread`, which the layers around it undo."""
    factors = np.exp(np.linspace(0, np.log(spread), 16)).astype(np.float32)
    w1, w2 = normal(16, 3, 1, 1, seed=1), normal(16, 1, 3, 3, seed=2)
    return network("""
        g (float[1,3,10,8] x) => (float[1,6,10,8] y) {
            a = Conv (x, w1)
            r = LeakyRelu (a)
            b = Conv <group = 16, pads = [1,1,1,1]> (r, w2)
            s = LeakyRelu (b)
            y = Conv (s, w3)
        }""", w1=w1 * factors[:, None, None, None], w2=w2 / factors[::-1, None, None, None],
        w3=normal(6, 16, 1, 1, seed=3) * (factors[::-1] / factors)[:, None, None])


def converted(model: ir.Model, path: Path, data: Any = FEEDS, method: str = "auto") -> tuple[edgeq.Bundle, float]:
    """-> the bundle and its SQNR on samples that nothing has seen."""
    bundle = edgeq.convert(model, target="onnxruntime", calibration=data, method=method, output=path)
    with edgeq_runtime.load(bundle.path) as engine:
        (found,) = compare(list(run_onnx(model, OTHERS)), [engine.run(dict(feed)) for feed in OTHERS])
    return bundle, found.sqnr_db


def test_uneven_channels_are_scaled_and_nothing_computes_in_float(tmp_path: Path) -> None:
    model = uneven(300)
    new, now = converted(model, tmp_path / "new")
    old, before = converted(model, tmp_path / "old", method="auto-2026.11")
    assert now > before + 3
    assert new.report["quantization"]["scaled_channels"]
    assert not new.report["quantization"]["kept_float"]
    assert not old.report["quantization"]["scaled_channels"]


def test_what_a_network_loses_by_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scales that make channels more uneven, whatever single layers say of them."""
    def spoil(trials: Any, *arguments: Any, **words: Any) -> list[list[Scaled]]:
        factors = np.exp(np.linspace(0, 6, 16)).astype(np.float32)
        for model, _ in trials:
            for name, by in (("w1", factors[:, None, None, None]), ("w2", 1 / factors[:, None, None, None])):
                value = model.graph.initializers[name]
                assert value.const_value is not None
                value.const_value = ir.tensor(value.const_value.numpy() * by, name=name)
        return [[Scaled("r", "equalize", 0.1)] for _ in trials]

    monkeypatch.setattr("edgeq.mixed_precision.scalings.scale_alternatives", spoil)
    bundle, _ = converted(uneven(1), tmp_path / "b")
    assert not bundle.report["quantization"]["scaled_channels"]


@pytest.mark.parametrize("count", [12, 40])
def test_the_same_samples_in_another_order_give_the_same_file(count: int, tmp_path: Path) -> None:
    """Some that are held out, some that judge, and with few both halves in turn."""
    data = FEEDS[:count]
    files = [(converted(uneven(300), tmp_path / str(number), order)[0].path / "model.onnx").read_bytes()
             for number, order in enumerate((data, data[::-1], data[5:] + data[:5]))]
    assert files[0] == files[1] == files[2]


def test_few_samples_judge_nothing() -> None:
    def sizes(count: int) -> list[tuple[int, int]]:
        return [(fold.learn.count, len(fold.fidelity.feeds)) for fold in scalings._folds(uneven(1), given(count))]

    assert sizes(7) == []
    assert sizes(12) == [(6, 6), (6, 6)]
    assert sizes(40) == [(20, 16)]


def given(count: int) -> Any:
    from edgeq.quant.feeds import InputSpec
    from edgeq.quant.samples import open_samples

    return open_samples(FEEDS[:count], {"x": InputSpec("float32", SHAPE)})
