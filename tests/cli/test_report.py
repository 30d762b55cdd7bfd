"""What the reports say: numbers computed by hand, and texts that hold what the data holds."""
from __future__ import annotations

import io
import json
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cli.badinput import network, samples
from cli.badinput.models import computed_shape
from onnx import TensorProto, helper
from rich.console import Console

from edgeq.conversion import words
from edgeq.conversion.inspect import describe, peak_activation_bytes, weight_bytes
from edgeq.errors import InputError, MissingExtra, UsageError
from edgeq.frontends import load_model
from edgeq.mixed_precision.result import Measurement, MixedPrecision, Trial
from edgeq.quant.plan import Precision
from edgeq.report import boards, doctor, text
from edgeq.report.console import print_rows, size, table
from edgeq.report.mixed_precision import precision_sentence
from edgeq.scheme import PRESETS
from edgeq.verification.run_bundle import read_inputs, summary
from edgeq_runtime.manifest import TensorSpec
from edgeq_runtime.preprocess import Preprocess, imagenet

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

# -- describe ----------------------------------------------------------------------------------------------------------


def graph(nodes: list[onnx.NodeProto], *outputs: str) -> ir.Graph:
    """A float graph from x [4,10] (160 bytes)."""
    made = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 10])],
                             [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs])
    return load_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)).graph


@pytest.mark.parametrize(("nodes", "outputs", "peak"), [
    pytest.param([("Relu", "x", "a"), ("Neg", "a", "y")], ["y"], 320, id="chain: one in, one out"),
    pytest.param([("Relu", "x", "a"), ("Neg", "a", "b"), ("Add", "b x", "y")], ["y"], 480, id="x lives until the Add"),
    pytest.param([("Relu", "x", "a"), ("Neg", "x", "b"), ("Abs", "b", "y")], ["a", "y"], 480, id="outputs stay"),
    pytest.param([("Concat", "x x x", "a"), ("ReduceSum", "a", "y")], ["y"], 640, id="sizes differ: 160 + 480"),
    pytest.param([("Relu", "x", "unread"), ("Neg", "x", "y")], ["y"], 320, id="what nobody reads dies at once"),
])
def test_peak_memory_by_hand(nodes: list[tuple[str, str, str]], outputs: list[str], peak: int) -> None:
    made = [helper.make_node(op, inputs.split(), [output], **({"axis": 0} if op == "Concat" else {}))
            for op, inputs, output in nodes]
    assert peak_activation_bytes(graph(made, *outputs)) == peak


def test_weight_bytes_by_hand() -> None:
    """Conv [6,3,3,3] and Gemm [6,5] are weights, two biases of 6 and 5 stay float."""
    model = load_model(network())
    biases = 4 * (6 + 5)
    assert weight_bytes(model, PRESETS["float"]) == 4 * (162 + 30) + biases
    assert weight_bytes(model, PRESETS["w8"]) == 162 + 4 * 6 + 30 + 4 * 5 + biases
    assert weight_bytes(model, PRESETS["w4"]) == 81 + 4 * 6 + 15 + 4 * 5 + biases


def test_describe_names_what_a_target_cannot_run(tmp_path: Path) -> None:
    """An op that no backend has, between ops that all have."""
    node = helper.make_node("Magic", ["relu"], ["features"], "odd", domain="com.example")
    model = network(nodes=[node])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 6, 8, 8]))
    onnx.save(model, tmp_path / "net.onnx")
    found = describe(str(tmp_path / "net.onnx"), {})
    installed = [target for target in found["targets"].values() if target["missing"] is None]
    assert len(installed) >= 4
    for target in installed:
        assert [(problem["node"], problem["op"]) for problem in target["cannot_run"]] == [("odd", "Magic")]


def test_describe_sizes_that_depend_on_the_data(tmp_path: Path) -> None:
    """onnxruntime runs what the fixed tensors of the others cannot hold."""
    onnx.save(computed_shape(), tmp_path / "net.onnx")
    found = describe(str(tmp_path / "net.onnx"), {})["targets"]
    assert [problem["node"] for problem in found["tflite"]["cannot_run"]] == ["places"]
    assert found["onnxruntime"]["cannot_run"] == []


def test_describe_a_target_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: object) -> None:
        raise MissingExtra("TFLite conversion", "tflite")

    onnx.save(network(), tmp_path / "net.onnx")
    monkeypatch.setattr("edgeq_converters.tflite.backend.emit", absent)
    found = describe(str(tmp_path / "net.onnx"), {})["targets"]
    assert "pip install 'edgeq[tflite]'" in found["tflite"]["missing"]
    assert found["onnxruntime"]["missing"] is None


def test_describe_says_why_a_node_stays_float(tmp_path: Path) -> None:
    onnx.save(network(nodes=[helper.make_node("Erf", ["relu"], ["features"], "odd")]), tmp_path / "net.onnx")
    found = describe(str(tmp_path / "net.onnx"), {})["targets"]["tflite"]["stays_float"]
    assert {"node": "odd", "op": "Erf", "reason": "tflite has no integer kernel for it"} in found


