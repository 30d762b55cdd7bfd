"""The histogram that streams and merges: every operation leaves the counts that direct counting gives."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgeq.errors import CalibrationError
from edgeq.quant.calibrate import Statistics, TensorStatistics
from edgeq.quant.calibrate.statistics import BINS, union

EMPTY = TensorStatistics.empty()
floats = arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def direct(data: NDArray[np.float32], exponent: int) -> NDArray[np.int64]:
    """Count in float64, element by element, without any of the code under test."""
    counts = np.zeros(2 * BINS - 1, np.int64)
    for element in data.astype(np.float64):
        counts[BINS - 1 + int(element / 2.0**exponent * BINS)] += 1
    return counts


def assert_same(a: TensorStatistics, b: TensorStatistics) -> None:
    assert (a.exponent, a.min, a.max) == (b.exponent, b.min, b.max)
    np.testing.assert_array_equal(a.counts, b.counts)


@given(floats, floats)
def test_adding_in_parts_equals_direct_counting(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    found, both = EMPTY.add(first).add(second), np.concatenate([first, second])
    np.testing.assert_array_equal(found.counts, direct(both, found.exponent))
    assert found.count == both.size
    if both.size:
        assert (found.min, found.max) == (both.min(), both.max())
        assert float(np.abs(both).max()) < found.bound


@given(floats, st.integers(0, 12))
def test_doubling_equals_a_direct_histogram_of_the_wider_range(data: NDArray[np.float32], steps: int) -> None:
    found = EMPTY.add(data)
    wider = found.grown(found.exponent + steps)
    np.testing.assert_array_equal(wider.counts, direct(data, wider.exponent))


@given(floats, floats, floats)
def test_merge_is_associative_and_commutative_and_equals_adding(a: NDArray[np.float32], b: NDArray[np.float32],
                                                                 c: NDArray[np.float32]) -> None:
    x, y, z = (EMPTY.add(part) for part in (a, b, c))
    assert_same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert_same(x.merge(y), y.merge(x))
    assert_same(union([x, y, z]), EMPTY.add(np.concatenate([a, b, c])))
    assert_same(x.merge(EMPTY), x)


def test_counts_agree_with_numpy_on_the_bins_they_share(rng: np.random.Generator) -> None:
    data = rng.normal(size=16_000).astype(np.float32)
    found = EMPTY.add(data)
    edges = np.arange(1, BINS + 1) * found.width
    np.testing.assert_array_equal(found.counts[BINS:], np.histogram(data, edges)[0])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("one_sided", [True, False])
def test_large_tensors_are_counted_in_part_but_their_tails_are_exact(rng: np.random.Generator, sign: int,
                                                                      one_sided: bool) -> None:
    data = rng.normal(size=(8, 400, 401)).astype(np.float32)
    data[3, 77, 5], data[6, 1, 9] = -50, 40
    data = sign * (np.maximum(data, 0) if one_sided else data)
    found = EMPTY
    for turn, sample in enumerate(data):
        found = found.add(sample, turn)
    assert (found.min, found.max) == (data.min(), data.max())
    assert found.count == pytest.approx(data.size, rel=0.002)
    exact = direct(data.reshape(-1), found.exponent)
    outer = np.abs(np.arange(1 - BINS, BINS)) * found.width >= 3  # a 64th of the elements lies beyond 2.4
    np.testing.assert_array_equal(found.counts[outer], exact[outer])
    assert 1000 < exact[outer].sum() < data.size / 64
    deciles = np.searchsorted(np.cumsum(found.counts) / found.count, np.linspace(0.05, 0.95, 10))
    expected = np.searchsorted(np.cumsum(exact) / data.size, np.linspace(0.05, 0.95, 10))
    assert np.abs(deciles - expected).max() * found.width <= 0.04  # standard deviations: one bin of +-64 is 0.03


def test_a_large_tensor_without_a_tail(rng: np.random.Generator) -> None:
    """Half of a clipped tensor lies in its outermost bin, which is no tail."""
    found = EMPTY.add(np.clip(rng.normal(6, 2, 300_000), 0, 6))
    assert found.count == pytest.approx(300_000, rel=1e-3)
    assert found.counts[-1 - (BINS // 4 - 1)] == pytest.approx(150_000, rel=0.02)


def test_the_samples_of_a_large_tensor_take_turns() -> None:
    data = np.zeros(1 << 18, np.float32)
    data[1::4] = 1.0
    first, second = EMPTY.add(data, 0), EMPTY.add(data, 1)
    assert first.counts[BINS - 1] == data.size
    assert second.counts[BINS - 1] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        EMPTY.add(np.array([1.0, bad, 2.0], np.float32))


def test_saved_statistics_resume_exactly(tmp_path: Path) -> None:
    first, second = np.float32([0, 1, -3]), np.float32([100, 1e-8])
    Statistics({"a": EMPTY.add(first), "never": EMPTY}, 2).save(tmp_path / "statistics.npz")
    resumed = Statistics.load(tmp_path / "statistics.npz").merge(Statistics({"a": EMPTY.add(second), "b": EMPTY}, 3))
    assert resumed.samples == 5
    assert set(resumed) == {"a", "b", "never"}
    assert_same(resumed["a"], EMPTY.add(first).add(second))
    assert_same(resumed["never"], EMPTY)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"\x93NUMPY"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "statistics.npz"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"statistics\.npz.*calibrate again"):
        Statistics.load(path)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
