"""Free dimensions end to end: one file for all sizes, against onnxruntime on the model as it was given."""
from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from free_nets import NETS, Feed, FreeNet, encoder
from zoo_models import needs_zoo, zoo

import edgeq_runtime
from edgeq import convert, estimate
from edgeq.errors import CalibrationError, InputError, UnsupportedModel
from edgeq.inference.reference import run_onnx
from edgeq.policy import NOISE_FACTOR, NOISE_FLOOR_DB
from edgeq.verification.compare import compare
from edgeq.verification.verify_bundle import verify_bundle
from edgeq_runtime.dimensions import Range

TARGETS = ("onnxruntime", "tflite", "coreml", *(["coreai"] if find_spec("coreai") else []))
RELATIVE = 1e-5
UNROLLED = {("tflite", "LSTM"), ("tflite", "GRU"), ("coreml", "GRU"), ("coreai", "LSTM"), ("coreai", "GRU")}
# The target with the least obvious form in every run of the tests, the others where there is time.
TFLITE_FIRST = ("tflite", *(pytest.param(target, marks=pytest.mark.full) for target in TARGETS if target != "tflite"))
CASES = [pytest.param(net, target, id=f"{net}-{target}") for net in NETS for target in TARGETS
         if (target, net.name) not in UNROLLED]


def source(net: FreeNet) -> Any:
    return pytest.importorskip("torch") and net.make() if net.name.startswith("torch") else net.make()


def expected(model: Any, feeds: list[Feed]) -> list[dict[str, Any]]:
    if isinstance(model, onnx.ModelProto):
        return list(run_onnx(ir.from_proto(model), feeds))
    import torch

    return [{"y": model.module()(*map(torch.from_numpy, feed.values())).detach().numpy()} for feed in feeds]


def outputs(bundle: Path, feeds: list[Feed]) -> list[dict[str, Any]]:
    with edgeq_runtime.load(bundle) as model:
        assert model.self_test().ok
        return [model.run(feed) for feed in feeds]


