"""The graph for TensorRT: every rule of its parser, and what the graph computes, by onnxruntime on the CPU."""
from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from opcases import CASES, Case, build, has_weights, quantize, quantize_weights, run_onnxruntime, sample
from opcases.engines import run
from opcases.limits import REFUSED
from zoo_models import MODELS, needs_zoo, zoo

from edgeq import convert
from edgeq.backend import EmitOptions
from edgeq.conversion.pipeline import convert_all
from edgeq.errors import UnsupportedModel, UsageError
from edgeq.graph import constant
from edgeq_converters.tensorrt import emit
from edgeq_converters.tensorrt.float16 import compute_in_half
from edgeq_converters.tensorrt.lint import RULES, lint
from edgeq_converters.tensorrt.operands import dequantizers
from edgeq_converters.tensorrt.weights import block_int4_weights
from edgeq_runtime import EngineError, load
from edgeq_runtime.engines.onnxruntime import _cache, _providers

SINGLE, HALF = EmitOptions(precision="float32"), EmitOptions()
HALF_TOLERANCE: Final = 3e-3  # of the largest number: half a step of 2**-11 for each of a few ops


def check(case: Case, model: ir.Model, options: EmitOptions, bounds: dict[str, float], folder: Path) -> None:
    refusal = REFUSED.get(("tensorrt", case.id))
    feeds = sample(case)
    if refusal:
        with pytest.raises(UnsupportedModel, match=re.escape(refusal)):
            run("tensorrt", model, feeds, folder, options)
        assert not list(folder.iterdir())
        return
    found = run("tensorrt", model, feeds, folder, options)
    for name, wanted in run_onnxruntime(model, feeds).items():
        assert found[name].dtype == wanted.dtype
        if wanted.dtype.kind != "f":
            np.testing.assert_array_equal(found[name], wanted)
        else:
            bound = bounds.get(name, bounds[""] * float(np.abs(wanted).max(initial=1e-3)))
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_half(case: Case, tmp_path: Path) -> None:
    check(case, build(case), HALF, {"": HALF_TOLERANCE}, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_int8(case: Case, tmp_path: Path) -> None:
    model, steps = quantize(case, symmetric=True)
    check(case, model, SINGLE, {"": 1e-5, **{name: 1.01 * step for name, step in steps.items()}}, tmp_path)


@pytest.mark.parametrize("case", [case for case in CASES if has_weights(case)], ids=lambda case: case.id)
def test_int4_weights(case: Case, tmp_path: Path) -> None:
    check(case, quantize_weights(case), SINGLE, {"": 1e-5}, tmp_path)


def test_a_shortcut_that_slices_and_pads(tmp_path: Path) -> None:
    """onnxruntime's pass from int8 to uint8 refuses its Slice (onnxruntime#25526), where ranges are chosen and here."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,3,8,8] x) => (float[1,5] y) <int64[2] first = {0, 0}, int64[2] last = {100, 100},
                int64[2] axes = {2, 3}, int64[2] steps = {2, 2}, int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}> {
            a = Conv <pads = [1, 1, 1, 1]> (x, w0) r = Relu (a)
            s = Slice (r, first, last, axes, steps) p = Pad (s, pads)
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r, w1) d = Add (c, p) e = Relu (d)
            f = Conv <pads = [1, 1, 1, 1]> (e, w2) g = Relu (f)
            h = GlobalAveragePool (g) i = Flatten (h) y = Gemm (i, w3) }""")
    rng = np.random.default_rng(0)
    for name, shape in (("w0", (4, 3, 3, 3)), ("w1", (6, 4, 3, 3)), ("w2", (6, 6, 3, 3)), ("w3", (6, 5))):
        weights = rng.normal(size=shape, scale=.3).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    feeds = [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    bundle = convert(model, target="tensorrt", bits=8, calibration=feeds, output=tmp_path / "b")
    assert bundle.report["verification"]["against_float"][0]["sqnr_db"] > 28


# What the file looks like

def product(rows: int = 64, columns: int = 24) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,3,{rows}] x) => (float[1,3,8] y) {{
            h = MatMul (x, w1) h1 = Add (h, b1) r = Relu (h1) y1 = MatMul (r, w2) y = Softmax (y1) }}""")
    rng = np.random.default_rng(0)
    for name, size in (("w1", (rows, columns)), ("b1", (columns,)), ("w2", (columns, 8))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name))
    return model


def samples(rows: int = 64) -> list[dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 3, rows)).astype(np.float32)} for _ in range(8)]


def written(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx")


def stored(model: onnx.ModelProto, op: str) -> list[NDArray[Any]]:
    """The zero points, or what a node of this kind reads first, as arrays."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return [constants[node.input[0]] for node in model.graph.node if node.op_type == op and node.input[0] in constants]


