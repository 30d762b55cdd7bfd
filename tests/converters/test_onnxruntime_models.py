"""Real networks that onnxruntime's own quantizer made, with unsigned and with signed activations."""
from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from zoo_models import needs_zoo, zoo

from edgeq.backend import EmitOptions
from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq_converters.onnxfile import MODEL
from edgeq_converters.onnxruntime import emit

# model -> integer kernels that it has to end in, the least SQNR in dB of the kernels against the graph run op by op.
# The kernels round sums in other places; through 12 layers of attention that adds up.
NETWORKS = {
    "cifar10_resnet20": ({"QLinearConv": 19, "QLinearAdd": 9, "QGemm": 1}, 40),
    "kws_dscnn_mlperf": ({"QLinearConv": 9, "QGemm": 1}, 50),
    "imagenet_squeezenet11": ({"QLinearConv": 26}, 40),
    "kwt1_transformer": ({"QLinearMatMul": 97, "QLinearAdd": 62, "QGemm": 1}, 25),
}
SAMPLES = 8


def quantize_static(model: ir.Model, feeds: list[dict[str, Any]], folder: Path, activation: str) -> ir.Model:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    ir.save(model, folder / "float.onnx")
    quantization.quantize_static(
        str(folder / "float.onnx"), str(folder / "qdq.onnx"), Reader(), quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType[activation], weight_type=quantization.QuantType.QInt8, per_channel=True)
    return load_model(folder / "qdq.onnx")


def fused(path: Path, folder: Path, feeds: list[dict[str, Any]]) -> tuple[Counter[str], NDArray[Any]]:
    """The ops of the optimized graph, and the first output for every feed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx", load_external_data=False).graph.node)
    return ops, np.concatenate([session.run(None, feed)[0] for feed in feeds])


@needs_zoo
@pytest.mark.parametrize("activation", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_quantized_elsewhere_runs_in_integers(name: str, activation: str, tmp_path: Path) -> None:
    feeds = list(islice(zoo().feeds(name, "calib"), SAMPLES))
    evaluated = list(islice(zoo().feeds(name, "eval"), SAMPLES))
    network = load_model(zoo().model(name), inputs={key: data.shape for key, data in feeds[0].items()})
    canonicalize(network)
    given = quantize_static(network, feeds, tmp_path, activation)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    emit(given, bundle, EmitOptions())
    assert sum(file.stat().st_size for file in bundle.iterdir()) < (tmp_path / "qdq.onnx").stat().st_size
    expected = np.concatenate([next(iter(found.values())) for found in run_onnx(given, evaluated)])
    rewritten = np.concatenate([next(iter(found.values())) for found in run_onnx(ir.load(bundle / MODEL), evaluated)])
    np.testing.assert_array_equal(rewritten, expected)
    ops, outputs = fused(bundle / MODEL, tmp_path, evaluated)
    wanted, decibels = NETWORKS[name]
    assert {op: ops[op] for op in wanted} == wanted
    assert 10 * np.log10((expected**2).sum() / max(((outputs - expected) ** 2).sum(), 1e-20)) > decibels
    assert (outputs.argmax(-1) == expected.argmax(-1)).all()
    if activation == "QInt8" and name != "kws_dscnn_mlperf":  # which has no value with two readers
        as_given, _ = fused(tmp_path / "qdq.onnx", tmp_path, evaluated[:1])
        assert sum(as_given[op] for op in wanted) < sum(wanted.values()), "the trap that the shift to uint8 avoids"
