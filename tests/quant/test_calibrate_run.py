"""The pass over a model: against onnxruntime's own calibrators, and what it does with bad samples and bad names."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from zoo_models import needs_zoo, zoo

from edgeq.errors import CalibrationError, ModelError
from edgeq.quant.calibrate import CALIBRATORS, calibrate, minmax, percentile
from edgeq.quant.params import grid
from edgeq.scheme import QuantType, dequantize, quantize

RESNET = "cifar10_resnet20"


def network(weight: float = 1.0, size: int | str = 6) -> ir.Model:
    """x [N,3,5,size] -> Conv 1x1 -> c -> Relu -> r -> Add(x) -> y."""
    w = ir.tensor(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * weight, name="w")
    model = ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3,5,{size}] x, float[3,3,1,1] w) => (float[N,3,5,{size}] y)
        {{ c = Conv(x, w)  r = Relu(c)  y = Add(r, x) }}""")
    value = model.graph.inputs.pop()
    value.const_value = w
    model.graph.register_initializer(value)
    return model


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    return [{"x": rng.normal(size=(1, 3, 5, 6)).astype(np.float32)} for _ in range(count)]


def test_every_value_gets_the_numbers_it_has() -> None:
    samples = feeds(5)
    found = calibrate(network(weight=-2.0), ["x", "c", "r", "y"], samples)
    x = np.concatenate([feed["x"] for feed in samples])
    for name, data in {"x": x, "c": -2 * x, "r": np.maximum(-2 * x, 0), "y": np.maximum(-2 * x, 0) + x}.items():
        assert found[name].count == data.size
        assert minmax(found[name]) == pytest.approx((min(data.min(), 0), data.max()), rel=1e-6), name
    assert found.samples == 5


def test_the_result_does_not_depend_on_threads_or_on_the_split() -> None:
    samples, names = feeds(7), ["x", "r", "y"]
    whole = calibrate(network(), names, samples, threads=1)
    parts = calibrate(network(), names, samples[:3]).merge(calibrate(network(), names, samples[3:], threads=3))
    for name in names:
        np.testing.assert_array_equal(whole[name].counts, parts[name].counts)
        assert (whole[name].min, whole[name].max) == (parts[name].min, parts[name].max)


def test_the_model_stays_as_it_is() -> None:
    model = network()
    before = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    calibrate(model, ["c", "y"], feeds(1))
    assert ir.serde.serialize_model(model).SerializeToString(deterministic=True) == before


def test_samples_may_differ_in_shape() -> None:
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(1, 3, 5, size)).astype(np.float32)} for size in (2, 9, 4)]
    assert calibrate(network(size="W"), ["r"], samples)["r"].count == 3 * 5 * 15


def test_progress_counts_samples_and_only_inputs_may_be_planned() -> None:
    seen: list[int] = []
    calibrate(network(), ["x"], feeds(3), progress=seen.append)
    assert seen == [1, 2, 3]


def test_samples_are_drawn_as_they_are_needed() -> None:
    """A generator of a million samples, stopped by an error at the third: no more than the queue was drawn."""
    drawn = 0

    def endless() -> Iterator[dict[str, np.ndarray]]:
        nonlocal drawn
        for drawn in range(1, 1_000_000):
            yield {"x": np.full((1, 3, 5, 6), np.nan if drawn == 3 else 1.0, np.float32)}

    with pytest.raises(CalibrationError, match="sample 2 gives NaN or infinity in the value 'c'"):
        calibrate(network(), ["c"], endless())
    assert drawn <= 6


def test_no_samples() -> None:
    with pytest.raises(CalibrationError, match="no calibration samples"):
        calibrate(network(), ["c"], [])


def test_a_value_that_overflows_is_named() -> None:
    with pytest.raises(CalibrationError, match="sample 0 gives NaN or infinity in the value 'c'"):
        calibrate(network(weight=1e38), ["x", "c"], [{"x": np.full((1, 3, 5, 6), 1e5, np.float32)}])