def test_a_converted_network_obeys_every_rule(tmp_path: Path) -> None:
    bundle = convert(product(), target="tensorrt", bits=8, calibration=samples(), output=tmp_path / "b")
    model = ir.load(bundle.path / "model.onnx")
    assert lint(model.graph) == []
    assert "Relu" in [node.op_type for node in model.graph]
    rounded = [node.outputs[0].uses()[0].node for node in model.graph if node.op_type == "QuantizeLinear"]
    readers = [use.node.op_type for dequantize in rounded for use in dequantize.outputs[0].uses()]
    assert rounded
    assert set(readers) == {"MatMul"}  # the inputs of products, and no output for its own sake
    for weights in stored(written(bundle.path), "DequantizeLinear"):
        assert weights.dtype == np.int8
        assert weights.min() >= -127
    product_node = next(node for node in model.graph if node.op_type == "MatMul")
    assert product_node.outputs[0].dtype == ir.DataType.FLOAT16
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert bundle.report["verification"]["against_float"][0]["sqnr_db"] > 30


def test_a_scale_too_small_for_float16_takes_those_beside_it_along(tmp_path: Path) -> None:
    """x is read by two products, of which the first has such a scale, and TensorRT wants one type for each."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,3,64] x) => (float[1,3,3] y) {
            a = MatMul (x, w0) b = MatMul (x, w1) t = Transpose <perm = [0, 2, 1]> (b) c = Relu (a)
            d = MatMul (c, t) e = Relu (d) y = MatMul (e, w2) }""")
    rng = np.random.default_rng(0)
    for name, size, first in (("w0", (64, 24), 1e-4), ("w1", (64, 24), 1), ("w2", (3, 3), 1)):
        weights = rng.normal(size=size).astype(np.float32)
        weights[:, 0] *= first
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    bundle = convert(model, target="tensorrt", bits=8, calibration=samples(), method="sum-preserving",
                     output=tmp_path / "b")
    graph = ir.load(bundle.path / "model.onnx").graph
    scales = [{each.inputs[1].dtype.name for each in dequantizers(node)} for node in graph if node.op_type == "MatMul"]
    assert scales == [{"FLOAT"}, {"FLOAT"}, {"FLOAT16"}, {"FLOAT16"}]
    assert lint(graph) == []


@pytest.mark.parametrize(("rows", "block"), [(64, 64), (48, 16), (256, 128)])
def test_int4_weights_come_in_blocks(rows: int, block: int, tmp_path: Path) -> None:
    bundle = convert(product(rows, 768), target="tensorrt", bits=4, output=tmp_path / "b")
    node = next(node for node in written(bundle.path).graph.node if node.op_type == "DequantizeLinear")
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    assert attributes == {"axis": 0, "block_size": block}
    assert bundle.report["verification"]["against_graph"][0]["sqnr_db"] > 50


def test_what_has_no_blocks_keeps_its_integers_in_int8(tmp_path: Path) -> None:
    """A convolution: the kernels for INT4 are those of matrix products."""
    model = quantize_weights(next(case for case in CASES if case.op == "Conv" and has_weights(case)))
    block_int4_weights(model.graph)
    data = next(constant(node.inputs[0]) for node in model.graph if node.op_type == "DequantizeLinear")
    assert data is not None
    assert data.dtype == np.int8
    assert np.abs(data).max() == 7


