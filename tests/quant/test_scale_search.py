"""Steps of weight grids that need no data: on arrays, against a fine search."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.quant.scale_search import ScaleSearch, clipped, full, half_quadratic

LIMIT = 7
Array = NDArray[np.float32]


def error(rows: Array, steps: Array, power: float) -> NDArray[np.float64]:
    codes = np.clip(np.rint(rows / steps[:, None]), -LIMIT, LIMIT)
    return (np.abs(rows - codes * steps[:, None]).astype(np.float64)**power).sum(axis=1)


def rows(draw: Callable[..., Array], count: int = 30) -> Array:
    return draw(size=(count, 200)).astype(np.float32)


@pytest.mark.parametrize(("search", "power"), [(clipped, 2.0), (half_quadratic, 0.7)])
@pytest.mark.parametrize("kind", ["normal", "laplace", "standard_t"])
def test_a_search_comes_near_the_best_step_in_its_own_measure(search: ScaleSearch, power: float, kind: str) -> None:
    random = np.random.default_rng(0)
    data = rows({"normal": random.normal, "laplace": random.laplace,
                 "standard_t": lambda size: random.standard_t(3, size=size)}[kind])
    found = error(data, search(data, LIMIT), power)
    fine = [error(data, full(data, LIMIT) * np.float32(part), power) for part in np.linspace(0.2, 1, 200)]
    every = np.min(fine, axis=0)
    assert np.median(found / every) < 1.1
    assert (found <= error(data, full(data, LIMIT), power) * 1.0001).all()


@pytest.mark.parametrize("search", [full, clipped, half_quadratic])
def test_scale_and_zeros_are_no_trouble(search: ScaleSearch) -> None:
    data = rows(np.random.default_rng(1).normal, 4)
    assert search(data * np.float32(1e-4), LIMIT) == pytest.approx(search(data, LIMIT) * 1e-4, rel=1e-2)
    silent = search(np.zeros((2, 5), np.float32), LIMIT)
    assert np.isfinite(silent).all()