# -- the small files of convert ----------------------------------------------------------------------------------------

def test_read_preprocess(tmp_path: Path) -> None:
    file = tmp_path / "steps.json"
    file.write_text(json.dumps({"resize": [8, 8], "scale": 0.5}))
    assert words.preprocess(None) is None
    assert words.preprocess("imagenet") == imagenet()
    assert words.preprocess(str(file)) == Preprocess(resize=(8, 8), scale=0.5)
    file.write_text("[1]")
    with pytest.raises(UsageError, match=r"steps\.json"):
        words.preprocess(str(file))


def test_read_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ant\nzebra finch\n\ncat", encoding="utf-8")
    assert words.labels(tmp_path / "labels.txt") == ("ant", "zebra finch", "", "cat")
    assert words.labels(None) == ()


# -- run ---------------------------------------------------------------------------------------------------------------

def manifest(*names: str, preprocessing: dict[str, Any] | None = None) -> Any:
    return SimpleNamespace(inputs=[TensorSpec(name, "float32", (1, 3, 8, 8)) for name in names],
                           preprocessing=preprocessing, postprocessing=None)


def test_read_inputs_of_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = samples(1)
    np.save("x.npy", x)
    np.save("a=b.npy", x)
    np.savez("both.npz", x=x, y=x + 1)
    for given in (["x.npy"], ["x=x.npy"], ["a=b.npy"], ["x=a=b.npy"]):
        found = read_inputs(manifest("x"), given)
        assert list(found) == ["x"]
        np.testing.assert_array_equal(found["x"], x)
    assert set(read_inputs(manifest("x", "y"), ["both.npz"])) == {"x", "y"}
    for given, message in ((["x.npy"], r"inputs x, y.*NAME=x\.npy"), (["x=x.npy", "both.npz"], "'x' was given twice")):
        with pytest.raises(InputError, match=message):
            read_inputs(manifest("x", "y"), given)


def test_an_image_goes_through_the_bundles_preprocessing(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_inputs(manifest("x", preprocessing={"scale": 0.5}), [str(tmp_path / "a.png")])
    np.testing.assert_array_equal(found["x"], pixels.transpose(2, 0, 1)[None] * np.float32(0.5))
    with pytest.raises(InputError, match=r"a\.png.*--preprocess"):
        read_inputs(manifest("x"), [str(tmp_path / "a.png")])


def test_labels_only_where_there_is_one_score_for_each() -> None:
    scores = np.array([[0.25, 3.0, -1.0]], np.float32)
    assert summary(scores, ("ant", "bee", "cat"), 2)["top"] == [
        {"label": "bee", "index": 1, "score": 3.0}, {"label": "ant", "index": 0, "score": 0.25}]
    for labels in ((), ("ant", "bee")):
        found = summary(scores, labels, 2)
        assert "top" not in found
        assert (found["values"], found["min"], found["max"]) == ([0.25, 3.0, -1.0], -1.0, 3.0)


# -- doctor ------------------------------------------------------------------------------------------------------------

def test_the_doctor_knows_the_packages_of_pyproject() -> None:
    import re

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[ ]", text)[0] for text in requirements}

    project = tomllib.loads(PYPROJECT.read_text())["project"]
    found = doctor.examine()
    extras = {extra: names(given) for extra, given in project["optional-dependencies"].items() if extra != "all"}
    assert {part["extra"] for part in found["parts"]} == {"", *extras}
    assert set(found["packages"]) == names(project["dependencies"]).union(*extras.values())
    assert [part["purpose"] for part in found["parts"] if part["purpose"] == part["extra"]] == []  # nobody says what


def test_the_doctor_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    real = doctor.version

    def version(name: str) -> str:
        if name == "coremltools":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    text.diagnosis(doctor.examine())
    shown = capsys.readouterr().out
    assert "the target coreml: pip install 'edgeq[coreml]'   (missing: coremltools)" in shown
    assert "the target tflite: ready" in shown


# -- text --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("count", "shown"), [
    (None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1234567, "1.23 MB"), (250_000, "250 kB"),
    (999_499, "999 kB"), (999_500, "1.00 MB"),
])
def test_sizes_are_decimal(count: int | None, shown: str) -> None:
    assert size(count) == shown


def test_reasons_are_grouped_and_counted() -> None:
    nodes = [{"node": f"n{k}", "op": "Exp" if k == 3 else "Softmax", "reason": "tail"} for k in range(5)]
    nodes.append({"node": "[odd]", "op": "Resize", "reason": "cubic"})
    nodes.append({"node": "long" * 100, "op": "Pad", "reason": "why"})
    assert text.reasons(nodes) == ["4 Softmax, 1 Exp: tail (n0, n1, n2, ...)", "1 Resize: cubic ([odd])",
                                   f"1 Pad: why ({'long' * 14}l...)"]


