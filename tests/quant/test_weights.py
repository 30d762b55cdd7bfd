from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeq.quant.weights import quantize_weight, weight_params
from edgeq.scheme import Granularity, PerBlock, PerChannel, PerTensor, QuantType, dequantize

FLOATS = st.floats(-100, 100, width=32)


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0), PerChannel(2), PerBlock(3, 1), PerBlock(2, -1)])
@pytest.mark.parametrize("bits", [4, 8])
@given(weight=arrays(np.float32, (5, 6, 4), elements=FLOATS))
def test_integers_stay_narrow_and_errors_below_half_a_step(bits: int, granularity: Granularity,
                                                           weight: NDArray[np.float32]) -> None:
    params = weight_params(weight, QuantType(bits, granularity=granularity))
    stored = quantize_weight(weight, params)
    high = 2 ** (bits - 1) - 1
    assert np.isfinite(params.scale).all()
    assert (params.scale > 0).all()
    assert stored.min() >= -high
    assert stored.max() <= high
    error = np.abs(dequantize(stored, params) - weight)
    inside = np.abs(stored) < high
    step = dequantize(np.ones_like(stored), params)
    assert (error[inside] <= step[inside] * 0.5001).all()


def test_per_channel_beats_per_tensor_on_uneven_channels() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 40)) * np.logspace(-3, 0, 8)[:, None]
    weight = weight.astype(np.float32)

    def error(granularity: Granularity) -> float:
        params = weight_params(weight, QuantType(8, granularity=granularity))
        relative = (dequantize(quantize_weight(weight, params), params) - weight) / np.abs(weight).max(1, keepdims=True)
        return float(np.abs(relative).max())

    assert error(PerChannel(0)) < 0.005 < 0.1 < error(PerTensor())


def test_clipping_lowers_the_error_at_four_bits() -> None:
    weight = np.random.default_rng(1).standard_t(4, size=(6, 500)).astype(np.float32)
    kind = QuantType(4, granularity=PerChannel(0))
    params = weight_params(weight, kind)
    full = np.abs(weight).max(1) / 7
    plain = np.clip(np.rint(weight / full[:, None]), -7, 7) * full[:, None]
    ours = dequantize(quantize_weight(weight, params), params)
    assert ((ours - weight) ** 2).sum() < 0.75 * ((plain - weight) ** 2).sum()


def test_an_all_zero_channel_has_a_finite_scale() -> None:
    weight = np.zeros((3, 4), np.float32)
    weight[1] = 1
    params = weight_params(weight, QuantType(8, granularity=PerChannel(0)))
    assert (params.scale > 0).all()
    assert not quantize_weight(weight, params)[0].any()
