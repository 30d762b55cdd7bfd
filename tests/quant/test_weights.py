from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeq.quant.params import grid
from edgeq.quant.rounding import nearest, sum_preserving
from edgeq.quant.weights import quantize_weight, weight_params, widen_for_bias
from edgeq.scheme import Granularity, PerBlock, PerChannel, PerTensor, QuantType, dequantize

FLOATS = st.floats(-100, 100, width=32)


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0), PerChannel(2), PerBlock(3, 1), PerBlock(2, -1)])
@pytest.mark.parametrize("bits", [4, 8])
@given(weight=arrays(np.float32, (5, 6, 4), elements=FLOATS))
def test_integers_stay_narrow_and_errors_below_half_a_step(bits: int, granularity: Granularity,
                                                           weight: NDArray[np.float32]) -> None:
    params = weight_params(weight, QuantType(bits, granularity=granularity))
    stored = quantize_weight(weight, params, nearest)
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
    weight = (np.random.default_rng(0).normal(size=(8, 40)) * np.logspace(-3, 0, 8)[:, None]).astype(np.float32)

    def error(granularity: Granularity) -> float:
        params = weight_params(weight, QuantType(8, granularity=granularity))
        error = dequantize(quantize_weight(weight, params, nearest), params) - weight
        return float(np.abs(error / np.abs(weight).max(1, keepdims=True)).max())

    assert error(PerChannel(0)) < 0.005 < 0.1 < error(PerTensor())


@pytest.mark.parametrize(("shape", "kind"), [
    ((5, 3, 3, 2), QuantType(4, granularity=PerChannel(0))),
    ((3, 5, 2, 3), QuantType(8, granularity=PerChannel(1))),
    ((12, 7), QuantType(4, granularity=PerBlock(4, 0))),
])
def test_sum_preserving_rounding_keeps_every_sum_within_a_step_and_every_weight_within_one(
        shape: tuple[int, ...], kind: QuantType) -> None:
    weight = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    params = weight_params(weight, kind)
    error = {rounding: (dequantize(quantize_weight(weight, params, rounding), params) - weight)
             / dequantize(np.ones(shape, np.int8), params) for rounding in (nearest, sum_preserving)}
    assert np.abs(error[sum_preserving]).max() < 1.0001, "rounded up or down, no further"
    axes = {PerChannel(0): (1, 2, 3), PerChannel(1): (0, 2, 3)}
    if kind.granularity in axes:
        sums = {rounding: np.abs(e.sum(axes[kind.granularity])).max() for rounding, e in error.items()}
    else:
        sums = {rounding: np.abs(e.reshape(3, 4, 7).sum(1)).max() for rounding, e in error.items()}
    assert sums[sum_preserving] < 0.51 < sums[nearest]


def test_an_all_zero_channel_has_a_finite_scale() -> None:
    weight = np.zeros((3, 4), np.float32)
    weight[1] = 1
    params = weight_params(weight, QuantType(8, granularity=PerChannel(0)))
    assert (params.scale > 0).all()
    assert not quantize_weight(weight, params, nearest)[0].any()


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(1)])
@pytest.mark.parametrize(("bits", "wide"), [(4, False), (8, False), (8, True)])
def test_an_accumulator_holds_its_bias_and_all_products(bits: int, wide: bool, granularity: Granularity) -> None:
    """Weights of 1e-5 beside a bias of -13, under the largest input that the grid holds; wide: of 16 bits, in 34."""
    weight = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32) * np.float32([1, 1e-5, 1e-7])
    bias, levels = np.float32([3, -13, 40]), 65535 if wide else 255
    step = 1e-6 if wide else 0.02
    kind = QuantType(bits, granularity=granularity)
    inputs = grid(0, levels * step, QuantType(16 if wide else 8, signed=False, symmetric=False))
    params = widen_for_bias(weight_params(weight, kind), inputs, bias, weight, 64 if wide else 32)
    stored = quantize_weight(weight, params, nearest).astype(np.int64)
    start = np.rint(bias.astype(np.float64) / (step * params.scale.astype(np.float64)))
    assert (np.abs(start) + levels * np.abs(stored).sum(0)).max() < 2**(34 if wide else 31)
    if isinstance(granularity, PerChannel):
        assert params.scale[0] == weight_params(weight, kind).scale[0]  # where there was room nothing changes
        assert params.scale[2] > weight_params(weight, kind).scale[2]


def test_weights_of_any_size_keep_their_steps() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32) * np.float32([[1], [1e-20], [0]])
    params = weight_params(weight, QuantType(8, granularity=PerChannel(0)))
    stored = quantize_weight(weight, params, nearest)
    assert np.abs(stored).max(1).tolist() == [127, 127, 0]
    assert np.isfinite(1 / params.scale).all()