def test_a_sample_that_the_engine_refuses_is_numbered() -> None:
    samples = [*feeds(1), {"x": np.ones((1, 4, 5, 6), np.float32)}]
    with pytest.raises(CalibrationError, match="onnxruntime refuses sample 1"):
        calibrate(network(), ["c"], samples)


def test_names_that_the_model_does_not_compute_are_listed() -> None:
    with pytest.raises(ModelError, match="'nothing', 'w'"):
        calibrate(network(), ["c", "nothing", "w"], feeds(1))


@needs_zoo
@pytest.mark.parametrize("method", ["MinMax", "Percentile"])
def test_ranges_agree_with_onnxruntimes_calibrators(method: str, tmp_path: Path) -> None:
    """On a real net and real images. Percentile: within two bins of theirs and one of ours, the resolution of both."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    samples = list(zoo().feeds(RESNET, "calib", 12))

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    bins = 4096
    options = {"num_bins": bins, "percentile": 99.9, "symmetric": False} if method == "Percentile" else {}
    theirs = create_calibrator(zoo().model(RESNET), ["Conv", "Add", "Relu"], str(tmp_path / "augmented.onnx"),
                               CalibrationMethod[method], extra_options=options)
    theirs.collect_data(Reader())
    ranges = {name: [float(np.squeeze(end)) for end in data.range_value]
              for name, data in theirs.compute_data().data.items()}
    model = ir.load(zoo().model(RESNET))
    names = [name for name in ranges if name not in model.graph.initializers]
    assert len(names) > 40
    ours = calibrate(model, names, samples, threads=1)
    for name in names:
        low, high = minmax(ours[name]) if method == "MinMax" else percentile(ours[name], percent=99.9)
        expected = min(ranges[name][0], 0.0), max(ranges[name][1], 0.0)
        span = max(-ours[name].min, ours[name].max)
        tolerance = 1e-5 * span if method == "MinMax" else 2 * span / bins + ours[name].width
        assert (low, high) == pytest.approx(expected, abs=tolerance), name


@needs_zoo
def test_mse_loses_least_on_the_real_activations_that_it_was_given() -> None:
    model = ir.load(zoo().model(RESNET))
    names = [node.outputs[0].name for node in model.graph if node.op_type == "Relu"]
    samples = list(zoo().feeds(RESNET, "calib", 12))
    found = calibrate(model, names, samples)
    data = computed(model, names, samples)
    for name in names:
        errors = {key: squared_error(data[name], calibrator(found[name])) for key, calibrator in CALIBRATORS.items()}
        assert errors["mse"] <= 1.005 * min(errors.values()), (name, errors)  # the bins' resolution


def computed(model: ir.Model, names: list[str], samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Values of every sample by onnxruntime, stacked; without the code under test."""
    import onnxruntime

    proto = ir.serde.serialize_model(model)
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, map(np.concatenate, zip(*(session.run(names, feed) for feed in samples), strict=True)),
                    strict=True))


def squared_error(data: np.ndarray, bounds: tuple[float, float]) -> float:
    params = grid(*bounds, QuantType(8, signed=False, symmetric=False))
    return float(((dequantize(quantize(data, params), params) - data) ** 2).mean())


MEMORY = """
import sys
import numpy as np
import onnx_ir as ir
from edgeq.quant.calibrate import calibrate
model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["" : 21]>
    g (float[1,16,256,256] x) => (float[1,16,256,256] y) { a = Relu(x)  b = Neg(a)  y = Exp(b) }''')
rng = np.random.default_rng(0)
samples = ({"x": rng.normal(size=(1, 16, 256, 256)).astype(np.float32)} for _ in range(int(sys.argv[1])))
calibrate(model, ["x", "a", "b", "y"], samples, threads=2)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # KiB
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_samples() -> None:
    """One sample's tensors are 16 MiB, so keeping 56 more of them would take 900."""
    few, many = (int(subprocess.run([sys.executable, "-c", MEMORY, str(count)], check=True, capture_output=True,
                                    env={"PYTHONPATH": ":".join(sys.path)}).stdout) for count in (8, 64))
    assert many < few + 48 * 1024
