"""Integers at the interface: the answers of the float interface, in steps of the output's grid; no float operator."""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from converters.tflite_files import parsed
from numpy.typing import NDArray
from small_graphs import network, normal, residual

import edgeq
import edgeq_runtime
from edgeq.errors import EdgeqError, UnsupportedModel, UsageError
from edgeq_runtime.preprocess import from_dict

TARGETS = ("tflite", "onnxruntime")
ALIKE = {"kind": "image", "resize": [9, 7], "scale": 1 / 255, "mean": [0.4], "std": [0.5]}
APART = {"kind": "image", "resize": [9, 7], "order": "BGR", "scale": 1 / 255, "mean": [0.2, 0.5, 0.8],
         "std": [0.1, 0.4, 0.9]}


def photos(count: int = 8) -> NDArray[np.uint8]:
    """[N,H,W,C], each of its own brightness."""
    rng = np.random.default_rng(5)
    return (rng.integers(0, 256, (count, 9, 7, 3)) * rng.uniform(0.3, 1, (count, 1, 1, 3))).astype(np.uint8)


def prepared(before: dict[str, Any] | None) -> NDArray[np.float32]:
    step = from_dict(before or ALIKE)
    return np.concatenate([step(photo) for photo in photos()])


Bundles = dict[str, edgeq.Bundle]
Convert = Callable[..., Bundles]


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """(preprocessing, words) -> the bundle of each target; the same words are converted once."""
    known: dict[str, Bundles] = {}

    def both(before: dict[str, Any] | None, *, target: Sequence[str] = TARGETS, **words: Any) -> Bundles:
        key = repr((before, target, words))
        if key not in known:
            bundles = edgeq.convert(residual(), target=list(target), calibration=prepared(before), preprocess=before,
                                    calibrator="minmax", output=tmp_path_factory.mktemp("b") / "out",
                                    **({"method": "nearest"} | words))
            known[key] = dict(zip(target, bundles, strict=True))
        return known[key]

    return both


def run(bundle: edgeq.Bundle, photo: NDArray[np.uint8]) -> Any:
    """The only output as real numbers."""
    with edgeq_runtime.load(bundle.path) as model:
        declared, taken, given = model.steps[0] or from_dict(ALIKE), model.inputs[0], model.outputs[0]
        array = declared(photo)
        array = array if array.dtype == taken.dtype else edgeq_runtime.to_integers(taken, array)
        return edgeq_runtime.to_reals(given, model.run({taken.name: array})[given.name])


@pytest.mark.parametrize(("io", "before", "layout"), [
    ("uint8", None, "keep"), ("int8", None, "keep"), ("uint8", ALIKE, "keep"), ("uint8", APART, "keep"),
    ("uint8", APART, "nhwc"), ("int8", APART, "nhwc"), ("uint8,float", APART, "nhwc")])
def test_answers_are_those_of_the_float_interface(convert: Convert, io: str, before: dict[str, Any] | None, layout: str,
                                                  ) -> None:
    plain, integers = (convert(before, layout=layout, io=words) for words in ("float", io))
    first, last = io.split(",")[0], io.split(",")[-1].replace("float", "float32")
    step = 1 / 256  # of a softmax on integers; the float interface rounds no output
    for target in TARGETS:
        assert (integers[target].manifest.inputs[0].dtype, integers[target].manifest.outputs[0].dtype) == (first, last)
        for photo in photos()[:4]:
            error = np.abs(run(integers[target], photo) - run(plain[target], photo)).max()
            assert error <= (1.5 if last != "float32" else 1) * step


def operators(path: Path) -> list[tuple[str, set[str]]]:
    """(kernel, types of its results) of a .tflite file, by LiteRT's own schema."""
    from ai_edge_litert import schema_py_generated as schema

    model = parsed(path.read_bytes())
    kernels, types = ({code: name for name, code in vars(of).items() if isinstance(code, int)}
                      for of in (schema.BuiltinOperator, schema.TensorType))
    graph = model.subgraphs[0]
    return [(kernels[model.operatorCodes[one.opcodeIndex].builtinCode],
             {types[graph.tensors[index].type] for index in one.outputs}) for one in graph.operators]


# One operator between the pixels and the first layer where channels are normalized apart, none where alike.
@pytest.mark.parametrize(("io", "before", "first", "last"), [
    ("int8", ALIKE, ["CONV_2D"], ["FULLY_CONNECTED", "SOFTMAX"]),
    ("uint8", ALIKE, ["QUANTIZE", "CONV_2D"], ["SOFTMAX", "QUANTIZE"]),
    ("uint8", APART, ["QUANTIZE", "DEPTHWISE_CONV_2D", "CONV_2D"], ["SOFTMAX", "QUANTIZE"])])
def test_tflite_computes_on_integers_from_end_to_end(convert: Convert, io: str, before: dict[str, Any],
                                                     first: list[str], last: list[str]) -> None:
    bundle = convert(before, layout="nhwc", io=io)["tflite"]
    found = operators(bundle.path / "model.tflite")
    assert not [kernel for kernel, types in found if types & {"FLOAT32"}]
    names = [kernel for kernel, _ in found if kernel != "PAD"]
    assert names[:len(first)] == first
    assert names[-len(last):] == last


