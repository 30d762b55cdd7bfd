"""All passes together: on the real models, and on models that are quantized already."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from passes.graphs import assert_close, assert_whole, build, feeds, noise, session
from zoo_models import MODELS, needs_zoo, zoo

from edgeq.frontends import load_model
from edgeq.graph import shape
from edgeq.passes import PASSES, canonicalize
from edgeq.passes.canonical import Pass


@needs_zoo
@pytest.mark.parametrize("name", MODELS)
def test_real_models_compute_what_they_computed(name: str) -> None:
    path = zoo().model(name)
    samples = list(zoo().feeds(name, limit=2))
    model = load_model(path, inputs={key: value.shape for key, value in samples[0].items()})
    canonicalize(model)
    for node in model.graph:
        for output in node.outputs:
            assert not output.name or shape(output) is not None
    onnx.checker.check_model(_proto(model), full_check=True)
    before, after = session(onnx.load(path)), session(model)
    names = [value.name for value in after.get_inputs()]
    for sample in samples:
        if all(sample[key].shape == samples[0][key].shape for key in names):
            assert_close(before.run(None, sample), after.run(None, {key: sample[key] for key in names}))


def _proto(model: Any) -> onnx.ModelProto:
    import onnx_ir as ir
    proto: onnx.ModelProto = ir.to_proto(model)
    return proto


@needs_zoo
@pytest.mark.parametrize("name", ["imagenet_squeezenet11", "kwt1_transformer", "coco_fastestdet"])
def test_a_second_run_finds_nothing(name: str) -> None:
    model = load_model(zoo().model(name))
    canonicalize(model)
    assert canonicalize(model) == []


NET = """g (float[1,3,12,10] x) => (float[] y) {
    p = Pad(x, pads)  c = Conv <strides = [2, 1]> (p, w, b)  a = Add(c, three)  h = Clip(a, zero, six)  m = Mul(c, h)
    s = Div(m, six)  e = Conv <auto_pad = "SAME_UPPER"> (s, v)  n = BatchNormalization(e, k, k, k, k)
    g = ReduceMean <keepdims = 0> (n, hw)  y = Gemm(g, u) }"""
CONSTANTS: Mapping[str, Any] = {
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": noise(8, 3, 3, 3), "b": noise(8), "v": noise(8, 8, 3, 3),
    "k": np.abs(noise(8)), "u": noise(8, 5), "hw": np.array([2, 3]), "three": 3.0, "six": 6.0, "zero": 0.0,
}


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left: Iterator[dict[str, Any]] = ({"x": noise(1, 3, 12, 10, seed=seed)} for seed in range(4))

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("activation", [QuantType.QUInt8, QuantType.QInt8])
def test_a_quantized_model_keeps_every_bit(tmp_path: Path, per_channel: bool, activation: QuantType) -> None:
    onnx.save(build(NET, dict(CONSTANTS)), tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "quantized.onnx", _Samples(), quant_format=QuantFormat.QDQ,
                    per_channel=per_channel, activation_type=activation)
    given = onnx.load(tmp_path / "quantized.onnx")
    model = load_model(given)
    canonicalize(model)
    assert _grids(_proto(model)) == _grids(given)
    before, after = session(given), session(model)
    for seed in range(5):
        sample = feeds(before, seed)
        for a, b in zip(before.run(None, sample), after.run(None, sample), strict=True):
            np.testing.assert_array_equal(a, b)


def _grids(model: onnx.ModelProto) -> list[tuple[str, bytes, bytes]]:
    """(operator, scale, zero point) of every Q and DQ."""
    data = {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}
    return sorted((node.op_type, data[node.input[1]], data.get(node.input[2], b"") if len(node.input) > 2 else b"")
                  for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear"))


def test_the_float_parts_of_a_quantized_model_keep_their_arithmetic() -> None:
    """One bit before a QuantizeLinear can be one integer after it, so that only exact passes run here."""
    text = """g (float[1,4,6,5] x) => (float[] y) {
        q = QuantizeLinear(x, s)  r = DequantizeLinear(q, s)  i = Identity(r)
        c = Conv(i, w)  n = BatchNormalization(c, k, k, k, k)  m = ReduceMean(n, hw)
        a = Add(m, three)  h = Clip(a, zero, six)  e = Mul(m, h)  y = Div(e, six) }"""
    model = load_model(build(text, {**CONSTANTS, "s": 0.05, "w": noise(8, 4, 3, 3)}))
    assert [applied.name for applied in canonicalize(model)] == ["remove_no_ops"]
    assert [node.op_type for node in model.graph] == [
        "QuantizeLinear", "DequantizeLinear", "Conv", "BatchNormalization", "ReduceMean", "Add", "Clip", "Mul", "Div"]


def test_the_float_model_does_change() -> None:
    """The counterpart of the test above: the same net, not quantized, is rewritten by every pass it was made for."""
    model = load_model(build(NET, dict(CONSTANTS)))
    assert {"fold_padding", "recognize_hard_swish", "explicit_padding", "fold_batch_norm", "mean_to_global_pool"} <= {
        applied.name for applied in canonicalize(model)}


def test_every_pass_says_why_it_stands_where_it_does() -> None:
    assert all(step.why and step.run.__doc__ for step in PASSES)
    assert len({step.name for step in PASSES}) == len(PASSES)




def misplaced(steps: Sequence[Pass]) -> list[tuple[str, str]]:
    """(pass, another) where its reason wants them the other way round."""
    names = [step.name for step in steps]
    found = []
    for step in steps:
        relation = ""
        for word in re.findall(r"\w+", step.why):
            relation = word if word in ("before", "after", "with") else relation
            wanted = {"before": 1, "after": -1}.get(relation)
            if word in names and wanted and (names.index(word) - names.index(step.name)) * wanted <= 0:
                found.append((step.name, word))
    return found


def test_every_pass_stands_where_its_reason_wants_it() -> None:
    assert misplaced(PASSES) == []
    assert len(misplaced(PASSES[::-1])) > 15
    swapped = [*PASSES[:2], PASSES[3], PASSES[2], *PASSES[4:]]
    assert misplaced([PASSES[1], PASSES[0], *PASSES[2:]]) == [("narrow_grids", "fold_constants")]
    assert misplaced(swapped) == []  # whose order has no reason


@pytest.mark.parametrize("damage", [
    lambda value: setattr(value, "shape", None), lambda value: setattr(value, "type", None),
    lambda value: setattr(value, "name", "x")], ids=["shape", "type", "name"])
def test_a_pass_that_loses_something_would_be_seen(damage: Callable[[Any], None]) -> None:
    model = load_model(build(NET, dict(CONSTANTS)))
    assert_whole(model)
    damage(model.graph[3].outputs[0])
    with pytest.raises(Exception, match=r".*"):
        assert_whole(model)


def test_new_nodes_take_no_name_that_the_file_has() -> None:
    """What a pass makes of the node 'a' must not become a second 'a_1', which onnxruntime refuses to load."""
    given = build("g (float[2,31,1] x) => (float[] y) { a = STFT(x, hop, window)  b = Abs(a)  c = Neg(b)  y = Exp(c) }",
                  {"hop": np.int64(5), "window": noise(9)})
    for number, node in enumerate(given.graph.node):
        node.name = f"a_{number - 1}" if number else "a"
    model = load_model(given)
    canonicalize(model)
    names = [node.name for node in model.graph]
    assert len(names) > 4
    assert len(set(names)) == len(names)
    assert {"a_0", "a_1", "a_2"} < set(names)
    feed = {"x": noise(2, 31, 1)}
    assert_close(session(given).run(None, feed), session(model).run(None, feed))
