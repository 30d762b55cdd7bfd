"""Sizes before any work, against arithmetic and against what a conversion writes."""
from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from click.testing import CliRunner
from small_graphs import network, normal, residual

from edgeq import convert, estimate
from edgeq.cli import main
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.errors import UsageError

DIGITS = Path(__file__).resolve().parents[2] / "samples/digits"


def test_numbers_are_those_of_arithmetic(tmp_path: Path) -> None:
    model = network("g (float[3,40] x) => (float[3,20] y) { y = Gemm (x, w, b) }", w=normal(40, 20), b=normal(20))
    ir.save(model, tmp_path / "m.onnx")
    rows = {row["bits"]: row for row in estimate(tmp_path / "m.onnx")["bits"]}
    activations = 3 * 40 + 3 * 20
    assert rows[32]["weight_bytes"] == 4 * 820
    assert rows[16]["weight_bytes"] == 2 * 800 + 4 * 20
    assert rows[8]["weight_bytes"] == 800 + 4 * 20 + 4 * 20  # a scale per channel, and the bias
    assert rows[4]["weight_bytes"] == 400 + 4 * 20 + 4 * 20
    assert [rows[bits]["activation_bytes"] for bits in (32, 16, 8, 4)] == [4 * activations, 2 * activations,
                                                                          activations, activations]


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_the_digits_take_about_as_much_as_was_told(bits: int, tmp_path: Path) -> None:
    (told,) = (row["disk_bytes"] for row in estimate(DIGITS / "digits.onnx")["bits"] if row["bits"] == bits)
    bundle = convert(DIGITS / "digits.onnx", target="tflite", bits=bits, output=tmp_path / "b", verify=False)
    assert told == pytest.approx(bundle.artifact_bytes, rel=0.25)


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    convert_all(residual(), ["onnxruntime"], Options(keep_qdq=tmp_path / "q.onnx", verify=False), tmp_path / "b")
    with pytest.raises(UsageError, match="inspect"):
        estimate(tmp_path / "q.onnx")


def test_the_command_prints_a_row_for_each_number_of_bits() -> None:
    result = CliRunner().invoke(main, ["estimate", str(DIGITS / "digits.onnx")], catch_exceptions=False)
    assert [line.split()[0] for line in result.output.splitlines()[2:6]] == ["32", "16", "8", "4"]
