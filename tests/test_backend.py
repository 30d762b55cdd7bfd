"""A backend, a device and an engine of another package, in processes of their own; and packages that are wrong."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgeq.backend import Backend, backend_named, device_names, registered, target_names
from edgeq.errors import UsageError
from edgeq_runtime.engines import BUILT_IN, GROUP

ROOT = Path(__file__).parents[1]
TOY = ROOT / "tests/toy_backend"
SAMPLE = ROOT / "samples/digits"


def install(project: Mapping[str, Any], site: Path) -> None:
    """What pip writes of a package beside its modules."""
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {name}\n" for name in project.get("dependencies", ()))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
                                   + needs)
    (info / "entry_points.txt").write_text("".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the toy's metadata; its modules lie in TOY."""
    folder = tmp_path_factory.mktemp("site")
    install(tomllib.loads((TOY / "pyproject.toml").read_text())["project"], folder)
    return folder


def python(site: Path, *arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(TOY)))}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def bundle(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "digits.edgeq"
    said = python(site, "-m", "edgeq", "convert", str(SAMPLE / "digits.onnx"), "--device", "toy-board",
                  "--calibration", str(SAMPLE / "calibration.npz"), "--compute", "cpu", "-o", str(folder), "--json")
    assert json.loads(said[said.index("["):])[0]["target"] == "toy"
    return folder


def test_a_backend_of_another_package_converts(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["engine"], manifest["options"]) == ("toy", {"told": "cpu", "threads": 1})
    report = json.loads((bundle / "report.json").read_text())
    assert report["verification"]["engine"] == "toy 1.0, none"
    graph = onnx.load(bundle / "model.toy", format="protobuf").graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}


def test_its_engine_runs_the_bundle(bundle: Path, site: Path, tmp_path: Path) -> None:
    """By the runtime alone, against the artifact as onnx itself reads it."""
    python(site, "-m", "edgeq_runtime", str(bundle), "self-test")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (spec,) = manifest["inputs"]
    array = np.random.default_rng(0).random(spec["shape"], np.float32)
    np.save(tmp_path / "x.npy", array)
    python(site, "-c", "import sys, numpy, edgeq_runtime\n"
           "with edgeq_runtime.load(sys.argv[1]) as model:\n"
           f"    numpy.savez(sys.argv[3], **model.run({{{spec['name']!r}: numpy.load(sys.argv[2])}}))",
           str(bundle), str(tmp_path / "x.npy"), str(tmp_path / "y.npz"))
    expected = ReferenceEvaluator(onnx.load(bundle / "model.toy", format="protobuf")).run(None, {spec["name"]: array})
    with np.load(tmp_path / "y.npz") as found:
        for output, right in zip(manifest["outputs"], expected, strict=True):
            np.testing.assert_array_equal(found[output["name"]], right)


def test_its_layers_are_compared(bundle: Path, site: Path) -> None:
    said = python(site, "-m", "edgeq", "verify", str(bundle), "--layers", "--json", "--samples", "4",
                  "--reference", str(SAMPLE / "digits.onnx"), "--data", str(SAMPLE / "calibration.npz"))
    layers = json.loads(said[said.index("{"):])["layers"]
    assert len([layer for layer in layers if layer["range_used"] is not None]) > 2


def test_commands_know_it(site: Path) -> None:
    help_text = python(site, "-m", "edgeq", "convert", "--help")
    assert "toy-board" in help_text
    parts = json.loads(python(site, "-m", "edgeq", "doctor", "--json"))["parts"]
    (part,) = [part for part in parts if part["purpose"] == "the target toy"]
    assert (part["missing"], part["install"]) == (["toy-that-nobody-has"], "pip install 'edgeq-toy'")


def test_without_the_package_nobody_knows_it(bundle: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    assert "there is no target 'toy'; there are coreai, coreml, gguf, onnxruntime" in python(
        nowhere, "-c", "import edgeq.backend; edgeq.backend.backend_named('toy')", code=1)
    assert "this runtime has no engine 'toy'" in python(
        nowhere, "-c", f"import edgeq_runtime; edgeq_runtime.load({str(bundle)!r})", code=1)


# -- in this process -------------------------------------------------------------------------------------------------

def test_the_built_in_ones_are_found_by_their_folders() -> None:
    folders = (ROOT / "converters/edgeq_converters").glob("*/__init__.py")
    assert {path.parent.name for path in folders if "BACKEND" in path.read_text()} == set(target_names())
    for name in target_names():
        assert isinstance(backend_named(name), Backend)


@pytest.mark.parametrize("project", ["pyproject.toml", "runtime/pyproject.toml"])
def test_the_engines_that_the_runtime_knows_by_heart_are_those_of_its_projects(project: str) -> None:
    entries = tomllib.loads((ROOT / project).read_text())["project"]["entry-points"][GROUP]
    assert entries == {name: f"{GROUP.replace('.engines', '')}.engines.{name}" for name in BUILT_IN}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    registered.cache_clear()
    yield tmp_path
    registered.cache_clear()


@pytest.mark.parametrize(("name", "value", "message"), [
    ("odd", "nowhere_to_be_found:BACKEND", "the target 'odd' cannot be loaded from nowhere_to_be_found:BACKEND"),
    ("odd", "edgeq.scheme:PRESETS", "edgeq.scheme:PRESETS is no Backend"),
    ("odd", "edgeq_converters.tflite:BACKEND", "the backend of 'odd' calls itself 'tflite'"),
    ("tflite", "edgeq_toy:BACKEND", "two packages offer 'tflite' .*: uninstall one"),
])
def test_a_package_that_is_wrong_is_named(broken: Path, name: str, value: str, message: str) -> None:
    install({"name": "odd", "version": "1", "entry-points": {"edgeq.backends": {name: value}}}, broken)
    with pytest.raises(UsageError, match=message):
        backend_named(name)
    assert "pi4" in device_names()