@pytest.mark.parametrize(("width", "expected"), [
    (36, ["board    engine              seconds", "kitchen  onnxruntime 1.32.0      3.1",
          "hall     -                         -"]),
    (35, ["kitchen", "  engine   onnxruntime 1.32.0", "  seconds  3.1", "hall"]),
])
def test_a_table_for_a_narrow_terminal(width: int, expected: list[str]) -> None:
    found = table("board", "engine", ">seconds")
    found.add_row("kitchen", "onnxruntime 1.32.0", "3.1")
    found.add_row("hall", "-", "-")
    printed = io.StringIO()
    print_rows(Console(file=printed, width=width), found)
    assert [line.rstrip() for line in printed.getvalue().splitlines()] == expected


@pytest.mark.parametrize("data", [[], ["--calibration", "data.npz"]], ids=["weights", "activations too"])
def test_describe_a_quantized_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: list[str]) -> None:
    from click.testing import CliRunner

    from edgeq.cli import main

    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    np.savez("data.npz", image=samples())
    arguments = ["convert", "net.onnx", "--target", "onnxruntime", "--keep-qdq", "qdq.onnx", *data]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    found = describe("qdq.onnx", {})
    assert found["quantized"]
    assert list(found["bytes"]) == ["as it is"]
    fallbacks = found["targets"]["tflite"].pop("float_on_this_engine")
    assert [node["op"] for node in fallbacks] == (["Gemm"] if data else [])  # the last, whose result stays float
    assert found["targets"]["tflite"] == {"missing": None, "cannot_run": [], "stays_float": []}


def test_one_sentence_tells_of_mixed_precision() -> None:
    weights = Measurement("weights", 19.25, Trial({"a": Precision(8)}, 24.5), (Trial({}, 20.0),), 6)
    activations = Measurement("activations", 30.0, note="too large")
    mixed = MixedPrecision({"a": Precision(8)}, 0.05, (weights, activations, Measurement("nothing tried", 50.0)))
    report = {"quantization": {"higher_precision_layers": {"a": 8}}, "mixed_precision": mixed.to_json()}
    assert precision_sentence(report) == (
        "1 layer keeps 8 bits, 5.0 % of the work stays in float; weights: sqnr 24.5 dB, 19.25 dB without (1 of at most "
        "6 precision assignments tried); activations: sqnr 30 dB, layers not compared: too large")


def test_a_self_test_that_fails_on_average_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The limit of the noise is none of a single value."""
    difference = {"case": 0, "output": "y", "index": (0, 1), "expected": 1.0, "got": 1.5, "allowed": 0.25, "noise": 0.5}
    boards.test_table([{"board": "kitchen", "emulated": False, "self_test": {
        "status": "fail", "largest_error": {"y": 0.5}, "tolerance": {"source": "why"}, "difference": difference}}])
    assert "kitchen: sample 0, output 'y': errors of 0.5 on average, allowed are 0.25" in capsys.readouterr().out


def row(target: str, decibels: float) -> dict[str, Any]:
    line = {"output": "[scores]", "sqnr_db": decibels, "cosine": 0.9, "max_abs": 0.1, "top1": 0.875}
    kept = [{"node": f"[n{k}]", "op": "Softmax", "reason": "tail"} for k in range(200)]
    return {"path": f"net.{target}.edgeq", "bytes": 2500, "source_bytes": 10_000, "target": target,
            "quantization": {"kept_float": kept, "higher_precision_layers": {"[a]": 8, "[b]": 8}},
            "mixed_precision": {"layers": [], "float_share": 0.0, "measured": []}, "float_on_this_engine": [],
            "notes": [{"node": f"[w{k}]", "op": "Conv", "reason": "stored in int8"} for k in range(2)],
            "verification": {"samples": 8, "inputs": "calibration samples", "engine": "some engine",
                             "against_float": [line], "against_graph": [line], "graph_against_float": [line]}}


def test_a_conversion_in_text(capsys: pytest.CaptureFixture[str]) -> None:
    text.conversion([row("tflite", 31.25), row("coreml", 9.9)])
    shown = capsys.readouterr().out
    for part in ("2.50 kB", "0.250", "31.2", "87.5 %", "[scores]", "verified on 8 inputs, calibration samples",
                 "wrote net.tflite.edgeq", "wrote net.coreml.edgeq"):
        assert part in shown
    assert shown.count("200 Softmax: tail ([n0], [n1], [n2], ...)") == 1  # one plan, one list, one line
    assert "otherwise than planned on tflite:" in shown
    assert "2 Conv: stored in int8 ([w0], [w1])" in shown
    assert shown.count("2 layers keep 8 bits by rule") == 1
    assert "tflite: Doubtful: output '[scores]' is 31.2 dB" in shown
    assert "coreml: Broken: output '[scores]' is 9.9 dB" in shown
