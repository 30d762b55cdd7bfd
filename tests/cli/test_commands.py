"""Each command end to end on a small network: exit codes, what goes to stdout, what goes to stderr."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli.badinput import network, samples
from cli.badinput.models import computed_shape
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

import edgeq_runtime
from edgeq.backend import target_names
from edgeq.cli import main

LABELS = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with net.onnx, data.npz and labels.txt."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    np.savez("data.npz", image=samples(6))
    Path("labels.txt").write_text("\n".join(LABELS) + "\n")
    return tmp_path


def edgeq(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def reply(*arguments: str) -> Any:
    """What a command prints with --json; stdout holds nothing else."""
    return json.loads(edgeq(*arguments, "--json").stdout)


def process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-m", "edgeq", *arguments], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


# -- the command line itself -------------------------------------------------------------------------------------------

def test_version_is_the_runtimes() -> None:
    assert edgeq("--version").stdout == f"edgeq {edgeq_runtime.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_program(shell: str) -> None:
    assert "_EDGEQ_COMPLETE" in edgeq("completion", shell).stdout


def test_debug_shows_the_traceback(folder: Path) -> None:
    result = CliRunner().invoke(main, ["convert", "nothing.onnx", "--target", "tflite", "--debug"])
    assert type(result.exception).__name__ == "ModelError"


def test_an_unforeseen_error_is_a_message_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("edgeq.conversion.pipeline.convert_all", fail)
    assert edgeq("convert", "net.onnx", "--target", "tflite", code=1).stderr == (
        "error: KeyError: 'lost'\nThis is a bug in edgeq: please report what --debug prints\n")


def test_control_c_is_quiet_and_leaves_nothing(folder: Path) -> None:
    Path("slow.py").write_text("import time\ndef data():\n    print('ready', flush=True)\n    yield time.sleep(60)")
    running = process("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "slow:data")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err.strip()) == (130, "", "error: interrupted")
    assert not list(folder.glob("*.edgeq")) + list(folder.glob(".*.edgeq*"))


def test_sigterm_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    Path("slow.py").write_text("import time\ndef data():\n    import tempfile\n"
                               "    with tempfile.TemporaryDirectory():\n"
                               "        print('ready', flush=True)\n        yield time.sleep(60)")
    running = process("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "slow:data")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(0.2)
    assert list((tmp_path / "temporary").iterdir())
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 143
    assert not list(folder.glob("*.edgeq")) + list(folder.glob(".*.edgeq*"))
    assert not [left for left in (tmp_path / "temporary").iterdir() if left.is_dir()]  # onnxruntime leaves a file


def test_names_do_not_steer_the_terminal(folder: Path) -> None:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) '
                                    '{ h = Relu (x) y = Exp (h) }')
    model.graph.input[0].name = model.graph.node[0].input[0] = "\x1b]0;owned\x07"
    onnx.save(model, "odd.onnx")
    found = edgeq("inspect", "odd.onnx").stdout
    assert "\x1b" not in found
    assert r"\x1b]0;owned\x07" in found
    error = edgeq("convert", "odd.onnx", "--target", "tflite", "--input", "z:1", code=1).stderr
    assert "\x1b" not in error
    assert r"its inputs are \x1b]0;owned\x07" in error


def test_a_closed_pipe_is_quiet() -> None:
    with process("targets", "--json") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1


# -- convert -----------------------------------------------------------------------------------------------------------

def test_convert_writes_a_bundle_and_says_what_it_measured(folder: Path) -> None:
    result = edgeq("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "data.npz")
    assert "wrote net.onnxruntime.edgeq" in result.stdout
    assert "the samples that were also used for calibration: too few to hold any out" in result.stdout
    assert result.stderr == ""  # no progress where nobody looks
    report = json.loads(Path("net.onnxruntime.edgeq/report.json").read_text())
    assert f"{report['verification']['against_float'][0]['sqnr_db']:.1f}" in result.stdout


def test_convert_for_two_targets_prints_a_row_for_each(folder: Path) -> None:
    twice = ("--target", "tflite", "--target", "onnxruntime", "--target", "tflite")
    rows = reply("convert", "net.onnx", "-o", "out", *twice)
    assert [row["target"] for row in rows] == ["tflite", "onnxruntime"]
    assert [Path(row["path"]) for row in rows] == [Path("out/net.tflite.edgeq"), Path("out/net.onnxruntime.edgeq")]
    for row in rows:
        assert (Path(row["path"]) / "manifest.json").is_file()
        assert row["bytes"] == sum(file.stat().st_size for file in Path(row["path"]).glob("model*"))


def test_what_one_target_cannot_run_is_refused_for_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeq.errors import Problem, UnsupportedModel

    def refuse(*arguments: object) -> None:
        raise UnsupportedModel("tflite", [Problem("last", "Gemm", "no such operator")])

    monkeypatch.setattr("edgeq_converters.tflite.backend.emit", refuse)
    before = sorted(folder.iterdir())
    result = edgeq("convert", "net.onnx", "--target", "onnxruntime", "--target", "tflite", code=1)
    assert "Gemm 'last'" in result.stderr
    assert sorted(folder.iterdir()) == before


def test_dry_run_measures_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    rows = reply("convert", "net.onnx", "--target", "onnxruntime", "--dry-run")
    assert rows[0]["path"] is None
    assert rows[0]["verification"]["samples"] > 0
    assert sorted(folder.iterdir()) == before
    assert "nothing was written" in edgeq("convert", "net.onnx", "--target", "onnxruntime", "--dry-run").stdout


def test_no_verify_says_so(folder: Path) -> None:
    assert "not verified" in edgeq("convert", "net.onnx", "--target", "onnxruntime", "--no-verify").stdout
    assert "without verification" in edgeq("verify", "net.onnxruntime.edgeq", code=1).stderr


def test_force_replaces(folder: Path) -> None:
    first = reply("convert", "net.onnx", "--target", "onnxruntime", "--bits", "32")
    second = reply("convert", "net.onnx", "--target", "onnxruntime", "--bits", "8", "--force")
    assert first[0]["path"] == second[0]["path"]
    assert reply("inspect", second[0]["path"])["quantization"]["weight_bits"] == 8


def test_keep_qdq_saves_a_graph_that_plain_onnxruntime_runs(folder: Path) -> None:
    import onnxruntime

    edgeq("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "data.npz", "--keep-qdq", "qdq.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load("qdq.onnx").graph.node}
    session = onnxruntime.InferenceSession("qdq.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": samples(1)})[0].shape == (1, 5)


@pytest.mark.parametrize(("fallbacks", "more", "code"), [
    pytest.param(["last"], [], 3, id="a fallback"), pytest.param([], [], 0, id="none"),
    pytest.param(["last"], ["--keep-float", "last"], 0, id="a fallback that was asked for"),
])
def test_strict_writes_nothing_when_an_op_runs_in_float(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                        fallbacks: list[str], more: list[str], code: int) -> None:
    import edgeq_converters.onnxruntime.backend as backend
    from edgeq.graph import NodeNote

    real = backend.emit
    nodes = tuple(NodeNote(name, "Gemm", "no kernel") for name in fallbacks)
    monkeypatch.setattr(backend, "emit", lambda *arguments: replace(real(*arguments), float_nodes=nodes))
    result = edgeq("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "data.npz", "--strict",
                   "--keep-qdq", "qdq.onnx", *more, code=code)
    assert ("--strict" in result.stderr) == (code == 3)
    assert ("1 Gemm: no kernel (last)" in result.stdout) == (code == 3)
    assert Path("net.onnxruntime.edgeq").exists() == Path("qdq.onnx").exists() == (code == 0)


@pytest.mark.parametrize(("min_os", "bits", "code"), [(16, 16, 3), (17, 8, 0)])
def test_activations_that_ios_16_cannot_round_are_said(folder: Path, min_os: int, bits: int, code: int) -> None:
    words = ["convert", "net.onnx", "--target", "coreml", "--calibration", "data.npz", "--min-os", str(min_os)]
    result = edgeq(*words)
    written = json.loads(Path("net.coreml.edgeq/manifest.json").read_text())["quantization"]
    report = json.loads(Path("net.coreml.edgeq/report.json").read_text())["quantization"]
    assert written == report
    assert (written["weight_bits"], written["activation_bits"]) == (8, bits)
    assert ("only weights have their bits, activations are float16" in result.stdout) == (bits == 16)
    assert ("--min-os 17" in edgeq(*words, "--strict", "--force", code=code).stdout) == (code == 3)


# -- verify, run, benchmark, inspect -----------------------------------------------------------------------------------

@pytest.fixture
def bundle(folder: Path) -> str:
    edgeq("convert", "net.onnx", "--target", "onnxruntime", "--calibration", "data.npz", "--labels", "labels.txt")
    return "net.onnxruntime.edgeq"


def test_verify_repeats_the_self_test(bundle: str) -> None:
    found = reply("verify", bundle)
    assert (found["passed"], found["self_test"]["status"]) == (True, "pass")
    assert "passed" in edgeq("verify", bundle).stdout


@pytest.mark.parametrize("data", [[], ["--data", "data.npz", "--samples", "5"]])
def test_verify_measures_the_distance_from_the_float_model(bundle: str, data: list[str]) -> None:
    """Against onnxruntime on the model itself, which knows nothing of this code."""
    import onnxruntime

    found = reply("verify", bundle, "--reference", "net.onnx", *data)
    feeds = samples(6)[:found["samples"]]
    assert len(feeds) == (5 if data else 2)
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"image": feed[None]})[0] for feed in feeds]).astype(np.float64)
    with edgeq_runtime.load(bundle) as model:
        got = np.concatenate([model.run({"image": feed[None]})["scores"] for feed in feeds]).astype(np.float64)
    decibels = 10 * np.log10(np.square(expected).sum() / np.square(got - expected).sum())
    assert found["against_float"][0]["sqnr_db"] == pytest.approx(decibels, abs=0.1)  # float order of the float model
    assert 15 < decibels < 60


def test_verify_where_sizes_depend_on_the_data(folder: Path) -> None:
    onnx.save(computed_shape(), "net.onnx")
    edgeq("convert", "net.onnx", "--target", "onnxruntime")
    assert reply("verify", "net.onnxruntime.edgeq", "--reference", "net.onnx")["passed"]


def test_verify_fails_when_the_device_computes_something_else(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = edgeq_runtime.Model.run
    monkeypatch.setattr(edgeq_runtime.Model, "run",
                        lambda self, inputs: {name: array + 1 for name, array in run(self, inputs).items()})
    result = edgeq("verify", bundle, code=1)
    assert "FAILED" in result.stdout
    assert "fail on 2 samples" in result.stdout


def test_verify_refuses_the_float_model_of_another_network(bundle: str) -> None:
    other = helper.make_model(helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")], "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])]), opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(other, "other.onnx")
    assert "image" in edgeq("verify", bundle, "--reference", "other.onnx", code=1).stderr


def test_run_prints_the_best_labels(bundle: str) -> None:
    np.save("x.npy", samples(1))
    with edgeq_runtime.load(bundle) as model:
        scores = model.run({"image": samples(1)})["scores"][0]
    found = reply("run", bundle, "--input", "x.npy", "--top", "2", "-o", "out.npz")
    best = sorted(range(5), key=lambda k: -scores[k])[:2]
    assert [(line["label"], line["score"]) for line in found["outputs"]["scores"]["top"]] == [
        (LABELS[k], pytest.approx(float(scores[k]))) for k in best]
    np.testing.assert_array_equal(np.load("out.npz")["scores"][0], scores)
    assert LABELS[best[0]] in edgeq("run", bundle, "--input", "image=x.npy").stdout


def test_benchmark_prints_percentiles(bundle: str) -> None:
    found = reply("benchmark", bundle, "--runs", "3")
    assert found["runs"] == 3
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert "p90" in edgeq("benchmark", bundle, "--runs", "3").stdout


def test_inspect_a_bundle(bundle: str) -> None:
    found = reply("inspect", bundle)
    assert (found["kind"], found["target"], found["labels"]) == ("bundle", "onnxruntime", list(LABELS))
    assert "weight_bits 8" in edgeq("inspect", bundle).stdout


def test_inspect_a_model(folder: Path) -> None:
    found = reply("inspect", "net.onnx")
    assert found["ops"]["Conv"] == 1
    assert found["parameters"] == 6 * 3 * 9 + 6 + 6 * 5 + 5
    assert set(found["targets"]) == set(target_names()) - {"gguf"}  # which takes language models alone
    assert "203" in edgeq("inspect", "net.onnx").stdout


def test_a_batch_that_each_run_chooses(folder: Path) -> None:
    onnx.save(network(shape=("N", 3, 8, 8)), "free.onnx")
    edgeq("convert", "free.onnx", "--target", "onnxruntime", "--input", "image:1..4x3x8x8", "-o", "free.edgeq")
    assert "image: float32[N=1..4,3,8,8]" in edgeq("inspect", "free.edgeq").stdout
    assert "image: float32[N=1..4,3,8,8]" in edgeq("inspect", "free.onnx", "--input", "image:1..4x3x8x8").stdout
    np.save("four.npy", samples(4))
    np.save("five.npy", samples(5))
    assert reply("run", "free.edgeq", "--input", "four.npy")["outputs"]["scores"]["shape"][0] == 4
    refused = edgeq("run", "free.edgeq", "--input", "five.npy", code=1)
    assert "expected image: float32 [N=1..4, 3, 8, 8]" in refused.stderr


def test_targets_and_doctor(folder: Path) -> None:
    assert [row["name"] for row in reply("targets")] == list(target_names())
    assert "INT8 on tflite" in edgeq("targets").stdout
    assert reply("doctor")["packages"]["numpy"] == np.__version__
    assert "numpy" in edgeq("doctor").stdout
