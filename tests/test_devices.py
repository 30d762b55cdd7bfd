"""--device: the target, the engines that are left out, and what cannot run there."""
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cli.badinput import network
from click.testing import CliRunner
from small_graphs import feeds, normal
from small_graphs import network as small_graph

from edgeq import convert
from edgeq.backend import backends, device_names
from edgeq.cli import main
from edgeq.conversion.options import Options
from edgeq.conversion.pipeline import convert_all
from edgeq.conversion.request import read_request
from edgeq.devices import device_named
from edgeq.errors import EdgeqError, UsageError
from edgeq_runtime import Manifest, TensorSpec, load
from edgeq_runtime.manifest import FileEntry

TENSOR = TensorSpec("x", "float32", (1,))


def manifest(target: str, engine_version: str = ">=1.18", **options: Any) -> Manifest:
    return Manifest(name="x", target=target, engine=target, engine_version=engine_version, entry="model",
                    options=options, inputs=(TENSOR,), outputs=(TENSOR,), files=(FileEntry("model", 1, ""),))


DEVICES = [device_named(name) for name in device_names()]


def test_every_device_prefers_one_target() -> None:
    """A row of a backend that no device answers to would never be read."""
    assert {name for backend in backends() for name in backend.devices} == {device.name for device in DEVICES}
    assert tuple(device.name for device in DEVICES) == device_names()
    for device in DEVICES:
        assert [there.preferred for there in device.targets.values()].count(True) == 1, device.name


def test_a_row_that_restricts_names_its_source() -> None:
    restricted = [there for device in DEVICES for there in device.targets.values()
                  if there.newest or there.excluded]
    assert restricted
    assert all(there.source.startswith("https://") for there in restricted)


def test_chooses_the_target() -> None:
    assert read_request([], Options(device="pi4")).target_names == ("tflite",)
    assert read_request([], Options(device="iphone")).target_names == ("coreml",)
    twice = read_request(["onnxruntime", "tflite", "onnxruntime"], Options(device="pi4"))
    assert twice.target_names == ("onnxruntime", "tflite")
    assert read_request(["coreml"], Options()).target_names == ("coreml",)
    assert read_request([], Options(device="iphone", min_os=26)).target_names == ("coreml",)
    assert read_request([], Options(device="iphone", min_os=27)).target_names == ("coreai",)


