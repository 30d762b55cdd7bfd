"""State in a Core ML package: what an iPhone's makeState() gives, run by the interpreter over many steps."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal

import edgeq
import edgeq_runtime
from edgeq.verification.mlpackage import open_package

STEPS = 32


def recurrent() -> ir.Model:
    """A convolution over the last three frames [1,8], then a GRU; `steps` counts."""
    return network("""
        g (float[1,8,1] x, float[1,8,2] cache, float[1,1,16] h, int32[1] steps)
        => (float[1,4] y, float[1,8,2] cache_out, float[1,1,16] h_out, int32[1] steps_out) {
            frames = Concat <axis = 2> (cache, x)
            cache_out = Slice (frames, one, three, two)
            c = Conv (frames, w1, b1)
            r = Relu (c)
            seen = Transpose <perm = [2, 0, 1]> (r)
            sequence, h_out = GRU <hidden_size = 16> (seen, w2, r2, b2, , h)
            last = Squeeze (h_out, zero)
            y = Gemm <transB = 1> (last, w3, b3)
            steps_out = Add (steps, more)
        }""", w1=normal(16, 8, 3, seed=1, scale=.3), b1=normal(16, seed=2), w2=normal(1, 48, 16, seed=3, scale=.3),
        r2=normal(1, 48, 16, seed=4, scale=.3), b2=normal(1, 96, seed=5, scale=.1), w3=normal(4, 16, seed=6),
        b3=normal(4, seed=7), zero=np.array([0]), one=np.array([1]), two=np.array([2]), three=np.array([3]),
        more=np.array([1], np.int32))


def recording(steps: int, seed: int) -> NDArray[np.float32]:
    """[steps, 1, 8, 1]"""
    return (normal(steps, 8, seed=seed) + np.sin(np.arange(steps)[:, None] / 3)).astype(np.float32)[:, None, :, None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "recurrent.onnx"
    ir.save(recurrent(), path)
    return path


PAIRS = {"cache": "cache_out", "h": "h_out", "steps": "steps_out"}
ZEROS: dict[str, NDArray[Any]] = {"cache": np.zeros((1, 8, 2), np.float32), "h": np.zeros((1, 1, 16), np.float32),
                                  "steps": np.zeros(1, np.int32)}


def converted(model: Path, output: Path, bits: int, **words: Any) -> edgeq.Bundle:
    calibration = {"x": recording(64, 0)} if bits == 8 else None
    return edgeq.convert(model, target="coreml", bits=bits, calibration=calibration, state=PAIRS, output=output,
                         **words)


def expected(model: Path) -> NDArray[np.float32]:
    """y of every step, by plain onnxruntime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    state, found = ZEROS, []
    for x in recording(STEPS, 1):
        y, *after = session.run(["y", *PAIRS.values()], {"x": x, **state})
        state = dict(zip(PAIRS, after, strict=True))
        found.append(y)
    return np.array(found)


@pytest.mark.parametrize(("bits", "least_db"), [(16, 60), (8, 30)])
def test_a_package_keeps_its_state(model: Path, bits: int, least_db: float, tmp_path: Path) -> None:
    """32 steps in the package, whose state nobody touches; and the same by the runtime, which feeds it back."""
    bundle = converted(model, tmp_path / "bundle", bits)
    program = open_package(bundle.path / "model.mlpackage")
    state, steps = program.make_state(), np.zeros(1, np.int32)
    assert [spec.name for spec in program.states] == ["cache", "h"]
    assert [spec.name for spec in (*program.inputs, *program.outputs)] == ["x", "steps", "y", "steps_out"]
    got = [program.run({"x": x, "steps": steps}, state)["y"] for x in recording(STEPS, 1)]
    real = expected(model)
    assert 10 * np.log10((real ** 2).sum() / ((real - got) ** 2).sum()) > least_db
    with edgeq_runtime.load(bundle.path) as opened:
        runs = [opened.run({"x": x}) for x in recording(STEPS, 1)]
        assert opened.self_test().status == "pass"
    np.testing.assert_array_equal([run["y"] for run in runs], got)
    assert [int(run["steps_out"][0]) for run in runs] == list(range(1, STEPS + 1))


def test_what_apple_reads(model: Path, tmp_path: Path) -> None:
    from coremltools.models.utils import load_spec

    bundle = converted(model, tmp_path / "bundle", 16)
    spec = load_spec(str(bundle.path / "model.mlpackage"))
    assert spec.specificationVersion >= 9  # iOS 18
    kept = {feature.name: feature.type.stateType.arrayType for feature in spec.description.state}
    assert {name: (list(kind.shape), kind.dataType) for name, kind in kept.items()} == {
        "cache": ([1, 8, 2], kind_of("FLOAT16")), "h": ([1, 1, 16], kind_of("FLOAT16"))}
    assert {feature.name for feature in spec.description.input} == {"x", "steps"}
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    moves = [operation.type for operation in block.operations if operation.type.endswith("_state")]
    assert moves == ["read_state", "read_state", "write_state", "write_state"]


def kind_of(name: str) -> int:
    from coremltools.proto.FeatureTypes_pb2 import ArrayFeatureType

    return int(ArrayFeatureType.ArrayDataType.Value(name))


@pytest.mark.parametrize(("words", "reasons"), [
    ({"bits": 16, "min_os": 17}, dict.fromkeys(PAIRS, "packages keep state from iOS 18 on: --min-os 18")),
    ({"bits": 16}, {"steps": "packages keep float16, no INT32 numbers"}),
    ({"bits": 32}, dict.fromkeys(("cache", "h"), "packages keep float16, and this one computes in float32: --bits 16")
     | {"steps": "packages keep float16, no INT32 numbers"}),
])
def test_what_stays_outside_is_told(model: Path, words: dict[str, Any], reasons: dict[str, str],
                                    tmp_path: Path) -> None:
    bundle = converted(model, tmp_path / "bundle", **words)
    assert bundle.manifest.state == PAIRS
    assert set(bundle.manifest.options.get("states", ())) == PAIRS.keys() - reasons.keys()
    notes = {note["node"]: note["reason"].removeprefix("a state that the caller feeds back: ")
             for note in bundle.report["notes"]}
    assert notes == reasons
