"""runtime/js in node with onnxruntime-web, beside the Python runtime: the same bundle, samples and messages."""
from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import edgeq_runtime
from edgeq import convert

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "runtime/js"
DIGITS = ROOT / "samples/digits"
# Lengths around a block of 64 bytes and the 9 that end the text.
TEXTS = ["a" * length for length in (0, 1, 55, 56, 63, 64, 119, 1000)]

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not shutil.which("node") or not (PACKAGE / "node_modules/onnxruntime-web").is_dir(),
                       reason="needs node, and `npm install` in runtime/js"),
]


@pytest.fixture(scope="module")
def samples() -> Any:
    return np.load(DIGITS / "calibration.npz")["image"][:20, None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DIGITS / "digits.onnx", target="onnxruntime", bits=8, calibration=DIGITS / "calibration.npz",
                   postprocess={"kind": "classify", "softmax": True, "top": 3},
                   labels=[f"digit {k}" for k in range(10)],
                   output=tmp_path_factory.mktemp("bundles") / "digits.edgeq").path


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "digits.edgeq"))


def run(bundle: Path, samples: Any = (), address: str = "", **words: Any) -> dict[str, Any]:
    """address: where to read the bundle from, where that is not its folder."""
    given = bundle.parent / "inputs.json"
    given.write_text(json.dumps({"samples": [each.reshape(-1).tolist() for each in samples], "hashed": TEXTS,
                                 "folder": str(bundle), **words}))
    done = subprocess.run(["node", PACKAGE / "run.mjs", address or bundle, given], text=True, capture_output=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("plain_http", [False, True])
def test_it_computes_what_python_computes(bundle: Path, samples: Any, plain_http: bool) -> None:
    found = run(bundle, samples, plain_http=plain_http)
    assert found.get("error") is None, found
    assert found["self_test"]["ok"]
    with edgeq_runtime.load(bundle) as model:
        expected = [model.run({"image": each})["logits"].reshape(-1) for each in samples]
        best = model.predict(samples[0])
    np.testing.assert_array_equal([outputs[0] for outputs in found["outputs"]], expected)
    assert [(line["label"], line["index"]) for line in found["best"]] == [(line.label, line.index) for line in best]
    np.testing.assert_allclose([line["score"] for line in found["best"]], [line.score for line in best], rtol=1e-12)
    assert found["hashes"] == [hashlib.sha256(text.encode()).hexdigest() for text in TEXTS]
    assert found["overhead_ms"] < .2


def change(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)


def manifest(bundle: Path, **words: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **words}))


DAMAGES: dict[str, tuple[Any, str, str]] = {
    "a changed byte": (lambda b: change(b, "model.onnx"), "BundleError",
                       "'model.onnx' was changed (its sha256 differs)"),
    "a missing file": (lambda b: (b / "model.onnx").unlink(), "BundleError", "model.onnx: ENOENT"),
    "cut short": (lambda b: (b / "model.onnx").write_bytes(b"x"), "BundleError", "has 1 bytes instead of"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "BundleError", "manifest.json: ENOENT"),
    "newer": (lambda b: manifest(b, format=99), "BundleError", "the bundle has format 99"),
    "another engine": (lambda b: manifest(b, engine="tflite"), "EngineError", "--target onnxruntime"),
    "a newer engine": (lambda b: manifest(b, engine_version=">=99.0"), "EngineError", "the bundle needs >=99.0"),
    "a library": (lambda b: manifest(b, options={"session_options": {"session.custom_ops": "1"}}), "BundleError",
                  "not one that this runtime passes on"),
    "outside": (lambda b: manifest(b, files=[{"path": "../x", "bytes": 1, "sha256": ""}]), "BundleError",
                "does not stay inside the bundle"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("plain_http", [False, True])
def test_a_bundle_that_does_not_fit_is_refused(bundle: Path, damage: str, plain_http: bool) -> None:
    break_it, kind, text = DAMAGES[damage]
    break_it(bundle)
    found = run(bundle, plain_http=plain_http)
    assert (found.get("error"), text in found.get("message", "")) == (kind, True), found


@pytest.fixture
def server(bundle: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(bundle.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_it_reads_over_http(bundle: Path, samples: Any, server: str) -> None:
    assert run(bundle, samples[:1], f"{server}/digits.edgeq")["self_test"]["ok"]
    assert "the server answers 404" in run(bundle, address=f"{server}/nothing.edgeq")["message"]
    assert "(CORS" in run(bundle, address="http://127.0.0.1:9/digits.edgeq")["message"]


def test_outputs_that_are_too_far_off_fail_the_self_test(bundle: Path, samples: Any) -> None:
    path = bundle / "selftest.npz"
    with np.load(path) as archive:
        arrays = {key: archive[key] + 1 if key == "output/0/logits" else archive[key] for key in archive.files}
    np.savez_compressed(path, **arrays)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    for file in files:
        if file["path"] == path.name:
            file |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest(bundle, files=files)
    found = run(bundle, samples[:1])["self_test"]
    assert (found["status"], found["difference"]["output"], found["difference"]["case"]) == ("fail", "logits", 0)


def test_an_input_that_does_not_fit_is_refused(bundle: Path, samples: Any) -> None:
    found = run(bundle, [samples[0].reshape(-1)[:60]])
    assert found["error"] == "InputError"
    assert "'image' has 60 numbers" in found["message"]


def test_it_is_small() -> None:
    code = b"".join((PACKAGE / name).read_bytes() for name in ("edgeq_runtime.js", "formats.js"))
    assert len(gzip.compress(code)) < 15_000