def mixed() -> onnx.ModelProto:
    """A convolution and two products, of which one has rows that no block divides."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,3,9,9] x) => (float[1,12] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w0) b = Relu (a) c = Conv (b, w1) d = Relu (c)
            e = GlobalAveragePool (d) f = Flatten (e) g = MatMul (f, w2) h = Relu (g) i = MatMul (h, w3) j = Relu (i)
            y = MatMul (j, w4) }""")
    rng = np.random.default_rng(0)
    for k, size in enumerate([(16, 3, 3, 3), (64, 16, 3, 3), (64, 90), (90, 64), (64, 12)]):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=size).astype(np.float32), f"w{k}"))
    return model


def test_the_report_lists_4_bit_weights_that_take_more(tmp_path: Path) -> None:
    bundle = convert(mixed(), target="tensorrt", bits=4, output=tmp_path / "b", verify=False)
    graph = written(bundle.path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    first_inputs = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    wide = {node.name for node in graph.node if len(node.input) > 1 and node.input[1] in first_inputs
            and kinds[first_inputs[node.input[1]]] == onnx.TensorProto.INT8}
    eight = set(bundle.report["quantization"]["higher_precision_layers"])
    notes = {note["node"]: note["reason"] for note in bundle.report["notes"]}
    assert set(notes) == wide - eight
    assert any("int8: INT4 is for matrix products" in reason for reason in notes.values())
    assert any("int8: no block of 16 or more divides its rows" in reason for reason in notes.values())
    assert "INT4 is for matrix products" in (bundle.path / "report.html").read_text()


def shortcuts() -> onnx.ModelProto:
    """A shortcut through a Pad, which TensorRT has in float alone, then one that is the value in front."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,4,8,8] x) => (float[1,5] y) <int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}> {
            p = Pad (x, pads) c = Conv <pads = [1, 1, 1, 1]> (x, w0) d = Add (c, p) e = Relu (d)
            f = Conv <pads = [1, 1, 1, 1]> (e, w1) g = Add (e, f) h = Relu (g)
            i = Conv <pads = [1, 1, 1, 1]> (h, w1) j = Relu (i) k = GlobalAveragePool (j) l = Flatten (k)
            y = Gemm (l, w2) }""")
    rng = np.random.default_rng(0)
    for k, size in enumerate([(6, 4, 3, 3), (6, 6, 3, 3), (6, 5)]):
        weights = rng.normal(size=size, scale=.3).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, f"w{k}"))
    return model


