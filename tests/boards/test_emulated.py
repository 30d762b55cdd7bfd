"""Boards that qemu imitates: what they compute, and the two faults that only another processor shows.

Needs apt-get and the network once (Debian's mirror and PyPI); afterwards everything is in the user's cache.
"""
from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from decoder_checkpoints import save_checkpoint
from onnx import TensorProto, helper, numpy_helper

from edgeq import convert
from edgeq.boards.emulated import Emulated
from edgeq.boards.profiles import EMULATED
from edgeq.boards.runner import Found, Job, probe, run_on_board
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.errors import BoardError
from edgeq_runtime.language.llama_library import XLLAMACPP

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("apt-get") is None, reason="needs Linux and apt-get"),
]
SAMPLE = Path(__file__).parents[2] / "samples" / "digits"
TARGETS = ("onnxruntime", "tflite")
ON_64_BITS = [name for name, row in EMULATED.items() if row.architecture == "arm64"]


@functools.cache
def board(name: str) -> Emulated:
    return Emulated(name)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """(target, bits) -> bundle."""
    found = {}
    for bits in (4, 8):
        options = Options(bits=bits, calibration=str(SAMPLE / "calibration.npz"), method="nearest")
        folder = tmp_path_factory.mktemp(f"w{bits}")
        for target, made in zip(TARGETS, convert_all(SAMPLE / "digits.onnx", TARGETS, options, folder), strict=True):
            found[target, bits] = made.path
    return found


def run(name: str, bundle: Path, engine: str | None = None) -> Found:
    return run_on_board(board(name), Job(bundle, engine=engine))


@pytest.mark.parametrize("name", ON_64_BITS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("target", TARGETS)
def test_64_bit_boards_compute_what_was_promised(digits: dict[Any, Path], target: str, bits: int, name: str) -> None:
    found = run(name, digits[target, bits])
    assert found.ok, found
    assert found.facts.machine == "aarch64"


def test_32_bit_boards_run_int8(digits: dict[Any, Path]) -> None:
    found = run("pi-32bit", digits["tflite", 8])
    assert found.ok, found
    assert found.engine == "tflite-runtime 2.14.0"
    found = run("pi-32bit-trixie", digits["onnxruntime", 8])
    assert found.self_test is not None
    assert found.self_test["status"] == "pass", found


@pytest.mark.parametrize(("name", "target", "bits", "message"), [
    ("pi-32bit", "tflite", 4, "2.14.0 is the last for armv7l, and the bundle needs tflite-runtime >2.14"),
    ("pi-32bit-trixie", "onnxruntime", 4, "the bundle needs onnxruntime >=1.23, the board's Python has 1.21"),
    ("pi-32bit", "onnxruntime", 8, r"no onnxruntime, and PyPI has none for armv7l: sudo apt install python3-onnxrun"),
])
def test_32_bit_boards_say_why_not(digits: dict[Any, Path], name: str, target: str, bits: int, message: str) -> None:
    with pytest.raises(BoardError, match=message):
        run(name, digits[target, bits])


def test_core_ml_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    bundle = convert(SAMPLE / "digits.onnx", target="coreml", output=tmp_path / "digits.edgeq", verify=False).path
    with pytest.raises(BoardError, match="Core ML runs on Apple's devices only"):
        run("pi4", bundle)


# -- an engine whose build needs ARMv8.2: https://github.com/microsoft/onnxruntime/issues/24112 ------------------------

@pytest.mark.parametrize("name", ["pi3", "pi4"])
def test_an_illegal_instruction_is_caught(digits: dict[Any, Path], name: str) -> None:
    found = run(name, digits["onnxruntime", 8], "onnxruntime==1.21.0")
    assert found.error is not None
    assert found.error.startswith("onnxruntime 1.21.0 died of SIGILL while importing onnxruntime: illegal instruction")


@pytest.mark.parametrize(("name", "engine"), [
    ("pi5", "onnxruntime==1.21.0"), ("pi4", "onnxruntime==1.20.1"), ("pi4", "onnxruntime==1.21.1"), ("pi4", None)])
def test_other_builds_and_boards_are_fine(digits: dict[Any, Path], name: str, engine: str | None) -> None:
    assert run(name, digits["onnxruntime", 8], engine).ok


# -- weights of -128 on cores without dot product: two products of bytes are added in 16 bits --------------------------

def product(lowest: int) -> onnx.ModelProto:
    """x [1,64] @ w [64,16], quantized by somebody else: uint8 times int8 from `lowest` on."""
    w = np.random.default_rng(0).integers(lowest, 128, (64, 16)).astype(np.int8)
    w[:, ::4] = lowest
    constants = {"xs": np.float32(1 / 128), "xz": np.uint8(128), "w": w, "ws": np.float32(1 / 128), "wz": np.int8(0),
                 "ys": np.float32(0.5), "yz": np.uint8(128)}
    nodes = [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in (
        ("QuantizeLinear", "x xs xz", "xq"), ("DequantizeLinear", "xq xs xz", "xd"),
        ("DequantizeLinear", "w ws wz", "wd"), ("MatMul", "xd wd", "product"),
        ("QuantizeLinear", "product ys yz", "yq"), ("DequantizeLinear", "yq ys yz", "y"))]
    graph = helper.make_graph(nodes, "product", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
                              [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(("name", "lowest", "status"), [
    ("pi4", -128, "fail"), ("pi4", -127, "pass"), ("pi5", -128, "pass"), ("pi-32bit-trixie", -128, "pass")])
def test_weights_that_overflow_are_caught(tmp_path: Path, name: str, lowest: int, status: str) -> None:
    """The lowest input meets the lowest weight: -128 * -128, twice, is one more than 16 bits hold."""
    np.savez(tmp_path / "data.npz", x=np.full((1, 64), -1, np.float32))
    bundle = convert(product(lowest), target="onnxruntime", calibration=str(tmp_path / "data.npz"),
                     output=tmp_path / "product.edgeq").path
    found = run(name, bundle)
    assert found.self_test is not None
    assert found.self_test["status"] == status
    if status == "fail":
        assert found.self_test["difference"]["output"] == "y"


# -- the emulated board itself -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "core", "present", "absent"), [
    ("pi3", "Cortex-A53", "asimd", "asimddp"), ("pi4", "Cortex-A72", "asimd", "asimddp"),
    ("pi5", "Cortex-A76", "asimddp", "i8mm"), ("armv9-phone", "Cortex-A710", "i8mm", "sme"),
    ("pi-32bit", "Cortex-A7", "neon", "asimddp")])
def test_boards_have_the_processor_of_their_row(name: str, core: str, present: str, absent: str) -> None:
    facts = probe(board(name))
    assert facts.core == core
    assert present in facts.features
    assert absent not in facts.features


def test_a_copy_that_fails_is_the_boards_error(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"cannot copy a\.whl to /nowhere/a\.whl: No such file"):
        board("pi4").push(tmp_path / "a.whl", "/nowhere/a.whl")


def test_nothing_of_this_machine_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the host')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = board("pi4").run(["-c", "import platform, sys; print(platform.machine(), sys.prefix, sys.path)"])
    assert done.out.startswith("aarch64 ")
    assert str(tmp_path) not in done.out


def test_llama_cpp_runs_in_the_release_that_the_runtime_knows(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "tiny-llama")
    bundle = convert(checkpoint, target="gguf", method="nearest", output=tmp_path / "x.edgeq")
    found = run("pi4", bundle.path)
    assert found.ok, found
    assert found.engine == f"llama.cpp of xllamacpp {XLLAMACPP}"
