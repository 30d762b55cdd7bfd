"""The lint for the Neural Engine, over packages that edgeq wrote."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import network, normal

from edgeq.backend import EmitOptions
from edgeq.errors import BundleError
from edgeq_converters.coreml.ane import RULES, Finding, Rule, lint
from edgeq_converters.coreml.backend import write_package

LAYERS = {"w1": normal(64, 32, 3, 3), "w2": normal(64, 64, 3, 3), "w3": normal(32, 64, 1, 1)}


def convolutions(stride: int = 2, first: str = "x") -> str:
    return f"""a = Conv <pads = [1,1,1,1], strides = [{stride},{stride}]> ({first}, w1)  r = Relu (a)
        c = Conv <pads = [1,1,1,1]> (r, w2)  s = Add (c, r)  t = Relu (s)"""


def good() -> ir.Model:
    """x [1,32,64,64] -> three convolutions with a residual -> [1,32,32,32]."""
    return network(f"""g (float[1,32,64,64] x) => (float[1,32,32,32] y) {{
        {convolutions()}  y = Conv (t, w3) }}""", **LAYERS)


def bad() -> ir.Model:
    """A lookup, a stride of 5, rank 5, a pool of stride 3 over 15, a mask of -inf, a sequence of linear layers."""
    return network(f"""g (float[1,32,160,160] image, int64[8] at) => (float[1,8,32] y) {{
        {convolutions(5, "image")}
        p = MaxPool <kernel_shape = [15,15], strides = [3,3], pads = [7,7,7,7]> (t)
        v = Reshape (p, five)  m = Add (v, mask)  f = Reshape (m, three)
        k = Gather <axis = 1> (f, at)  y = MatMul (k, wide) }}""",
        **LAYERS, five=np.array([1, 4, 16, 11, 11]), three=np.array([1, 64, 121]), wide=normal(121, 32),
        mask=np.array(np.finfo(np.float32).min, np.float32))


def written(model: ir.Model, folder: Path, options: EmitOptions | None = None) -> Path:
    package = folder / "model.mlpackage"
    chosen = options or EmitOptions()
    write_package(model, package, chosen, chosen.precision)
    return package


def broken(findings: list[Finding]) -> dict[str, str]:
    return {finding.rule: finding.message for finding in findings}


def test_a_model_made_for_it_breaks_no_rule(tmp_path: Path) -> None:
    assert lint(written(good(), tmp_path)) == []


def test_a_model_that_is_not_breaks_many(tmp_path: Path) -> None:
    found = broken(lint(written(bad(), tmp_path)))
    assert set(found) >= {"ops of the CPU", "rank", "sequences", "strides", "pooling"}
    assert found["strides"] == "stride 5; only products of 2 and 3 stay"
    assert "gather usually runs on the CPU" in found["ops of the CPU"]
    assert "15 elements" in found["pooling"] or "strides [3, 3]" in found["pooling"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_says_who_says_so_and_what_helps(rule: Rule) -> None:
    assert rule.source.startswith("https://")
    assert rule.remedy


def test_a_float32_program_is_one_finding_with_a_count(tmp_path: Path) -> None:
    (finding,) = lint(written(good(), tmp_path, EmitOptions(precision="float32")))
    assert finding.rule == "float32 ops"
    assert "more)" in finding.message


@pytest.mark.parametrize(("weights", "expected"), [("channel", set()), ("block", {"blocks"})])
def test_scales_for_blocks(weights: str, expected: set[str], tmp_path: Path) -> None:
    scale = {"channel": normal(64) ** 2 + 1e-2, "block": normal(1, 2, 1, 1) ** 2 + 1e-2}[weights]
    scale = scale if weights == "channel" else np.ascontiguousarray(np.broadcast_to(scale, (64, 2, 3, 3)))
    form = "axis = 0" if weights == "channel" else "axis = 1, block_size = 32"
    model = network(f"""g (float[1,32,64,64] x) => (float[1,32,32,32] y) {{
        a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)  r = Relu (a)
        q = DequantizeLinear <{form}> (i2, s)  c = Conv <pads = [1,1,1,1]> (r, q)
        t = Relu (c)  y = Conv (t, w3) }}""", w1=LAYERS["w1"], w3=LAYERS["w3"], s=scale.astype(np.float32),
        i2=np.random.default_rng(0).integers(-127, 128, (64, 64, 3, 3)).astype(np.int8))
    found = broken(lint(written(model, tmp_path, EmitOptions(compute="gpu"))))
    assert set(found) == expected


def test_stride_3_is_fine_for_numbers_and_not_for_tables(tmp_path: Path) -> None:
    import ml_dtypes

    text = """g (float[1,32,63,63] x) => (float[1,32,21,21] y) { %s
        a = Conv <pads = [1,1,1,1], strides = [3,3]> (x, w)  r = Relu (a)
        c = Conv <pads = [1,1,1,1]> (r, w2)  t = Relu (c)  y = Conv (t, w3) }"""
    plain = network(text % "", w=LAYERS["w1"], w2=LAYERS["w2"], w3=LAYERS["w3"])
    (tmp_path / "plain").mkdir()
    assert "strides" not in broken(lint(written(plain, tmp_path / "plain")))
    table = network(text % "w = DequantizeLinear <axis = 0> (i, s)", w2=LAYERS["w2"], w3=LAYERS["w3"],
                    i=np.random.default_rng(0).integers(-7, 8, (64, 32, 3, 3)).astype(ml_dtypes.int4),
                    s=(normal(64) ** 2 + 1e-2))
    assert broken(lint(written(table, tmp_path)))["strides"] == "stride 3 over weights in a table; up to 2 stays"


def test_constants_beyond_float16_are_seen(tmp_path: Path) -> None:
    """Planted in the file: edgeq itself writes no such number."""
    from coremltools.proto.Model_pb2 import Model

    model = network(f"""g (float[1,32,64,64] x) => (float[1,32,32,32] y) {{
        {convolutions()}  u = Conv (t, w3)  y = Add (u, b) }}""", b=np.float32(3.0), **LAYERS)
    package = written(model, tmp_path)
    assert lint(package) == []

    path = package / "Data/com.apple.CoreML/model.mlmodel"
    model_file = Model.FromString(path.read_bytes())
    (block,) = model_file.mlProgram.functions["main"].block_specializations.values()
    for operation in block.operations:
        if operation.type == "const":
            held = operation.attributes["val"].immediateValue.tensor.bytes
            if held.values == np.float16(3.0).tobytes():
                held.values = np.float16(-np.inf).tobytes()
    path.write_bytes(model_file.SerializeToString())
    assert broken(lint(package)).keys() == {"large numbers"}


def test_the_command_line_shows_it(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgeq import convert
    from edgeq.cli import main

    ir.save(good(), tmp_path / "good.onnx")
    bundle = convert(tmp_path / "good.onnx", target="coreml", bits=32, output=tmp_path / "bundle")
    found = CliRunner().invoke(main, ["inspect", str(bundle.path), "--compute", "ane", "--json"])
    assert [finding["rule"] for finding in json.loads(found.stdout)["neural_engine"]] == ["float32 ops"]
    text = CliRunner().invoke(main, ["inspect", str(bundle.path), "--compute", "ane"]).stdout
    assert "typed-execution.html" in text
    refused = CliRunner().invoke(main, ["inspect", str(tmp_path / "good.onnx"), "--compute", "ane"])
    assert refused.exit_code != 0


def test_no_package(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        lint(tmp_path)
