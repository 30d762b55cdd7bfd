"""Ranges and the grids that they become."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.quant.calibrate import CALIBRATORS, TensorStatistics, entropy, minmax, mse, percentile
from edgeq.quant.params import grid
from edgeq.scheme import QuantType, dequantize, quantize

TYPES = {
    "uint8": QuantType(8, signed=False, symmetric=False),
    "int8 asymmetric": QuantType(8, signed=True, symmetric=False),
    "int8": QuantType(8),
    "int16": QuantType(16),
}
kinds = st.sampled_from(sorted(TYPES))
bounds = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = st.one_of(st.just(0.0), st.floats(1e-20, 1e20), st.floats(-1e20, -1e-20))


@given(bounds, bounds, kinds)
def test_zero_is_exact_and_no_grid_degenerates(a: float, b: float, kind: str) -> None:
    params = grid(min(a, b), max(a, b), TYPES[kind])
    assert params.scale.dtype == np.float32
    assert params.zero_point.dtype == np.int32
    assert np.isfinite(params.scale)
    assert params.scale >= np.finfo(np.float32).smallest_normal
    assert params.type.range[0] <= params.zero_point <= params.type.range[1]
    assert dequantize(quantize(np.zeros(1, np.float32), params), params) == 0


@given(moderate, moderate, kinds)
def test_the_range_is_covered_within_half_a_step(a: float, b: float, kind: str) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    params = grid(low, high, TYPES[kind])
    ends = np.array([low, high], np.float32)
    error = np.abs(dequantize(quantize(ends, params), params).astype(np.float64) - ends)
    assert (error <= params.scale * (0.5 + 1e-3)).all()  # 1e-3: float32's rounding of 32767 steps


@pytest.mark.parametrize("kind", TYPES)
def test_a_constant_zero_gets_a_defined_grid(kind: str) -> None:
    params = grid(0.0, 0.0, TYPES[kind])
    assert (float(params.scale), int(params.zero_point)) == (1.0, 0)


def test_a_known_grid() -> None:
    params = grid(-1.0, 3.0, TYPES["uint8"])
    assert float(params.scale) == np.float32(4 / 255)
    assert int(params.zero_point) == 64  # 63.75 rounded


@pytest.mark.parametrize("bad", [(np.nan, 1.0), (0.0, np.inf), (2.0, 1.0)])
def test_what_is_no_range_is_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not a range"):
        grid(*bad, TYPES["uint8"])


def squared_error(data: np.ndarray, bounds_: tuple[float, float]) -> float:
    params = grid(*bounds_, TYPES["uint8"])
    return float(((dequantize(quantize(data, params), params) - data) ** 2).mean())


def with_outlier(rng: np.random.Generator) -> np.ndarray:
    data = rng.normal(size=60_000).astype(np.float32)
    data[123] = 60.0
    return data


def test_a_planted_outlier_makes_mse_and_percentile_beat_minmax() -> None:
    data = with_outlier(np.random.default_rng(3))
    bulk = np.delete(data, 123)
    statistics = TensorStatistics.empty().add(data)
    errors = {name: squared_error(bulk, calibrator(statistics)) for name, calibrator in CALIBRATORS.items()}
    assert errors["percentile"] < errors["minmax"] / 10
    assert squared_error(data, mse(statistics)) <= min(squared_error(data, minmax(statistics)),
                                                       squared_error(data, percentile(statistics)))


@pytest.mark.parametrize("shape", ["normal", "relu", "laplace", "lognormal", "relu6"])
def test_mse_finds_what_brute_force_on_the_data_finds(shape: str) -> None:
    """Against quantizing the data itself with every clip of a fine search, not the histogram."""
    rng = np.random.default_rng(11)
    data = {"normal": rng.normal(size=50_000), "relu": np.maximum(rng.normal(size=50_000), 0),
            "laplace": rng.laplace(size=50_000), "lognormal": rng.lognormal(sigma=1.5, size=50_000),
            "relu6": np.clip(rng.normal(2, 4, 50_000), 0, 6)}[shape].astype(np.float32)
    low, high = float(min(data.min(), 0)), float(data.max())
    fractions = np.linspace(0.1, 1.0, 46)
    lows = low * fractions if low < 0 else np.zeros(1)
    best = min(squared_error(data, (a, b)) for a in lows[:: 5 if low < 0 else 1] for b in high * fractions)
    assert squared_error(data, mse(TensorStatistics.empty().add(data))) <= best * 1.03


def test_mse_clips_less_for_more_bits() -> None:
    statistics = TensorStatistics.empty().add(np.random.default_rng(1).laplace(size=60_000))
    spans = [high - low for low, high in (mse(statistics, bits) for bits in (4, 8, 16))]
    assert spans[0] < spans[1] < spans[2]
    assert spans[2] == pytest.approx(np.subtract(*reversed(minmax(statistics))), rel=0.05)


@pytest.mark.parametrize("name", CALIBRATORS)
@given(data=st.lists(st.floats(-1e6, 1e6, width=32), min_size=0, max_size=30))
def test_every_range_contains_zero_and_stays_within_the_data(name: str, data: list[float]) -> None:
    statistics = TensorStatistics.empty().add(np.array(data, np.float32))
    low, high = CALIBRATORS[name](statistics)
    assert min([*data, 0.0]) <= low <= 0 <= high <= max([*data, 0.0])


def test_percentile_cuts_what_it_says() -> None:
    data = np.linspace(-1, 1, 40_001, dtype=np.float32)
    statistics = TensorStatistics.empty().add(data)
    low, high = percentile(statistics, percent=90.0)
    assert (low, high) == pytest.approx((-0.9, 0.9), abs=statistics.width)


def divergence(data: np.ndarray, low: float, high: float, width: float, levels: int) -> float:
    """Kullback-Leibler divergence of the elements from what `levels` levels tell of those within, by its definition."""
    edges = np.arange(round((high - low) / width) + 1) * width + low
    inside, _ = np.histogram(data[(data > low) & (data < high) & (np.abs(data) >= width)], edges)
    true = inside.astype(float)
    true[0] += (data <= low).sum() if low < 0 else 0
    true[-1] += (data >= high).sum()
    told = np.zeros_like(true)
    for level in range(levels):
        bins = [k for k in range(len(inside)) if k * levels // len(inside) == level and inside[k]]
        told[bins] = inside[bins].sum() / max(len(bins), 1)
    told[(true > 0) & (told == 0)] = 0.5
    true, told = true / true.sum(), told / told.sum()
    return float(sum(p * np.log(p / q) for p, q in zip(true, told, strict=True) if p))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_entropy_finds_what_brute_force_by_the_definition_finds(bits: int) -> None:
    random = np.random.default_rng(5)
    data = np.abs(np.concatenate([random.normal(size=15_000), random.normal(size=30, scale=6)])).astype(np.float32)
    statistics = TensorStatistics.empty().add(data)
    width, last = statistics.width, int(data.max() / statistics.width)
    found = entropy(statistics, bits)
    assert found[0] == 0
    ends = [int(end) + 1 for end in np.linspace(0, last, 64) if end >= 2**bits]
    best = min(divergence(data, 0.0, end * width, width, 2**bits) for end in ends)
    assert divergence(data, 0.0, min(round(found[1] / width), last + 1) * width, width, 2**bits) <= best * 1.02


def test_entropy_clips_a_planted_outlier_on_both_sides() -> None:
    data = with_outlier(np.random.default_rng(3))
    low, high = entropy(TensorStatistics.empty().add(data))
    assert 2 < high < 30
    assert low == data.min() or -6 < low < -2


def test_entropy_of_grids_finer_than_the_histogram_is_the_whole_range() -> None:
    statistics = TensorStatistics.empty().add(with_outlier(np.random.default_rng(3)))
    assert entropy(statistics, 16) == minmax(statistics)
