"""Models that another tool quantized: every grid in every artifact is the source's, to the bit."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from passes.graphs import build, noise, session
from zoo_models import needs_zoo, zoo

import edgeq_runtime
from edgeq import convert
from edgeq.errors import UsageError
from edgeq.frontends import load_model as network_of
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq.passes.dynamic import without_dynamic_rounding
from edgeq.verification.mlpackage import open_package

TARGETS = ("onnxruntime", "tflite", "coreml")
NETWORK = """g (float[1,3,9,7] x) => (float[1,5] y) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 0, 0, 1]> (x, w1, b1)  r = Relu(a)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 1]> (r)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 4> (p, w2, b2)
    d = Add(c, p)  e = Concat <axis = 1> (d, p)  t = Transpose <perm = [0, 1, 3, 2]> (e)
    g1 = GlobalAveragePool(t)  f = Flatten(g1)  y = Gemm <transB = 1> (f, w3, b3) }"""
WEIGHTS = {"w1": noise(4, 3, 3, 3), "b1": noise(4), "w2": noise(4, 1, 3, 3, seed=1), "b2": noise(4, seed=2),
           "w3": noise(5, 8, seed=3), "b3": noise(5, seed=4)}
FEEDS = [{"x": noise(1, 3, 9, 7, seed=k)} for k in range(8)]
# Settings of onnxruntime.quantization.quantize_static.
SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True}
STATIC: dict[str, dict[str, Any]] = {
    "U8S8 per tensor": {"per_channel": False},
    "U8S8 per channel": {},
    "reduced range": {"reduce_range": True},
    "S8S8": {"activation_type": "QInt8"},
    "S8S8 symmetric": {"activation_type": "QInt8", "extra_options": SYMMETRIC},
    "U8U8": {"weight_type": "QUInt8", "per_channel": False},
    "U8U8 symmetric": {"weight_type": "QUInt8", "per_channel": False, "extra_options": SYMMETRIC},
    "16 bits": {"activation_type": "QUInt16"},
    "weights of 4 bits": {"weight_type": "QInt4"},
    "float weights in Q and DQ": {"extra_options": {"AddQDQPairToWeight": True}},
    "a pair for each reader": {"extra_options": {"DedicatedQDQPair": True}},
    "float biases": {"extra_options": {"QuantizeBias": False}},
    "QOperator per tensor": {"quant_format": "QOperator", "per_channel": False},
    "QOperator per channel": {"quant_format": "QOperator"},
    "QOperator S8S8": {"quant_format": "QOperator", "activation_type": "QInt8"},
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # onnxruntime.quantization, of its own helpers


def quantize_static(source: Path, made: Path, feeds: list[Any], row: dict[str, Any]) -> onnx.ModelProto:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    kinds = quantization.QuantType
    quantization.quantize_static(
        str(source), str(made), Reader(), per_channel=row.get("per_channel", True),
        quant_format=quantization.QuantFormat[row.get("quant_format", "QDQ")],
        activation_type=kinds[row.get("activation_type", "QUInt8")], weight_type=kinds[row.get("weight_type", "QInt8")],
        reduce_range=row.get("reduce_range", False), extra_options=row.get("extra_options", {}))
    return onnx.load(made)


# -- the grids of a file, by other means than our own; those of biases are products of two others ----------------------

def source_scales(model: onnx.ModelProto) -> set[bytes]:
    """Every float32 that could be a scale: those of one element, and vectors element by element."""
    constants = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if "scale" in tensor.name]
    return {number.tobytes() for array in constants if array.dtype == np.float32 for number in array.ravel()}


def onnx_scales(path: Path) -> Iterator[NDArray[Any]]:
    model = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
                 if tensor.data_type == TensorProto.FLOAT}
    biases = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT32}
    yield from (constants[node.input[1]] for node in model.graph.node
                if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in biases)


def tflite_scales(path: Path) -> Iterator[NDArray[Any]]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    for tensor in model.subgraphs[0].tensors:
        quantization = tensor.quantization
        if quantization is not None and quantization.scale is not None and tensor.type != schema.TensorType.INT32:
            yield np.asarray(quantization.scale, np.float32)


def coreml_scales(path: Path) -> Iterator[NDArray[Any]]:
    program = open_package(path, precision="float32")
    for step in (*program.steps, *(step for step, _ in program.compressed)):
        if "scale" in step.inputs:
            yield np.asarray(step.inputs["scale"], np.float32)


def artifact_scales(target: str, bundle: Any) -> list[NDArray[Any]]:
    read = {"onnxruntime": onnx_scales, "tflite": tflite_scales, "coreml": coreml_scales}[target]
    return list(read(bundle.path / bundle.manifest.entry))


def foreign(found: list[NDArray[Any]], known: set[bytes]) -> list[float]:
    """Scales that the source does not have."""
    return [float(number) for array in found for number in np.ravel(array) if number.tobytes() not in known]


# -- onnxruntime.quantization ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("target", TARGETS)
def test_quantize_static(target: str, name: str, tmp_path: Path) -> None:
    """At --bits 32, because Core ML stores scales in the precision that it computes in."""
    onnx.save(build(NETWORK, WEIGHTS), tmp_path / "float.onnx")
    given = quantize_static(tmp_path / "float.onnx", tmp_path / "q.onnx", FEEDS, STATIC[name])
    bundle = convert(given, target=target, bits=32, verify=False, output=tmp_path / "b")
    found = artifact_scales(target, bundle)
    assert len(found) >= 4 or name == "16 bits"
    assert foreign(found, source_scales(given)) == []
    integers = not bundle.report["float_on_this_engine"]
    assert integers or target != "tflite" or name in ("U8U8", "U8U8 symmetric", "16 bits")
    kernels = session(given)
    with edgeq_runtime.load(bundle.path) as model:
        for feed in FEEDS:
            (expected,) = kernels.run(None, feed)
            assert np.abs(model.run(feed)["y"] - expected).max() < 0.06 * np.abs(expected).max()


@needs_zoo
@pytest.mark.parametrize("zoo_name", ["kws_dscnn_mlperf", "cifar10_resnet20"])
@pytest.mark.parametrize("name", ["U8S8 per channel", "S8S8 symmetric", "QOperator per tensor"])
def test_trained_networks(zoo_name: str, name: str, tmp_path: Path) -> None:
    feeds = list(zoo().feeds(zoo_name, limit=4))
    given = quantize_static(zoo().model(zoo_name), tmp_path / "q.onnx", feeds, STATIC[name])
    known = source_scales(given)
    halves = {np.float32(np.float16(np.frombuffer(scale, np.float32)[0])).tobytes() for scale in known}
    for target in TARGETS:
        bundle = convert(given, target=target, calibration=feeds, output=tmp_path / target)
        found = artifact_scales(target, bundle)
        assert len(found) > 20
        assert foreign(found, known | halves if target == "coreml" else known) == []


# -- Brevitas: float weights, and a Clip where the bits are fewer than the type's --------------------------------------

def brevitas(bits: int) -> onnx.ModelProto:
    """A Conv with weights of `bits` per channel between activations of 8 and of 4 unsigned bits, as QCDQ export writes
    them (https://github.com/Xilinx/brevitas, export to ONNX QCDQ)."""
    largest = 2 ** (bits - 1) - 1
    weight = noise(4, 3, 3, 3)
    scale = (np.abs(weight).max((1, 2, 3)) / largest).astype(np.float32)
    return build("""g (float[1,3,9,7] x) => (float[1,4,7,5] y) {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
        w = QuantizeLinear <axis = 0> (f, k, o)  c = Clip(w, low, high)  v = DequantizeLinear <axis = 0> (c, k, o)
        a = Conv(d, v)  r = Relu(a)
        p = QuantizeLinear(r, t, u)  e = Clip(p, first, last)  y = DequantizeLinear(e, t, u) }""",
                 {"s": np.float32(0.031), "z": np.int8(0), "f": weight, "k": scale, "o": np.zeros(4, np.int8),
                  "low": np.int8(-largest), "high": np.int8(largest), "t": np.float32(0.37), "u": np.uint8(0),
                  "first": np.uint8(0), "last": np.uint8(15)})


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("target", TARGETS)
def test_brevitas(target: str, bits: int, tmp_path: Path) -> None:
    given = brevitas(bits)
    bundle = convert(given, target=target, bits=32, output=tmp_path / "b")
    known = {number.tobytes() for name in "skt" for tensor in given.graph.initializer if tensor.name == name
             for number in numpy_helper.to_array(tensor).ravel()}
    found = artifact_scales(target, bundle)
    assert found or (target, bits) == ("coreml", 4)  # there the scales are in the tables
    assert foreign(found, known) == []
    kernels, feed = session(given), {"x": 3 * noise(1, 3, 9, 7, seed=5)}
    (expected,) = kernels.run(None, feed)
    assert expected.max() == np.float32(15 * np.float32(0.37))  # the Clip cuts
    with edgeq_runtime.load(bundle.path) as model:
        steps = np.abs(model.run(feed)["y"] - expected) / 0.37
    assert steps.max() < 1.01
    assert (steps > 0.01).mean() < 0.01


def test_clipped_weights_take_four_bits() -> None:
    """The same integers, and no Clip is left."""
    for bits, kind in ((4, TensorProto.INT4), (8, TensorProto.INT8)):
        model = network_of(brevitas(bits))
        canonicalize(model)
        stored = next(node.inputs[0] for node in model.graph if node.op_type == "DequantizeLinear"
                      and node.inputs[0].const_value is not None)
        assert stored.dtype == kind
        weight, scale = (numpy_helper.to_array(t) for t in brevitas(bits).graph.initializer if t.name in "fk")
        expected = np.rint(weight / scale[:, None, None, None])
        np.testing.assert_array_equal(stored.const_value.numpy().astype(np.int32), expected)
        assert [node.op_type for node in model.graph].count("Clip") == 1  # of the reals, in front of the grid


# -- torch: quantize_pt2e ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", TARGETS)
def test_torch_pt2e(target: str, tmp_path: Path) -> None:
    """What convert_pt2e makes of a Conv: operators of quantized_decomposed, which torch itself exports."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch.ao.quantization.fx._decomposed")  # registers the operators

    class Converted(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            stored = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3), np.int8)
            self.register_buffer("weight", torch.from_numpy(stored))
            self.register_buffer("scale", torch.tensor([0.011, 0.023, 0.017, 0.009]))
            self.register_buffer("zero", torch.zeros(4, dtype=torch.int64))

        def forward(self, x: Any) -> Any:
            ops = torch.ops.quantized_decomposed
            grid = (0.021, -3, -128, 127, torch.int8)
            real = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *grid)
            weight = ops.dequantize_per_channel(self.weight, self.scale, self.zero, 0, -127, 127, torch.int8)
            out = (0.35, -128, -128, 127, torch.int8)
            y = torch.nn.functional.conv2d(real, weight).relu()
            return ops.dequantize_per_tensor(ops.quantize_per_tensor(y, *out), *out)

    module = Converted().eval()
    feed = noise(1, 3, 9, 7, seed=5)
    bundle = convert(torch.export.export(module, (torch.from_numpy(feed),)), target=target, bits=32,
                     output=tmp_path / "b")
    known = {np.float32(number).tobytes() for number in (0.021, 0.35, 0.011, 0.023, 0.017, 0.009)}
    found = artifact_scales(target, bundle)
    assert len({number.tobytes() for array in found for number in np.ravel(array)}) == 6
    assert foreign(found, known) == []
    with edgeq_runtime.load(bundle.path) as model:
        (got,) = model.run({model.inputs[0].name: feed}).values()
    steps = np.abs(got - module(torch.from_numpy(feed)).numpy()) / 0.35
    assert steps.max() < 1.01
    assert (steps > 0.01).mean() < 0.01


# -- grids that are found at run time ----------------------------------------------------------------------------------

RUN_TIME = {
    "convolutions": ("g (float[1,3,9,7] x) => (float[1,4,7,5] y) { a = Conv(x, w, b)  y = Relu(a) }",
                     {"w": noise(4, 3, 3, 3), "b": noise(4)}, "ConvInteger"),
    "products": ("g (float[2,5,16] x) => (float[2,5,6] y) { a = MatMul(x, w)  y = Add(a, b) }",
                 {"w": noise(16, 6), "b": noise(6)}, "MatMulInteger"),
    "recurrent": ("""g (float[7,1,12] x) => (float[7,1,1,8] y) {
        y = LSTM <hidden_size = 8> (x, w, r, b) }""",
                  {"w": noise(1, 32, 12), "r": noise(1, 32, 8), "b": noise(1, 64)}, "DynamicQuantizeLSTM"),
}


def quantize_dynamic(folder: Path, name: str, **options: Any) -> onnx.ModelProto:
    from onnxruntime import quantization

    text, weights, _ = RUN_TIME[name]
    onnx.save(build(text, weights), folder / "float.onnx")
    quantization.quantize_dynamic(str(folder / "float.onnx"), str(folder / "q.onnx"), **options)
    return onnx.load(folder / "q.onnx")


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("name", RUN_TIME)
@pytest.mark.parametrize("target", TARGETS)
def test_quantize_dynamic(target: str, name: str, per_channel: bool, tmp_path: Path) -> None:
    """ONNX Runtime runs it as it is; elsewhere the weights keep their grids and the activations stay real."""
    from onnxruntime.quantization import QuantType

    given = quantize_dynamic(tmp_path, name, per_channel=per_channel, weight_type=QuantType.QInt8)
    assert RUN_TIME[name][2] in {node.op_type for node in given.graph.node}
    bundle = convert(given, target=target, bits=32, output=tmp_path / "b")
    if target != "onnxruntime":
        assert foreign(artifact_scales(target, bundle), source_scales(given)) == []
    feed = {"x": noise(*[int(d.dim_value) for d in given.graph.input[0].type.tensor_type.shape.dim], seed=3)}
    (expected,) = session(given).run(None, feed)
    with edgeq_runtime.load(bundle.path) as model:
        assert np.abs(model.run(feed)["y"] - expected).max() < 0.04 * np.abs(expected).max()


def test_real_activations_on_the_weights_of_a_dynamic_network(tmp_path: Path) -> None:
    """Against the product with the dequantized weights, in numpy."""
    given = quantize_dynamic(tmp_path, "products", per_channel=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in given.graph.initializer}
    stored = next(array for name, array in constants.items() if name.startswith("w") and array.shape == (16, 6))
    scale, zero = (next(array for name, array in constants.items() if name == f"w_{kind}")
                   for kind in ("scale", "zero_point"))
    x = noise(2, 5, 16, seed=3)
    expected = x @ ((stored.astype(np.float32) - zero) * scale) + constants["b"]
    (found,) = run_onnx(without_dynamic_rounding(network_of(given)), [{"x": x}])
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5, atol=1e-5)


# -- what the flags mean then ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", [4, 16])
def test_other_bits_are_refused(bits: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--bits {bits}: the model is quantized already"):
        convert(brevitas(8), target="onnxruntime", bits=bits, output=tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_flags_of_quantization_change_nothing_and_that_is_said(tmp_path: Path, capsys: Any) -> None:
    from edgeq.report.text import conversion

    bundle = convert(brevitas(8), target="onnxruntime", output=tmp_path / "b")
    conversion([{"bytes": bundle.artifact_bytes, "path": "b", **bundle.report}])
    assert "The model came quantized: its integers and grids are kept, so --bits" in capsys.readouterr().out
