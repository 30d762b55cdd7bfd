"""LiteRT on a real network, Core ML through a stand-in interpreter, and the order of versions."""
from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from packaging.specifiers import SpecifierSet
from runtime_bundles import MakeBundle, entries

import edgeq_runtime
from edgeq_runtime import BundleError, EngineError, InputError, Manifest, TensorSpec
from edgeq_runtime.engines.versions import matches
from edgeq_runtime.manifest import FILE_NAME

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")


def add_model() -> bytes:
    """A TFLite file: sum = a + b, int32 [2,3]."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, [2, 3], schema.TensorType.INT32, buffer
        return made

    code, operator, graph, model = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.tensors = [tensor("a", 1), tensor("b", 2), tensor("sum", 3)]
    graph.inputs, graph.outputs, graph.operators = [0, 1], [2], [operator]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT() for _ in range(4)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.fixture
def tflite_bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "add.edgeq"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(add_model())
    write(folder, Manifest(
        name="add", target="tflite", engine="tflite", engine_version=">=2.0", entry="model.tflite",
        inputs=(TensorSpec("left", "int64", ("n", 3), engine_name="a"), TensorSpec("b", "int32", ("n", 3))),
        outputs=(TensorSpec("total", "int64", ("n", 3), engine_name="sum"),), files=entries(folder)))
    return folder


def write(folder: Path, manifest: Manifest) -> None:
    (folder / FILE_NAME).write_text(manifest.to_json())


def test_tflite_runs_resizes_and_widens(tflite_bundle: Path) -> None:
    with edgeq_runtime.load(tflite_bundle, threads=1) as model:
        assert model.engine.startswith("ai-edge-litert 2")
        for rows in (2, 5, 2):
            left, right = np.arange(rows * 3).reshape(rows, 3), np.full((rows, 3), 7, np.int32)
            total = model.run({"left": left, "b": right})["total"]
            assert total.dtype == np.int64
            np.testing.assert_array_equal(total, left + 7)


def test_tflite_writes_into_the_callers_buffer(tflite_bundle: Path) -> None:
    total = np.zeros((2, 3), np.int64)
    with edgeq_runtime.load(tflite_bundle) as model:
        for left in (np.full((2, 3), 5), np.full((2, 3), 6)):
            assert model.run({"left": left, "b": np.ones((2, 3), np.int32)}, out={"total": total})["total"] is total
            np.testing.assert_array_equal(total, left + 1)


def test_tflite_refuses_a_value_that_int32_cannot_hold(tflite_bundle: Path) -> None:
    with edgeq_runtime.load(tflite_bundle) as model, pytest.raises(InputError, match="2147483648 does not fit"):
        model.run({"left": np.full((2, 3), 2**31), "b": np.zeros((2, 3), np.int32)})


def test_tflite_serves_many_threads(tflite_bundle: Path) -> None:
    with edgeq_runtime.load(tflite_bundle, threads=1) as model, ThreadPoolExecutor(4) as pool:
        def run(number: int) -> bool:
            left = np.full((1 + number % 3, 3), number)
            return bool((model.run({"left": left, "b": left.astype(np.int32)})["total"] == 2 * number).all())

        assert all(pool.map(run, range(100)))


@pytest.mark.parametrize(("changes", "error", "message"), [
    ({"engine_version": ">=99"}, EngineError, "needs ai-edge-litert >=99"),
    ({"outputs": (TensorSpec("sum", "float32", (2, 3)),)}, BundleError, "'sum' is float32, in the model .*int32"),
    ({"outputs": (TensorSpec("sum", "int8", (2, 3), scale=.1),)}, BundleError, "'sum' is int8"),
    ({"outputs": (TensorSpec("Sum", "int32", (2, 3)),)}, BundleError, "are not those of the model"),
    ({"options": {"delegate": "gpu"}}, BundleError, "does not know: delegate"),
])
def test_tflite_refuses(tflite_bundle: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    write(tflite_bundle, replace(Manifest.read(tflite_bundle), **changes))
    with pytest.raises(error, match=message):
        edgeq_runtime.load(tflite_bundle)


def test_tflite_refuses_a_file_that_is_none(tflite_bundle: Path) -> None:
    (tflite_bundle / "model.tflite").write_bytes(b"not a model")
    write(tflite_bundle, replace(Manifest.from_json((tflite_bundle / FILE_NAME).read_text()),
                                 files=entries(tflite_bundle)))
    with pytest.raises(EngineError, match=r"cannot load model\.tflite"):
        edgeq_runtime.load(tflite_bundle)


def test_tflite_runtime_is_the_fallback(tflite_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("tflite_runtime"), ModuleType("tflite_runtime.interpreter")
    module.Interpreter = litert.Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", package)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", module)
    with edgeq_runtime.load(tflite_bundle) as model:
        assert model.engine.startswith("tflite-runtime")
    write(tflite_bundle, replace(Manifest.read(tflite_bundle), options={"tflite_runtime": ">=2.14"}))
    with pytest.raises(EngineError, match=r"needs tflite-runtime >=2.14"):
        edgeq_runtime.load(tflite_bundle)


def test_coreml_is_interpreted_here_and_says_so(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        def __init__(self, path: Path) -> None:
            assert path.name == "model.onnx"

        def run(self, inputs: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
            return {"count_": inputs["image"].size, "sum": (inputs["image"] * 2 + inputs["offset"]).astype(np.float16)}

    stand_in = ModuleType("edgeq.verification.mlpackage")
    stand_in.open_package = Package  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgeq.verification.mlpackage", stand_in)
    monkeypatch.setattr(sys, "platform", "linux")
    folder = make_bundle(engine="coreml", options={"compute_units": "ane"}, outputs=(
        TensorSpec("sum", "float32", ("n", 3)), TensorSpec("count", "int64", (), engine_name="count_")))
    with edgeq_runtime.load(folder) as model:
        assert model.accelerator == "interpreter, slow"
        assert model.self_test().ok
        outputs = model.run({"image": np.ones((1, 3), np.float32), "offset": np.ones(3, np.float32)})
        assert outputs["sum"].dtype == np.float32
        total = np.zeros((1, 3), np.float32)
        found = model.run({"image": np.ones((1, 3), np.float32), "offset": np.ones(3, np.float32)}, out={"sum": total})
        assert found["sum"] is total
        assert list(total[0]) == [3, 3, 3]
        assert found["count"] == 3


VERSIONS = ["1.23", "1.23.0", "1.22.9", "1.24.1", "2.0", "2.14.0", "10.0"]


@pytest.mark.parametrize("specifier", [
    "", ">=1.23", ">=1.23,<2", "==1.23", "!=2.0", ">1.23", "<=1.23", "<10", " >= 1.9 , < 3 "])
def test_versions_compare_as_packaging_does(specifier: str) -> None:
    assert [matches(v, specifier) for v in VERSIONS] == [SpecifierSet(specifier).contains(v) for v in VERSIONS]
