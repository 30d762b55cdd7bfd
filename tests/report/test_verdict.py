"""One scale, and the same words in the terminal, in report.html and in what is refused."""
from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result
from small_graphs import feeds, network, normal, residual

import edgeq
from edgeq.cli import main
from edgeq.errors import TargetsFailed, TooFarFromFloat, UsageError, VerificationError
from edgeq.quant.plan import make_plan
from edgeq.report.verdict import verdict
from edgeq.scheme import PRESETS
from edgeq.verification import verify_artifact
from edgeq_converters.onnxruntime.target import ONNXRUNTIME

SHAPE = (1, 3, 9, 7)


def line(sqnr_db: float, top1: float | None = None, output: str = "y") -> dict[str, Any]:
    return {"output": output, "sqnr_db": sqnr_db, "top1": top1}


@pytest.mark.parametrize(("lines", "word", "sentence"), [
    ([line(40.0)], "Good", "output 'y' is 40.0 dB from the float model (an error of 1 % of its size)"),
    ([line(200.0, 1.0)], "Good", "output 'y' equals the float model's, and 100.0 % of the samples keep their best"),
    ([line(40.0, 7 / 8)], "Doubtful", "87.5 % of the samples keep their best class"),
    ([line(40.0, 1 / 8)], "Broken", "12.5 % of the samples"), ([line(24.9, 1.0)], "Doubtful", "24.9 dB"),
    ([line(9.7)], "Broken", "9.7 dB"), ([line(-200.0)], "Broken", "has nothing in common with the float model's"),
    ([{**line(40.0), "neighbours": 0.95}], "Good", "95.0 % keep their nearest neighbour"),
    ([line(30.0), line(40.0, 0.5, "z"), line(28.0, 1.0, "a")], "Doubtful", "output 'z'"),
])
def test_the_worst_output_decides(lines: list[dict[str, Any]], word: str, sentence: str) -> None:
    found = verdict({"against_float": lines})
    assert found.word == word
    assert sentence in found.sentence


def collapsing() -> ir.Model:
    """One output of the first layer never fires, and its weights are a hundred times as large as all others."""
    weight = normal(6, 40, seed=1)
    weight[:, 39] = -100 * abs(weight[:, 39])
    return network("g (float[1,6] x) => (float[1,1] y) { a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, v) }",
                   w=weight, v=normal(40, 1))


FED = [{"x": np.abs(feed["x"])} for feed in feeds((1, 6), 12)]


def convert(folder: Path, *words: str) -> Result:
    ir.save(collapsing(), folder / "net.onnx")
    np.savez(folder / "data.npz", x=np.concatenate([feed["x"] for feed in FED]))
    weak = ["--weights", "per-tensor", "--method", "nearest"]
    return CliRunner().invoke(main, ["convert", str(folder / "net.onnx"), *weak, "--calibration",
                                     str(folder / "data.npz"), "-o", str(folder / "b"), *words])


def test_the_terminal_says_what_the_page_says(tmp_path: Path) -> None:
    result = convert(tmp_path, "--target", "onnxruntime")
    assert result.exit_code == 0, result.output
    said = re.search(r"onnxruntime: (Broken: output 'y' is .*?)\. What helps: --weights per-channel, or --method auto",
                     result.stdout)
    assert said is not None, result.stdout
    page = html.unescape(re.sub("<[^>]+>", "", (tmp_path / "b/report.html").read_text()))
    assert said[1] in page


@pytest.mark.parametrize(("words", "message"), [
    (["--min-db", "60"], r"onnxruntime: output 'y' is .* dB from the float model, --min-db asks for 60 dB"),
    (["--strict"], r"onnxruntime: Broken: output 'y' is .* dB from the float model .*; with --strict no such bundle"),
])
def test_too_far_from_float_writes_nothing_and_exits_with_3(tmp_path: Path, words: list[str], message: str) -> None:
    result = convert(tmp_path, "--target", "onnxruntime", *words)
    assert (result.exit_code, (tmp_path / "b").exists()) == (3, False), result.output
    assert re.search(message, result.stderr), result.stderr


def test_min_db_is_a_keyword_and_is_measured(tmp_path: Path) -> None:
    words: dict[str, Any] = {"target": "onnxruntime", "calibration": feeds(SHAPE, 10), "output": tmp_path / "b"}
    with pytest.raises(TooFarFromFloat, match="asks for 90 dB"):
        edgeq.convert(residual(), min_db=90, **words)
    with pytest.raises(UsageError, match="excludes --no-verify"):
        edgeq.convert(residual(), min_db=9, verify=False, **words)
    assert list(tmp_path.iterdir()) == []
    assert edgeq.convert(residual(), min_db=9, **words).path.exists()


def test_of_several_targets_the_good_bundles_are_written_and_the_failing_one_is_named(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = verify_artifact._run

    def spoiled(folder: Path, manifest: Any, references: Any) -> Any:
        outputs, engine = run(folder, manifest, references)
        shift = 9 if manifest.target == "tflite" else 0
        return [{name: array + shift for name, array in one.items()} for one in outputs], engine

    monkeypatch.setattr(verify_artifact, "_run", spoiled)
    words: dict[str, Any] = {"calibration": feeds(SHAPE, 10), "output": tmp_path / "both"}
    with pytest.raises(TargetsFailed, match="tflite failed, and is not written") as caught:
        edgeq.convert(residual(), target=["tflite", "onnxruntime"], **words)
    assert isinstance(caught.value.failed["tflite"], VerificationError)
    assert [path.name for path in caught.value.written] == ["model.onnxruntime.edgeq"]
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["model.onnxruntime.edgeq",
                                                                          "model.report.html"]
    page = re.sub("<[^>]+>", " ", (tmp_path / "both/model.report.html").read_text())
    assert re.search(r"tflite\s+no bundle.*tflite\s*: the artifact does not compute", page, re.DOTALL)
    ir.save(residual(), tmp_path / "net.onnx")
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "net.onnx"), "--target", "tflite", "--target",
                                       "onnxruntime", "-o", str(tmp_path / "c")])
    assert result.exit_code == 1
    assert "tflite: the artifact does not compute" in result.stderr
    assert f"wrote {tmp_path / 'c/net.onnxruntime.edgeq'}" in result.stdout


@pytest.mark.parametrize("name", ["conv[0]/w+b (1)", "conv(", "out.1", "w.weight"])
def test_a_layer_can_be_kept_by_the_name_that_reports_print(name: str) -> None:
    """Of the node, of what it computes or of its weights: expressions would find others, or be none."""
    model = residual()
    first, second = (node for node in model.graph if node.op_type == "Conv")
    if name.startswith("conv"):
        first.name = name
    elif name == "out.1":
        first.outputs[0].name, second.outputs[0].name = "out.1", "out_1"
        first.name = second.name = None
    else:
        weight = first.inputs[1]
        assert weight is not None
        del model.graph.initializers[weight.name]
        weight.name = name
        model.graph.register_initializer(weight)
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w8a8"], keep_float=[name])
    assert [note.op for note in plan.kept if note.reason == "kept float by --keep-float"] == ["Conv", "Relu"]