def test_a_sum_rounds_its_shortcut_and_not_the_convolution(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.normal(size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(8)]
    bundle = convert(shortcuts(), target="tensorrt", method="sum-preserving", calibration=feeds, output=tmp_path / "b")
    graph = ir.load(bundle.path / "model.onnx").graph
    sums = [node for node in graph if node.op_type == "Add"]
    assert len(sums) == 2
    for node in sums:
        assert sorted(value.producer().op_type for value in node.inputs) == ["Conv", "DequantizeLinear"]
    assert bundle.report["notes"] == []
    assert bundle.report["verification"]["against_float"][0]["sqnr_db"] > 28


def test_a_network_that_rounds_both_runs_and_is_told(tmp_path: Path) -> None:
    """As onnxruntime's quantizer writes it: two grids at the sum."""
    onnx.save(shortcuts(), tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "net.onnx", Reader(), activation_type=QuantType.QInt8,
                    extra_options={"ActivationSymmetric": True, "QuantizeBias": False})
    bundle = convert(tmp_path / "net.onnx", target="tensorrt", output=tmp_path / "b")
    assert {note["op"] for note in bundle.report["notes"]} == {"Add"}
    assert "is rounded before the sum" in bundle.report["notes"][0]["reason"]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.feeds = iter([{"x": rng.normal(size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> Any:
        return next(self.feeds, None)


def test_it_shares_no_plan(tmp_path: Path) -> None:
    from edgeq.conversion.options import Options

    with pytest.raises(UsageError, match="tensorrt has symmetric activations and shares no plan"):
        convert_all(product(), ["tflite", "tensorrt"], Options(), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_int4_beside_int8_activations_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"INT4 weights with INT8 .*\(add --activations float, or use --bits"):
        convert(product(64, 768), target="tensorrt", bits=4, calibration=samples(), output=tmp_path / "b")


# Every rule, broken once

BROKEN: Final = {
    "supported-operators": ("float[2,3] x", "float[2,3] y", "y = Hardmax (x)"),
    "qdq-only": ("float[2,3] x", "uint8[2,3] y", "y, s, z = DynamicQuantizeLinear (x)"),
    "constant-grids": ("float[2,3] x, float s", "int8[2,3] y", "y = QuantizeLinear (x, s, z8)"),
    "zero-point-0": ("float[2,3] x", "int8[2,3] y", "y = QuantizeLinear (x, c, o8)"),
    "signed-integers": ("float[2,3] x", "uint8[2,3] y", "y = QuantizeLinear (x, c, u8)"),
    "float-bias": ("int32[2,3] x", "float[2,3] y", "y = DequantizeLinear (x, c)"),
    "one-activation-scale": ("float[2,3] x", "int8[2,3] y", "y = QuantizeLinear <axis = 1> (x, c3, z3)"),
    "one-rounded-summand": (
        "float[1,1,4,4] x, float[1,1,1,1] w", "float[1,1,4,4] y",
        "p = Conv (x, w) q = QuantizeLinear (p, c, z8) a = DequantizeLinear (q, c, z8) r = QuantizeLinear (x, c, z8) "
        "b = DequantizeLinear (r, c, z8) y = Add (a, b)"),
    "int4-weights-in-blocks": ("float[2,3] x", "int4[2,3] y", "y = QuantizeLinear (x, c, z4)"),
    "one-type-of-scales": (
        "float16[1,2,3] x", "float16[1,2,2] y", "w = Constant <value = int8[3,2] {1, 2, 3, 4, 5, 6}> () "
        "q = QuantizeLinear (x, h, z8) a = DequantizeLinear (q, h, z8) b = DequantizeLinear (w, c, z8) "
        "e = Cast <to = 10> (b) y = MatMul (a, e)"),
}


def broken(rule: str) -> ir.Graph:
    inputs, outputs, nodes = BROKEN[rule]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> net ({inputs}) => ({outputs}) {{ {nodes} }}')
    kinds = onnx.TensorProto
    for name, kind, dims, data in (
            ("z8", kinds.INT8, [], [0]), ("o8", kinds.INT8, [], [3]), ("u8", kinds.UINT8, [], [0]),
            ("z4", kinds.INT4, [], [0]), ("z3", kinds.INT8, [3], [0] * 3), ("c", kinds.FLOAT, [], [.5]),
            ("h", kinds.FLOAT16, [], [.5]),
            ("c3", kinds.FLOAT, [3], [.5, 1, 2])):
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, dims, data))
    return ir.from_proto(model).graph


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_broken_rule_is_named(rule: str) -> None:
    found = lint(broken(rule))
    assert rule in {finding.rule for finding in found}
    assert all(finding.reason and finding.remedy and finding.source.startswith("https://") for finding in found)


def test_a_refusal_names_all_and_writes_nothing(tmp_path: Path) -> None:
    graph = broken("zero-point-0")
    with pytest.raises(UnsupportedModel, match=r"1 node .* on tensorrt:\n.*zero point is not 0 \[zero-point-0\]"):
        emit(ir.Model(graph, ir_version=10), tmp_path, SINGLE)
    assert not list(tmp_path.iterdir())


def test_numbers_that_float16_cannot_hold_stay_in_float32() -> None:
    model = ir.from_proto(onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[2] x) => (float[2] y) <float[1] big = {1e6}, float[1] one = {1}> {
            a = Add (x, big) b = Add (a, one) y = ReduceSum <keepdims = 1> (b) }"""))
    model.graph[0].outputs[0].type = model.graph[1].outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    compute_in_half(model.graph)
    types = {node.op_type + str(k): node.outputs[0].dtype for k, node in enumerate(model.graph)}
    assert types["Add0"] == ir.DataType.FLOAT
    assert [node.op_type for node in model.graph] == ["Add", "Cast", "Add", "Cast", "ReduceSum"]


# NVIDIA's own parser and builder

@pytest.fixture(scope="module")
def tensorrt_build() -> Iterator[Any]:
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import tensorrt_build
        yield tensorrt_build
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def python_with_tensorrt(tensorrt_build: Any) -> Path:
    try:
        return Path(tensorrt_build.has_tensorrt(tensorrt_build.CACHE))
    except SystemExit as missing:
        pytest.skip(str(missing))


@pytest.mark.full
@needs_zoo
@pytest.mark.parametrize("item", MODELS)
def test_the_builder_takes_every_real_model(item: str, tensorrt_build: Any, python_with_tensorrt: Path) -> None:
    row, = tensorrt_build.measure(zoo(), [item], python_with_tensorrt)
    assert row.good, row


SUMMANDS: Final = [case for case in CASES if case.id in ("add-scalar", "where-scalar", "concat-constant")]


@pytest.mark.parametrize("case", SUMMANDS, ids=lambda case: case.id)
def test_a_constant_that_nothing_is_multiplied_with_is_float(case: Case, tmp_path: Path) -> None:
    emit(quantize(case, symmetric=True)[0], tmp_path, HALF)
    assert stored(written(tmp_path), "DequantizeLinear") == []


@pytest.mark.full
@pytest.mark.parametrize("case", SUMMANDS, ids=lambda case: case.id)
def test_the_builder_takes_a_quantized_constant(
        case: Case, tensorrt_build: Any, python_with_tensorrt: Path, tmp_path: Path) -> None:
    emit(quantize(case, symmetric=True)[0], tmp_path, HALF)
    assert tensorrt_build.built(python_with_tensorrt, tmp_path / "model.onnx") == "built"


@pytest.mark.full
@pytest.mark.parametrize(("scale", "said"), [
    (onnx.TensorProto.FLOAT16, "built"), (onnx.TensorProto.FLOAT, "type mismatch between matmul operand scales")])
def test_the_builder_has_the_rule_of_one_type(
        scale: int, said: str, tensorrt_build: Any, python_with_tensorrt: Path, tmp_path: Path) -> None:
    """scale: type of the weights' scales, float16 or float32."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float16[1,16,32] x) => (float16[1,16,64] y) {
            q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) b = DequantizeLinear <axis = 1> (w, t)
            c = Cast <to = 10> (b) y = MatMul (a, c) }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((32, 64), np.int8), "w"))
    for name, kind, sizes, number in (
            ("s", onnx.TensorProto.FLOAT16, [], .5), ("t", scale, [64], .5), ("z", onnx.TensorProto.INT8, [], 0)):
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, sizes, np.full(sizes, number)))
    onnx.save(model, tmp_path / "model.onnx")
    assert ([finding.rule for finding in lint(ir.from_proto(model).graph)] == []) == (said == "built")
    assert said in tensorrt_build.built(python_with_tensorrt, tmp_path / "model.onnx")


