"""--device: the target, the engines that are left out, and what cannot run there."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli.badinput import network
from click.testing import CliRunner

from edgeq.cli import main
from edgeq.cli.shared import DEVICE_NAMES
from edgeq.devices import DEVICES, targets_of
from edgeq.errors import UsageError
from edgeq.targets import TARGETS
from edgeq_runtime import Manifest, TensorSpec, load
from edgeq_runtime.manifest import FileEntry

TENSOR = TensorSpec("x", "float32", (1,))


def manifest(target: str, engine_version: str = ">=1.18", **options: Any) -> Manifest:
    return Manifest(name="x", target=target, engine=target, engine_version=engine_version, entry="model",
                    options=options, inputs=(TENSOR,), outputs=(TENSOR,), files=(FileEntry("model", 1, ""),))


def test_the_command_line_knows_every_device() -> None:
    assert tuple(DEVICES) == DEVICE_NAMES
    assert {target for device in DEVICES.values() for target in device.targets} <= set(TARGETS)


def test_a_row_that_restricts_names_its_source() -> None:
    restricted = [there for device in DEVICES.values() for there in device.targets.values()
                  if there.newest or there.excluded]
    assert restricted
    assert all(there.source.startswith("https://") for there in restricted)


def test_chooses_the_target() -> None:
    assert targets_of([], "pi4") == ("tflite",)
    assert targets_of([], "iphone") == ("coreml",)
    assert targets_of(["onnxruntime", "tflite", "onnxruntime"], "pi4") == ("onnxruntime", "tflite")
    assert targets_of(["coreml"], None) == ("coreml",)


@pytest.mark.parametrize(("asked", "device", "message"), [
    (["coreml"], "pi4", "--device pi4 does not run coreml; it runs tflite, onnxruntime"),
    ([], None, "--target, or --device with one of pi4"),
    ([], "pi9", "there is no device 'pi9'; there are pi4"),
])
def test_refuses(asked: list[str], device: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        targets_of(asked, device)


def test_leaves_out_the_release_that_dies_there() -> None:
    assert DEVICES["pi4"].fitted(manifest("onnxruntime")).engine_version == ">=1.18,!=1.21.0"
    assert DEVICES["pi5"].fitted(manifest("onnxruntime")).engine_version == ">=1.18"


def test_sets_threads_where_the_cores_are_known() -> None:
    assert DEVICES["pi5"].fitted(manifest("tflite", tflite_runtime=">=2.14")).options["threads"] == 4
    assert "threads" not in DEVICES["iphone"].fitted(manifest("coreml")).options


@pytest.mark.parametrize(("device", "given", "message"), [
    ("pi-32bit", manifest("tflite", tflite_runtime=">2.14"), "needs tflite-runtime >2.14, and 2.14.0 is the newest"),
    ("jetson-orin", manifest("onnxruntime", ">=1.24"), "needs onnxruntime >=1.24, and 1.23.2 is the newest for it"),
])
def test_refuses_what_needs_a_newer_engine(device: str, given: Manifest, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DEVICES[device].fitted(given)
    DEVICES[device].fitted(replace(given, engine_version=">=1.18", options={"tflite_runtime": ">=2.14"}))


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