def values(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By position: torch.export calls its outputs otherwise."""
    return [dict(enumerate(run.values())) for run in found]


@pytest.mark.parametrize(("net", "target"), CASES)
def test_float_at_every_size(net: FreeNet, target: str, tmp_path: Path) -> None:
    model, feeds = source(net), net.feeds()
    bundle = convert(model, target=target, bits=32, inputs=net.inputs, output=tmp_path / "b")
    for want, got in zip(values(expected(model, feeds)), values(outputs(bundle.path, feeds)), strict=True):
        for name, array in want.items():
            assert got[name].shape == array.shape
            np.testing.assert_allclose(got[name], array, rtol=0, atol=RELATIVE * np.abs(array).max())


@pytest.mark.parametrize(("net", "target"), [
    pytest.param(*case.values, id=case.id, marks=pytest.mark.full) if re.search("torch|coreai", str(case.id)) else case
    for case in CASES])
def test_eight_bits_at_every_size(net: FreeNet, target: str, tmp_path: Path) -> None:
    """As near to float as the quantized graph itself, but for ties that another kernel rounds the other way."""
    model, feeds = source(net), net.feeds()
    bundle = convert(model, target=target, calibration=feeds, inputs=net.inputs, keep_qdq=tmp_path / "graph.onnx",
                     output=tmp_path / "b")
    assert bundle.manifest.quantization["activation_bits"] == 8
    want = values(expected(model, feeds))
    graph = compare(want, values(list(run_onnx(ir.load(tmp_path / "graph.onnx"), feeds))))
    for ours, reference in zip(compare(want, values(outputs(bundle.path, feeds))), graph, strict=True):
        assert ours.noise <= NOISE_FACTOR.value * reference.noise + ours.signal * 10 ** (-NOISE_FLOOR_DB.value / 10)
        assert reference.sqnr_db > 20


def test_a_folder_of_samples_of_different_lengths(tmp_path: Path) -> None:
    net = next(net for net in NETS if net.name == "encoder")
    (tmp_path / "data").mkdir()
    for size in net.sizes:
        np.savez(tmp_path / "data" / f"{size}.npz", **net.feed(size))
    bundle = convert(encoder(), target="onnxruntime", calibration=tmp_path / "data", inputs=net.inputs,
                     output=tmp_path / "b")
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration["samples"] == len(net.sizes)


@pytest.mark.parametrize("target", TFLITE_FIRST)
def test_a_bundle_is_verified_again_and_layer_by_layer(target: str, tmp_path: Path) -> None:
    net = next(net for net in NETS if net.name == "encoder")
    onnx.save(encoder(), tmp_path / "encoder.onnx")
    bundle = convert(tmp_path / "encoder.onnx", target=target, calibration=net.feeds(), inputs={"tokens": "1..3x1..32"},
                     output=tmp_path / "b")
    checked = verify_bundle(bundle.path, net.feeds(), tmp_path / "encoder.onnx", layers=True)
    assert checked.passed
    assert checked.samples == len(net.sizes)
    assert checked.layers is not None
    assert "y" in {layer.value for layer in checked.layers.layers}
    assert min(layer.sqnr_db for layer in checked.layers.layers) > 20


@pytest.mark.parametrize("target", TFLITE_FIRST)
def test_a_quantized_graph_that_was_saved_is_still_free(target: str, tmp_path: Path) -> None:
    net = next(net for net in NETS if net.name == "encoder")
    convert(encoder(), target="onnxruntime", calibration=net.feeds(), inputs=net.inputs,
            keep_qdq=tmp_path / "graph.onnx", output=tmp_path / "first")
    again = convert(tmp_path / "graph.onnx", target=target, output=tmp_path / "again")
    assert again.manifest.inputs[0].shape == (Range("N", 1, 3), Range("T", 1, 32))


@pytest.mark.parametrize("target", TFLITE_FIRST)
def test_channels_last_images_of_several_sizes(target: str, tmp_path: Path) -> None:
    net = next(net for net in NETS if net.name == "conv, image")
    bundle = convert(net.make(), target=target, bits=32, inputs=net.inputs, layout="nhwc", output=tmp_path / "b")
    assert bundle.manifest.inputs[0].shape[3] == 3
    turned = [{"x": np.ascontiguousarray(feed["x"].transpose(0, 2, 3, 1))} for feed in net.feeds()]
    (difference,) = compare(expected(net.make(), net.feeds()), outputs(bundle.path, turned))
    assert difference.sqnr_db > 100


def test_memory_is_told_for_the_largest_size() -> None:
    def peak(shape: str) -> int:
        return int(estimate(encoder(), inputs={"tokens": shape})["bits"][0]["activation_bytes"])

    assert peak("1..3x1..32") == peak("3x32") > peak("3x31")


def test_samples_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"int64\[2,9\], the model takes int64\[N=1..3,T=1..8\]"):
        convert(encoder(), target="onnxruntime", inputs={"tokens": ("1..3", "1..8")}, output=tmp_path / "b",
                calibration=[{"tokens": np.zeros((2, 9), np.int64)}])


def test_every_target_says_which_sizes_it_takes(tmp_path: Path) -> None:
    for target in TARGETS:
        bundle = convert(encoder(), target=target, bits=32, inputs={"tokens": (1, "2..32")}, output=tmp_path / target)
        with edgeq_runtime.load(bundle.path) as model:
            for size in (1, 33):
                with pytest.raises(InputError, match=rf"'tokens' has the shape \[1, {size}\], expected tokens: int64 "
                                                     r"\[1, T=2..32\]"):
                    model.run({"tokens": np.zeros((1, size), np.int64)})
            assert model.run({"tokens": np.zeros((1, 2), np.int64)})["y"].shape == (1, 2, 16)


@pytest.mark.parametrize(("target", "name"), sorted(row for row in UNROLLED if row[0] in TARGETS))
def test_steps_that_are_written_out_need_their_number(target: str, name: str, tmp_path: Path) -> None:
    net = next(net for net in NETS if net.name == name)
    with pytest.raises(UnsupportedModel, match=rf"{name} 'node': .*needs 'T' at conversion \(give a number for it with "
                                               "--input"):
        convert(net.make(), target=target, bits=32, inputs=net.inputs, output=tmp_path / "b")


@needs_zoo
@pytest.mark.parametrize("target", [target for target in TARGETS if (target, "LSTM") not in UNROLLED])
def test_a_real_tagger_takes_sentences_of_every_length(target: str, tmp_path: Path) -> None:
    path, samples = zoo().model("g2pm_bilstm"), list(zoo().feeds("g2pm_bilstm", limit=40))
    bundle = convert(path, target=target, inputs={"char_ids": (1, "1..64")}, calibration=samples, output=tmp_path / "b")
    want, got = list(run_onnx(ir.load(path), samples)), outputs(bundle.path, samples)
    assert len({feed["char_ids"].shape for feed in samples}) > 3
    (difference,) = compare(want, got)
    assert difference.sqnr_db > 30
