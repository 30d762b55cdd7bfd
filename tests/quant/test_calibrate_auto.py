"""--calibrator auto: by the error at the outputs, tensor by tensor."""
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal
from zoo_models import needs_zoo, zoo

from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.calibrate.auto import choose_calibrators
from edgeq.quant.plan import make_plan
from edgeq.quant.quantize import quantize
from edgeq.scheme import PRESETS
from edgeq.verification.compare import compare
from edgeq_converters.onnxruntime.target import ONNXRUNTIME


def branches():  # type: ignore[no-untyped-def]
    """Channel 0 of `a` and of `b` has outliers that x has not: y does not hear them, z hears nothing else."""
    deaf, keen = normal(5, 4, 1, 1, seed=1), np.zeros((5, 4, 1, 1), np.float32)
    deaf[:, 0] = 0
    keen[:, 0] = 1
    loud = np.diag(np.array([10, 1, 1, 1], np.float32))[:, :, None, None]
    return network("""
        g (float[1,4,9,7] x) => (float[1,5,9,7] y, float[1,5,9,7] z) {
            a = Conv (x, w1)
            y = Conv (a, w2)
            b = Conv (x, w3)
            z = Conv (b, w4)
        }""", w1=loud, w2=deaf, w3=2 * loud, w4=keen)


def spiky(count: int, seed: int) -> list[dict[str, NDArray[np.float32]]]:
    random = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        data = random.normal(size=(1, 4, 9, 7))
        data[0, 0] *= 0.002
        data[0, 0, random.integers(9), random.integers(7)] = 4
        samples.append({"x": data.astype(np.float32)})
    return samples


def test_each_tensor_gets_what_its_readers_need() -> None:
    model, samples = branches(), spiky(16, 0)
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w8a8"])
    statistics = calibrate(model, plan.sources, samples)
    chosen = choose_calibrators(model, plan, statistics, samples[:8], samples[8:])
    ranges = {name: chosen[plan.groups[name]](statistics[name], 8) for name in ("a", "b")}
    assert ranges["a"][1] < 10  # the outliers of 40 are clipped where nobody reads them
    assert ranges["b"][1] == pytest.approx(80, rel=0.02)


def errors(item: str, count: int, tests: int) -> dict[str, float]:
    """Calibrator -> output error over signal, on samples that nothing was chosen on."""
    sizes = {name: array.shape for name, array in next(iter(zoo().feeds(item))).items()}
    model = load_model(str(zoo().model(item)), inputs=sizes)
    canonicalize(model)
    plan = make_plan(model, [ONNXRUNTIME], PRESETS["w8a8"])
    samples = list(zoo().feeds(item, "calib", count))
    statistics = calibrate(model, plan.sources, samples)
    held = list(zoo().feeds(item, "eval", tests))
    true = list(run_onnx(model, held))
    choices = {**CALIBRATORS, "auto": choose_calibrators(model, plan, statistics, samples[:8], samples[8:24])}
    return {name: 10 ** (-min(line.sqnr_db for line in compare(true, list(run_onnx(
        quantize(model, plan, statistics, choice), held)))) / 10) for name, choice in choices.items()}


@needs_zoo
@pytest.mark.full
def test_calibrators_ranked_on_the_outliers_of_a_real_transformer() -> None:
    """KWT-1 has outliers in front of its LayerNorms: one rule for all tensors clips where it must not, or nowhere."""
    found = errors("kwt1_transformer", 32, 40)
    assert found["auto"] <= 1.1 * min(found.values())
    assert found["entropy"] < found["mse"] < found["percentile"]
