"""--device mcu, ethos-u and edgetpu, and the model as C++ source."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from small_graphs import feeds, network, normal, residual

from edgeq import convert
from edgeq.cli import main
from edgeq.errors import UnsupportedModel, UsageError
from edgeq_converters.tflite.micro import OPERATORS

SHAPE = (1, 3, 9, 7)


def convolution(then: str = "y = Relu (a)") -> ir.Model:
    return network(f"""
        g (float[1,3,9,7] x) => (float[1,64,9,7] y) {{
            a = Conv <pads = [1,1,1,1]> (x, w)
            {then}
        }}""", w=normal(64, 3, 3, 3))


def test_integers_run_in_tensorflow_lite_micro(tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    bundle = convert(residual(), device="mcu", bits=8, calibration=feeds(SHAPE), full_integer=True,
                     output=tmp_path / "b")
    found = bundle.report["device"]
    assert found["said"].endswith("beside LiteRT's reference kernels: pass")  # bit for bit
    assert 1000 < found["arena_bytes"] < 100_000


@pytest.mark.parametrize(("model", "words", "message"), [
    (convolution(), {"bits": 8, "activations": "float", "calibration": feeds(SHAPE)},
     r"DEQUANTIZE .*takes the first channel's scale for all.*--full-integer"),
    (convolution("y = Erf (a)"), {"bits": 32}, r"it has no such operator"),
])
def test_what_it_lacks_or_reads_wrong_is_refused(model: ir.Model, words: dict[str, object], message: str,
                                                 tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        convert(model, device="mcu", output=tmp_path / "b", **words)  # type: ignore[arg-type]
    assert not (tmp_path / "b").exists()
    convert(model, target="tflite", output=tmp_path / "b", **words)  # type: ignore[arg-type]


def test_its_operators_are_all_that_tensorflow_lite_micro_registers() -> None:
    """A name that was misspelt would refuse what runs there."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    assert {name for name in OPERATORS if not hasattr(schema.BuiltinOperator, name)} == set()


def test_what_the_ethos_u_leaves_is_told_and_refused(tmp_path: Path) -> None:
    pytest.importorskip("ethosu")
    floats = convert(residual(), device="ethos-u", bits=8, calibration=feeds(SHAPE), output=tmp_path / "a")
    assert floats.report["device"]["cpu_operators"] == ["QUANTIZE", "DEQUANTIZE", "SOFTMAX"]
    assert "3 of 10 operators stay on the CPU: DEQUANTIZE, QUANTIZE, SOFTMAX" in floats.report["device"]["said"]
    whole = convert(residual(), device="ethos-u", bits=8, calibration=feeds(SHAPE), full_integer=True,
                    output=tmp_path / "b")
    assert whole.report["device"]["cpu_operators"] == []
    with pytest.raises(UnsupportedModel, match=r"GATHER .*Ethos-U does not run it"):
        convert(gathered(), device="ethos-u", bits=8, calibration=feeds(SHAPE), full_integer=True,
                output=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def gathered() -> ir.Model:
    return network("""
        g (float[1,3,9,7] x) => (float[2,9,7] y) {
            a = Conv <pads = [1,1,1,1]> (x, w)
            y = GatherND (a, at)
        }""", w=normal(4, 3, 3, 3), at=np.array([[0, 1], [0, 3]]))


def test_for_the_edge_tpu_nothing_was_checked(tmp_path: Path) -> None:
    bundle = convert(residual(), device="edgetpu", bits=8, calibration=feeds(SHAPE), output=tmp_path / "b")
    assert "not compiled, because its compiler cannot be had here" in bundle.report["device"]["said"]


MAIN = """
#include "net 2.h"
#include <cstdio>
int main() {
    std::fwrite(net_2, 1, net_2_size, stdout);
    return reinterpret_cast<std::size_t>(net_2) % 16 || net_2_arena_size < 1000;
}
"""


def test_the_source_compiles_to_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    bundle = convert(residual(), device="mcu", bits=8, calibration=feeds(SHAPE), output=tmp_path / "b").path
    words = ["pack", str(bundle), "--c-array", "-o", str(tmp_path / "net 2")]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert "exists; replace it with --force" in CliRunner().invoke(main, words).output
    (tmp_path / "main.cc").write_text(MAIN)
    subprocess.run([compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "net 2.cc", "main.cc", "-o", "run"],
                   cwd=tmp_path, check=True)
    ran = subprocess.run([tmp_path / "run"], check=True, capture_output=True)
    assert ran.stdout == (bundle / "model.tflite").read_bytes()


def test_other_engines_have_no_such_file(tmp_path: Path) -> None:
    from edgeq.bundle.c_array import write_c_array

    bundle = convert(residual(), target="onnxruntime", output=tmp_path / "b").path
    with pytest.raises(UsageError, match="its engine reads where it lies in memory"):
        write_c_array(bundle)
