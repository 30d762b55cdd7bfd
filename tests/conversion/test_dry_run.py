"""What `edgeq inspect` says will run in float is what a conversion then reports, and what --strict refuses."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, network, normal, residual

from edgeq import convert
from edgeq.backend import graph_backends, target_named
from edgeq.conversion.dry_run import predicted_float_ops
from edgeq.conversion.inspect import describe
from edgeq.errors import FloatFallback
from edgeq.frontends import load_model
from edgeq.passes import canonicalize

SHAPE = (1, 3, 9, 7)
HEAD = "g (float[1,3,9,7] x) => (float[] y) { a = Conv <pads = [1,1,1,1]> (x, w) "
TAIL = " c = Conv (r, v) p = GlobalAveragePool (c) y = Flatten (p) }"
WEIGHTS = {"w": normal(4, 3, 3, 3, seed=1), "v": normal(5, 4, 3, 3, seed=2)}
MIDDLES: dict[str, tuple[str, dict[str, Any]]] = {
    "Relu": ("r = Relu (a)", {}),
    "Clip": ("r = Clip (a, low, high)", {"low": np.float32(0), "high": np.float32(3)}),
    "HardSwish": ("r = HardSwish (a)", {}),
    "PRelu": ("r = PRelu (a, s)", {"s": normal(4, 1, 1, seed=3)}),
    "Erf": ("r = Erf (a)", {}),
    "LayerNormalization": ("r = LayerNormalization (a, g)", {"g": normal(7, seed=4)}),
    "Softmax": ("r = Softmax (a)", {}),
    "Resize linear": ('r = Resize <mode = "linear"> (a, , k)', {"k": np.array([1, 1, 2, 2], np.float32)}),
    "ConvTranspose": ("r = ConvTranspose (a, t)", {"t": normal(4, 4, 2, 2, seed=5)}),
    "Add of what is float": ("e = Sin (a) r = Add (a, e)", {}),
}


def middle(name: str) -> ir.Model:
    text, weights = MIDDLES[name]
    return network(HEAD + text + TAIL, **WEIGHTS, **weights)


@pytest.mark.parametrize("target", [backend.target.name for backend in graph_backends()])
def test_inspect_predicts_what_convert_reports(target: str, tmp_path: Path) -> None:
    found = 0
    if target == "coreai":
        pytest.importorskip("coreai", reason="pip install 'edgeq[coreai]'")
    for name in [*MIDDLES, "residual"]:
        model = residual() if name == "residual" else middle(name)
        loaded = load_model(model)
        canonicalize(loaded)
        predicted = predicted_float_ops(loaded, [target_named(target)])[target]
        bundle = convert(model, target=target, calibration=feeds(SHAPE), output=tmp_path / name, verify=False,
                         method="nearest", calibrator="minmax")
        assert predicted == bundle.report["float_on_this_engine"], name
        found += len(predicted or [])
    assert found or target not in ("onnxruntime", "tflite"), "not one fallback: the cases say nothing"


def test_strict_refuses_what_was_predicted(tmp_path: Path) -> None:
    fallbacks = [name for name in MIDDLES if (predicted_float_ops(middle(name), [target_named("tflite")])["tflite"])]
    assert fallbacks
    for name in fallbacks:
        with pytest.raises(FloatFallback) as refused:
            convert(middle(name), target="tflite", calibration=feeds(SHAPE), output=tmp_path / name, strict=True,
                    method="nearest")
        assert list(refused.value.found) == ["tflite"]
        assert not (tmp_path / name).exists()


def test_what_cannot_be_told_is_no_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is too large to be run for a prediction, and one whose operator the target refuses."""
    monkeypatch.setattr("edgeq.external_weights.IN_MEMORY_BYTES", 1)
    assert predicted_float_ops(residual(), [target_named("tflite")]) == {"tflite": None}
    monkeypatch.undo()
    ir.save(network("g (float[2,3] x) => (float[] y, float[] z) { y = Relu (x) z = Det (x) }"
                    .replace("2,3", "3,3")), tmp_path / "net.onnx")
    found = describe(str(tmp_path / "net.onnx"), {})["targets"]
    assert {name: target["float_on_this_engine"] for name, target in found.items() if target["cannot_run"]} == {
        name: None for name, target in found.items() if target["cannot_run"]}
