"""auto_pad against onnxruntime's reading of it, and Pad nodes that may move and that may not."""
from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from passes.graphs import Row, assert_close, build, check, feeds, noise, session

from edgeq.frontends import load_model
from edgeq.passes import canonicalize

X = "g (float[1,2,9,7] x) => (float[] y)"
W = {"w": noise(3, 2, 3, 4)}
PADS = {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}
CHANNELS = {"p": np.array([0, 1, 1, 2, 0, 0, 3, 0])}
CROP = {"p": np.array([0, 0, 1, -1, 0, 0, 0, 0])}

AUTO = [
    Row(f"{op} {mode} stride {s}", X + f'{{ y = {op} <auto_pad = "{mode}", strides = [{s}]{more}> (x{w}) }}', [op],
        W if w else {})
    for op, w, more in (("Conv", ", w", ""), ("MaxPool", "", ", kernel_shape = [3, 4]"))
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
    for s in ("1, 1", "2, 3")
] + [
    Row(f"ConvTranspose {mode}", X + f'{{ y = ConvTranspose <auto_pad = "{mode}", strides = [2, 3]> (x, w) }}',
        ["ConvTranspose"], {"w": noise(2, 3, 3, 4)})
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
]

MOVED = [
    Row("into Conv", X + "{ a = Pad(x, p) y = Conv(a, w) }", ["Conv"], {**W, **PADS}),
    Row("on top of its own pads",
        X + "{ a = Pad(x, p) y = Conv <pads = [1, 0, 2, 1]> (a, w) }", ["Conv"], {**W, **PADS}),
    Row("given for two axes", X + "{ a = Pad(x, p, , axes) y = Conv(a, w) }", ["Conv"],
        {**W, "p": np.array([2, 1, 0, 3]), "axes": np.array([-1, 2])}),
    Row("two readers", X + "{ a = Pad(x, p) b = Conv(a, w) c = Conv(a, v) y = Add(b, c) }", ["Conv", "Conv", "Add"],
        {**W, **PADS, "v": noise(3, 2, 3, 4, seed=5)}),
    Row("into AveragePool", X + "{ a = Pad(x, p) y = AveragePool <kernel_shape = [4, 3]> (a) }", ["AveragePool"], PADS),
    Row("into MaxPool after Relu", X + "{ r = Relu(x) a = Pad(r, p) y = MaxPool <kernel_shape = [4, 3]> (a) }",
        ["Relu", "MaxPool"], PADS),
    Row("of -inf into MaxPool", X + "{ a = Pad(x, p, v) y = MaxPool <kernel_shape = [4, 3]> (a) }", ["MaxPool"],
        {**PADS, "v": np.float32(-np.inf)}),
]

STAYED = [
    Row("of channels", X + "{ a = Pad(x, p) y = Conv(a, w) }", ["Pad", "Conv"], {**CHANNELS, "w": noise(3, 3, 3, 4)}),
    Row("of ones", X + "{ a = Pad(x, p, v) y = Conv(a, w) }", ["Pad", "Conv"], {**W, **PADS, "v": np.float32(1)}),
    Row("by reflection", X + '{ a = Pad <mode = "reflect"> (x, p) y = Conv(a, w) }', ["Pad", "Conv"], {**W, **PADS}),
    Row("that crops", X + "{ a = Pad(x, p) y = Conv(a, w) }", ["Pad", "Conv"], {**W, **CROP}),
    Row("of what MaxPool may find negative", X + "{ a = Pad(x, p) y = MaxPool <kernel_shape = [4, 3]> (a) }",
        ["Pad", "MaxPool"], PADS),
    Row("before a pool that does not count its pads",
        X + "{ a = Pad(x, p) y = AveragePool <kernel_shape = [5, 4], pads = [1, 0, 1, 0]> (a) }", ["Pad",
        "AveragePool"],
        PADS),
    Row("as wide as the window", X + "{ a = Pad(x, p) y = AveragePool <kernel_shape = [3, 3]> (a) }",
        ["Pad", "AveragePool"], PADS),
    Row("with ceil_mode",
        X + "{ a = Pad(x, p) y = AveragePool <kernel_shape = [4, 3], strides = [2, 2], ceil_mode = 1> (a) }",
        ["Pad", "AveragePool"], PADS),
]


@pytest.mark.parametrize("row", AUTO, ids=str)
def test_auto_pad_becomes_numbers(row: Row) -> None:
    model = check(row)
    assert "auto_pad" not in model.graph.node(0).attributes
    assert model.graph.node(0).attributes["pads"].value is not None


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("op", "more", "constants"), [("Conv", "", W), ("MaxPool", ", kernel_shape = [3, 4]", {})])
def test_auto_pad_with_dilation(op: str, more: str, constants: dict[str, np.ndarray], mode: str) -> None:
    """Against ONNX's own reference: onnxruntime refuses this Conv, and forgets the dilation of this MaxPool."""
    weight = ", w" if constants else ""
    given = build(X + f'{{ y = {op} <auto_pad = "{mode}", dilations = [2, 2]{more}> (x{weight}) }}', constants)
    model = load_model(given)
    canonicalize(model)
    assert "auto_pad" not in model.graph.node(0).attributes
    after = session(model)
    sample = feeds(after)
    assert_close(ReferenceEvaluator(given).run(None, sample), after.run(None, sample))


@pytest.mark.parametrize("row", MOVED, ids=str)
def test_pad_moves(row: Row) -> None:
    check(row)


@pytest.mark.parametrize("row", STAYED, ids=str)
def test_pad_stays(row: Row) -> None:
    check(row)