def test_litert_reads_the_grids_of_the_file(convert: Convert) -> None:
    from ai_edge_litert.interpreter import Interpreter

    bundle = convert(ALIKE, layout="keep", io="uint8")["tflite"]
    interpreter = Interpreter(str(bundle.path / "model.tflite"))
    for spec, detail in zip((*bundle.manifest.inputs, *bundle.manifest.outputs),
                            (*interpreter.get_input_details(), *interpreter.get_output_details()), strict=True):
        assert detail["dtype"] is np.uint8
        assert detail["quantization"] == (pytest.approx(spec.scale), spec.zero_point)
    assert bundle.manifest.inputs[0].zero_point == 102  # 0.4 * 255: the pixel that means 0
    assert bundle.manifest.inputs[0].scale == pytest.approx(1 / 255 / 0.5)


@pytest.mark.parametrize("io", ["uint8", "int8"])
def test_onnxruntime_fuses_every_layer_and_tells_the_grids(convert: Convert, tmp_path: Path, io: str) -> None:
    import onnxruntime

    bundle = convert(None, layout="keep", io=io)["onnxruntime"]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(str(bundle.path / "model.onnx"), options)
    ops = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not ops & {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm", "Add", "Softmax"}
    told = session.get_modelmeta().custom_metadata_map
    for spec in (*bundle.manifest.inputs, *bundle.manifest.outputs):
        assert float(told[f"{spec.name}.scale"]) == spec.scale
        assert int(told[f"{spec.name}.zero_point"]) == spec.zero_point


def test_labels_of_a_photo_and_checks_of_a_bundle(convert: Convert) -> None:
    """Everything that runs a bundle knows its grids: predict, the self-test, verify layer by layer, eval."""
    words = {"postprocess": "classify", "labels": ["ant", "bee", "cat", "dog", "eel"]}
    bundles = [convert(APART, io=io, **words)["tflite"] for io in ("float", "uint8")]
    assert json.loads((bundles[1].path / "manifest.json").read_text())["preprocessing"]["pixels"] is True
    found = []
    for bundle in bundles:
        with edgeq_runtime.load(bundle.path) as model:
            found.append({one.label: one.score for one in model.predict(photos()[0])})
            assert model.self_test().status == "pass"
    assert found[0].keys() == found[1].keys()
    checked = edgeq.verify(bundles[1], reference=residual(), data=prepared(APART), layers=True)
    assert checked.layers is not None
    assert {layer.value for layer in checked.layers.layers} >= {"y"}
    assert min(layer.sqnr_db for layer in checked.layers.layers) > 20
    data = {"x": prepared(APART), "labels": np.arange(8) % 5}
    assert [edgeq.evaluate(bundle, data=data, metric="top1", reference=residual()).drop for bundle in bundles] == [0, 0]


def test_what_no_grid_holds_is_refused(convert: Convert) -> None:
    bundle = convert(None, layout="keep", io="int8")["onnxruntime"]
    with edgeq_runtime.load(bundle.path) as model, pytest.raises(EdgeqError, match=r"expected x: int8.*to_integers"):
        model.run({"x": prepared(None)[:1]})
    with pytest.raises(UsageError, match="the mean 300 lies at 300, and pixels run from 0 to 255"):
        convert({"kind": "image", "resize": [9, 7], "mean": [300]}, io="uint8")


def test_full_integer_leaves_no_float(convert: Convert) -> None:
    bundles = convert(APART, layout="nhwc", io="uint8,float", full_integer=True, method="auto")
    assert not [kernel for kernel, types in operators(bundles["tflite"].path / "model.tflite") if "FLOAT32" in types]
    for bundle in bundles.values():
        assert (bundle.manifest.inputs[0].dtype, bundle.manifest.outputs[0].dtype) == ("uint8", "int8")
        assert not bundle.report["quantization"]["kept_float"]


def test_tflite_micro_computes_the_bits_of_litert(convert: Convert) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="development releases only")
    path = str(convert(APART, layout="nhwc", io="uint8")["tflite"].path / "model.tflite")
    micro = runtime.Interpreter.from_file(path, arena_size=100_000)
    litert = Interpreter(path, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    litert.allocate_tensors()
    for photo in photos():
        micro.set_input(photo[None], 0)
        litert.set_tensor(litert.get_input_details()[0]["index"], photo[None])
        micro.invoke()
        litert.invoke()
        np.testing.assert_array_equal(micro.get_output(0), litert.get_tensor(litert.get_output_details()[0]["index"]))


def test_full_integer_names_every_float_operator(tmp_path: Path) -> None:
    net = network("""g (float[1,3,9,7] x) => (float[1,4,9,7] y) {
        a = Conv <pads = [1,1,1,1]> (x, w)
        s = Sin (a)
        y = Conv (s, v)
    }""", w=normal(4, 3, 3, 3), v=normal(4, 4, 1, 1))
    with pytest.raises(UnsupportedModel, match=r"(?s)Sin 'Sin_1': computes in float: .*leave --full-integer out"):
        edgeq.convert(net, target="tflite", calibration=prepared(None), full_integer=True, output=tmp_path / "b")
    assert not list(tmp_path.iterdir())