# The runtime

WANTED: Final = [["TensorrtExecutionProvider", {"trt_fp16_enable": "True", "trt_engine_cache_enable": "True",
                                                "trt_engine_cache_path": "engine_cache"}],
                 "CUDAExecutionProvider", "CPUExecutionProvider"]


def test_the_runtime_takes_tensorrt_then_cuda_then_the_cpu(tmp_path: Path) -> None:
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    cache = _cache(str(tmp_path), "1.23.0")
    assert cache == str(tmp_path / "engine_cache" / "1.23.0")
    found = _providers(every, WANTED, cache)
    assert [name for name, _ in found] == every
    assert found[0][1] == {"trt_fp16_enable": "True", "trt_engine_cache_enable": "True", "trt_engine_cache_path": cache}
    assert Path(cache).is_dir()
    assert _providers(every[1:], WANTED, cache) == [("CUDAExecutionProvider", {}), ("CPUExecutionProvider", {})]
    assert _providers(every[2:], WANTED, cache) == [("CPUExecutionProvider", {})]
    with pytest.raises(EngineError, match="wants one of"):
        _providers(["OtherProvider"], WANTED, cache)


def test_a_bundle_that_cannot_be_written_to_keeps_no_engine() -> None:
    assert _providers(["TensorrtExecutionProvider"], WANTED, None) == [
        ("TensorrtExecutionProvider", {"trt_fp16_enable": "True"})]


def test_a_bundle_runs_here_on_the_cpu_and_says_so(tmp_path: Path) -> None:
    bundle = convert(product(), target="tensorrt", bits=8, calibration=samples(), output=tmp_path / "b")
    with load(bundle.path) as model:
        assert model.accelerator == "CPUExecutionProvider"
        assert model.self_test().ok
    assert not (bundle.path / "engine_cache").exists()
