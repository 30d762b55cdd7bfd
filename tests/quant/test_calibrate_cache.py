"""Statistics that are kept in a file: resumed as if never interrupted, and refused where they do not belong."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import feeds, residual

from edgeq import convert
from edgeq.errors import CalibrationError
from edgeq.quant.calibrate import Statistics, calibrate
from edgeq.quant.calibrate.cache import calibrate_with_cache
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import Samples, open_samples

SHAPE = (1, 3, 9, 7)
VALUES = ("x", "a", "c")


def samples(count: int, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    data = [{"x": random.normal(size=SHAPE).astype(np.float32)} for _ in range(count)]
    return open_samples(data, {"x": InputSpec("float32", SHAPE)})


def equal(a: Statistics, b: Statistics) -> bool:
    return a.samples == b.samples and set(a) == set(b) and all(
        np.array_equal(a[name].counts, b[name].counts) and (a[name].min, a[name].max) == (b[name].min, b[name].max)
        for name in a)


def test_more_samples_go_on_where_fewer_ended(tmp_path: Path) -> None:
    model, path, done = residual(), tmp_path / "statistics.npz", list[int]()
    calibrate_with_cache(path, model, VALUES, samples(5))
    found = calibrate_with_cache(path, model, VALUES, samples(12), progress=done.append)
    assert done == [6, 7, 8, 9, 10, 11, 12]
    assert equal(found, calibrate(model, VALUES, samples(12)))
    again = calibrate_with_cache(path, model, VALUES, samples(12), progress=lambda count: pytest.fail("calibrated"))
    assert equal(again, found)
    assert again.earlier is not None
    assert found.earlier is not None
    assert equal(again.earlier, found.earlier)
    assert [file.name for file in tmp_path.iterdir()] == ["statistics.npz"]


def other_weights() -> ir.Model:
    model = residual()
    value = model.graph.initializers["w1"]
    value.const_value = ir.tensor(value.const_value.numpy() + np.float32(1e-3), name="w1")
    return model


@pytest.mark.parametrize(("model", "values", "data", "words"), [
    (other_weights(), VALUES, samples(5), "the statistics of another model"),
    (residual(), VALUES, samples(5, seed=1), "5 samples that are not the first of the given 5"),
    (residual(), VALUES, samples(4), "5 samples that are not the first of the given 4"),
    (residual(), (*VALUES, "y"), samples(5), "the statistics of other values"),
])
def test_a_stale_file_is_refused_and_left_alone(model: ir.Model, values: tuple[str, ...], data: Samples, words: str,
                                                tmp_path: Path) -> None:
    path = tmp_path / "statistics.npz"
    calibrate_with_cache(path, residual(), VALUES, samples(5))
    before = path.read_bytes()
    with pytest.raises(CalibrationError, match=words):
        calibrate_with_cache(path, model, values, data)
    assert path.read_bytes() == before


def test_a_conversion_from_the_file_is_the_same_conversion(tmp_path: Path) -> None:
    made = [convert(residual(), target="onnxruntime", output=tmp_path / name, calibration=feeds(SHAPE),
                    calibration_cache=tmp_path / "statistics.npz") for name in ("a", "b")]
    assert (made[0].path / "model.onnx").read_bytes() == (made[1].path / "model.onnx").read_bytes()
    assert made[0].report["calibration"]["movement"] == made[1].report["calibration"]["movement"]
