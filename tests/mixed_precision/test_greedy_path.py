"""The greedy path against every assignment there is, and its bookkeeping."""
from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeq import policy
from edgeq.mixed_precision.greedy_path import Layer, Rounded, pareto_path

BITS = (4, 8, 16)


def layers(count: int, seed: int) -> dict[str, Layer]:
    generator = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        size, noise = int(generator.integers(10, 1000)), float(generator.random())
        found[f"l{number}"] = Layer({bits: size * bits for bits in BITS}, {4: noise, 8: noise / 256, 16: 0.0})
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_assignment_is_smaller_and_more_exact_than_the_path_allows(seed: int) -> None:
    """Greedy on the convex hull is optimal at its own points: what is as small has at least as much noise."""
    given = layers(5, seed)
    walked = pareto_path(given, {}, {})
    for bits in itertools.product(BITS, repeat=5):
        size = sum(layer.weight_bytes[b] for layer, b in zip(given.values(), bits, strict=True))
        noise = sum(layer.noise[b] for layer, b in zip(given.values(), bits, strict=True))
        for found in walked:
            assert size > found.weight_bytes or noise >= found.noise - 1e-12 or size == found.weight_bytes


def test_the_path_goes_from_the_smallest_to_no_noise_at_all() -> None:
    given = layers(4, 1)
    values = {"a": Rounded(0.5, frozenset({"l0", "l1"})), "b": Rounded(0.1, frozenset({"l1", "l2"}))}
    walked = pareto_path(given, values, dict.fromkeys(given, 100))
    assert set(walked[0].bits.values()) == {4}
    assert not walked[0].floats
    assert walked[-1].noise == 0
    noises = [found.noise for found in walked]
    assert noises == sorted(noises, reverse=True)


def test_a_value_costs_what_must_then_compute_in_float() -> None:
    values = {"cheap": Rounded(0.1, frozenset({"small"})), "dear": Rounded(0.1, frozenset({"large"})),
              "covered": Rounded(1e-9, frozenset({"small", "large"}))}
    walked = pareto_path({}, values, {"small": 10, "large": 90})
    assert [found.floats for found in walked] == [frozenset(), {"small"}, {"small", "large"}]
    assert [found.float_share for found in walked] == pytest.approx([0, 0.1, 1.0])
    assert walked[-1].noise == 0, "what lies between float nodes is float for nothing"
    assert policy.FLOAT_COST.value == 1.0


def test_a_step_that_needs_too_many_bytes_does_not_end_the_path() -> None:
    """An embedding holds half of a small language model; smaller layers behind it are still worth their bytes."""
    given = {"embedding": Layer({8: 1000, 16: 2000}, {8: 1.0, 16: 0.0}),
             "small": Layer({8: 100, 16: 200}, {8: 0.01, 16: 0.0}),
             "tiny": Layer({8: 10, 16: 20}, {8: 0.0001, 16: 0.0})}
    assert pareto_path(given, {}, {})[1].bits["embedding"] == 16
    walked = pareto_path(given, {}, {}, growth=1.1)
    assert [found.weight_bytes for found in walked] == [1110, 1210, 1220]
    assert walked[-1].bits == {"embedding": 8, "small": 16, "tiny": 16}