@pytest.mark.parametrize(("asked", "options", "message"), [
    (["coreml"], Options(device="pi4"), "--device pi4 does not run coreml; it runs tflite, gguf, onnxruntime"),
    ([], Options(), "--target, or --device with one of android"),
    ([], Options(device="pi9"), "there is no device 'pi9'; there are android"),
    ([], Options(device="pi-32bit", bits=4), "2.14.0, which has no 4-bit weights .*: use --bits 8"),
    (["tflite"], Options(weights="table", bits=4), "--weights table: tflite multiply .* on coreai and coreml alone"),
    (["tflite"], Options(min_os=17), "--min-os 17: tflite cannot be told; it is for coreai and coreml"),
    (["coreml"], Options(min_os=27), "--min-os 27: coreml is written for 16, 17, 18, 26; for 27 use --target coreai"),
    (["coreai"], Options(min_os=26), "--min-os 26: coreai is written for 27; for 26 use --target coreml"),
    ([], Options(device="iphone", min_os=19), "--min-os 19: there is 16, 17, 18, 26, 27"),
])
def test_refuses(asked: list[str], options: Options, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_request(asked, options)


def test_tells_all_reasons_at_once() -> None:
    with pytest.raises(UsageError) as refused:
        read_request(["tflite", "coreml"], Options(device="pi-32bit", bits=4, weights="table", min_os=17))
    for reason in ("does not run coreml", "no 4-bit weights", "tables of numbers exist on coreai and coreml alone",
                   "needs --min-os 18"):
        assert reason in str(refused.value)


def test_leaves_out_the_release_that_dies_there() -> None:
    assert device_named("pi4").fitted(manifest("onnxruntime")).engine_version == ">=1.18,!=1.21.0"
    assert device_named("pi5").fitted(manifest("onnxruntime")).engine_version == ">=1.18"


def test_sets_threads_where_the_cores_are_known() -> None:
    assert device_named("pi5").fitted(manifest("tflite", tflite_runtime=">=2.14")).options["threads"] == 4
    assert "threads" not in device_named("iphone").fitted(manifest("coreml")).options


@pytest.mark.parametrize(("device", "given", "message"), [
    ("pi-32bit", manifest("tflite", tflite_runtime=">2.14"), "needs tflite-runtime >2.14, and 2.14.0 is the newest"),
    ("jetson-orin", manifest("onnxruntime", ">=1.24"), "needs onnxruntime >=1.24, and 1.23.2 is the newest for it"),
])
def test_refuses_what_needs_a_newer_engine(device: str, given: Manifest, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        device_named(device).fitted(given)
    device_named(device).fitted(replace(given, engine_version=">=1.18", options={"tflite_runtime": ">=2.14"}))


class Watched:
    """Samples that say how many of them were read."""

    def __init__(self, samples: list[dict[str, Any]]):
        self.samples, self.read = samples, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for sample in self.samples:
            self.read += 1
            yield sample


def products() -> ir.Model:
    """The larger of two layers stays at 4 bits in a network of 4."""
    return small_graph("""
        g (float[1,64] x) => (float[1,32] y) {
            a = MatMul (x, w1)
            r = Relu (a)
            y = MatMul (r, w2)
        }""", w1=normal(64, 256, seed=1), w2=normal(256, 32, seed=2))


@pytest.mark.parametrize(("options", "message"), [
    ({"device": "jetson-orin", "target": "onnxruntime", "activations": "float"},
     "needs onnxruntime >=1.25, and 1.23.2 is the newest for it"),
    ({"device": "jetson-orin"}, "multiplies INT4 weights with INT8 activations .*add --activations float"),
    ({"device": "iphone", "min_os": 17, "weights": "block:32"}, "weights with a scale per block need iOS 18"),
])
def test_refuses_before_the_samples_are_read(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    samples = Watched(feeds((1, 64), 20))
    with pytest.raises(EdgeqError, match=message):
        convert(products(), bits=4, calibration=samples, output=tmp_path / "b", **options)
    assert samples.read <= 1
    assert not (tmp_path / "b").exists()


def test_refuses_for_all_targets_at_once(tmp_path: Path) -> None:
    """An engine that is too old, and an operator that is not there."""
    samples = Watched(feeds((1, 64), 20))
    graph = small_graph("""
        g (float[1,64] x) => (float[1,32] y, float[1,1,2,2] z) {
            a = MatMul (x, w1)
            r = Relu (a)
            y = MatMul (r, w2)
            i = Reshape (r, size)
            z = MaxRoiPool <pooled_shape = [2, 2]> (i, roi)
        }""", w1=normal(64, 256, seed=1), w2=normal(256, 32, seed=2), size=np.array([1, 1, 16, 16]),
                        roi=np.array([[0, 1, 1, 9, 9]], np.float32))
    with pytest.raises(EdgeqError) as refused:
        convert_all(graph, ["onnxruntime", "tflite"], Options(
            device="jetson-orin", bits=4, activations="float", calibration=samples), tmp_path)
    assert "needs onnxruntime >=1.25" in str(refused.value)
    assert "cannot run on tflite" in str(refused.value)
    assert samples.read <= 1


def test_a_search_gives_no_layer_fewer_bits_than_the_device_has(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"calibration": feeds((1, 64), 8), "metric": "sqnr", "max_bytes": "1kB"}
    for device, least in (("pi-32bit", 8), ("pi4", 4)):
        bundle = convert(products(), device=device, output=tmp_path / device, verify=False, **asked)
        assert min(layer["weight_bits"] for layer in bundle.report["mixed_precision"]["layers"]
                   if layer["weight_bits"]) == least


def test_convert_for_a_device(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    arguments = ["convert", str(tmp_path / "net.onnx"), "--device", "pi4", "--target", "onnxruntime",
                 "-o", str(tmp_path / "net.edgeq")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "net.edgeq" / "manifest.json").read_text())
    assert written["engine_version"].endswith(",!=1.21.0")
    assert written["options"]["threads"] == 4
    with load(tmp_path / "net.edgeq") as model:
        assert model.self_test().ok
