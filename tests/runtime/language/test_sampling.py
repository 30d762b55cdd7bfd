"""How a token is drawn: against rows computed by hand, a plain computation without short cuts, and transformers."""
from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq_runtime import EngineError, InputError
from edgeq_runtime.language.sampling import Sampler, Sampling, candidates, penalize

SHARES = (.1, .4, .2, .3)


def drawn_from(logits: NDArray[Any], **words: Any) -> dict[int, float]:
    """Token -> its probability."""
    tokens, weights = candidates(np.asarray(logits, np.float32), Sampling(**{"temperature": 1.0, **words}))
    places = np.arange(len(logits)) if tokens is None else tokens
    return dict(sorted(zip(places.tolist(), (weights / weights.sum()).tolist(), strict=True)))


@pytest.mark.parametrize(("words", "expected"), [
    ({}, {0: .1, 1: .4, 2: .2, 3: .3}),
    ({"temperature": .5}, {0: .01 / .3, 1: .16 / .3, 2: .04 / .3, 3: .09 / .3}),
    ({"top_k": 2}, {1: 4 / 7, 3: 3 / 7}),
    ({"top_k": 9}, {0: .1, 1: .4, 2: .2, 3: .3}),
    ({"top_p": .39}, {1: 1}),
    ({"top_p": .41}, {1: 4 / 7, 3: 3 / 7}),
    ({"top_p": .71}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
    ({"min_p": .49}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
    ({"top_k": 3, "top_p": .76}, {1: 4 / 7, 3: 3 / 7}),  # of the three that are left, 7/9 weigh more
    ({"top_k": 3, "top_p": .78}, {1: 4 / 9, 2: 2 / 9, 3: 3 / 9}),
    ({"temperature": .5, "top_p": .8}, {1: .16 / .25, 3: .09 / .25}),  # temperature first: else 2 is reached as well
], ids=str)
def test_by_hand(words: dict[str, Any], expected: dict[int, float]) -> None:
    found = drawn_from(np.log(SHARES), **words)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_penalty_makes_likely_and_unlikely_ones_less_likely() -> None:
    logits = np.array([2, -2, 1, 0], np.float32)
    penalize(logits, np.array([True, True, False, True]), 2.0)
    assert logits.tolist() == [1, -4, 1, 0]


def plain(logits: NDArray[Any], temperature: float, top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """The definition, with everything sorted."""
    most = float(logits.max())
    weights = {k: math.exp((value - most) / temperature) for k, value in enumerate(logits.tolist())}
    order = sorted(weights, key=lambda k: -weights[k])
    if top_k:
        order = [k for k in order if weights[k] >= weights[order[min(top_k, len(order)) - 1]]]
    total, before, kept = math.fsum(weights[k] for k in order), 0.0, []
    for k in order:
        if before >= top_p * total and top_p < 1:
            break
        kept.append(k)
        before += weights[k]
    kept = [k for k in kept if weights[k] >= min_p * weights[order[0]]]
    total = math.fsum(weights[k] for k in kept)
    return {k: weights[k] / total for k in sorted(kept)}


@pytest.mark.parametrize("seed", range(12))
def test_without_short_cuts(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, random.choice([.01, 1, 4]), 3000).astype(np.float32)
    words = {"temperature": float(random.uniform(.3, 2)), "top_k": int(random.choice([0, 1, 40])),
             "top_p": float(random.choice([.05, .5, .9, .999, 1])), "min_p": float(random.choice([0, .02, .3]))}
    expected, found = plain(logits, **words), drawn_from(logits, **words)
    assert found.keys() == expected.keys()
    assert max(abs(found[k] - expected[k]) for k in found) < 1e-6


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", [
    {"temperature": .7}, {"top_k": 50}, {"top_p": .9}, {"min_p": .1}, {"repetition_penalty": 1.3, "top_p": .95},
    {"temperature": 1.5, "top_k": 100, "top_p": .8, "min_p": .05, "repetition_penalty": 1.1}], ids=str)
def test_as_transformers(words: dict[str, Any]) -> None:
    """The processors in the order that `generate` of transformers puts them in."""
    process = pytest.importorskip("transformers.generation.logits_process", reason="installed by `make test-full`")
    torch = pytest.importorskip("torch")
    makers = {"repetition_penalty": process.RepetitionPenaltyLogitsProcessor,
              "temperature": process.TemperatureLogitsWarper, "top_k": process.TopKLogitsWarper,
              "top_p": process.TopPLogitsWarper, "min_p": process.MinPLogitsWarper}
    for seed in range(20):
        random = np.random.default_rng(seed)
        logits, text = random.normal(0, 3, 20_000).astype(np.float32), random.integers(0, 20_000, 300)
        scores = torch.tensor(logits)[None].clone()
        for name, maker in makers.items():
            if name in words:
                scores = maker(words[name])(torch.tensor(text)[None], scores)
        theirs = torch.softmax(scores[0].double(), 0).numpy()
        seen = np.zeros(len(logits), bool)
        seen[text] = True
        penalize(logits, seen, words.get("repetition_penalty", 1.0))
        ours = drawn_from(logits, **words)
        assert [*ours] == np.flatnonzero(theirs).tolist()
        assert np.abs(theirs[[*ours]] - [*ours.values()]).max() < 1e-6


def test_draws_are_as_frequent_as_they_are_likely() -> None:
    """Chi squared of 5,000 draws: with 2 degrees of freedom beyond 13.8 once in a thousand seeds."""
    sampler = Sampler(Sampling(temperature=1.0, top_k=3, seed=5), 4, ())
    counts = np.bincount([sampler(np.log(SHARES).astype(np.float32)) for _ in range(5000)], minlength=4)
    expected = 5000 * np.array([0, 4, 2, 3]) / 9
    assert counts[0] == 0
    assert (((counts - expected)[1:]) ** 2 / expected[1:]).sum() < 13.8


def test_a_seed_draws_the_same_again_and_greedy_needs_none() -> None:
    def draws(seed: int | None, temperature: float = 1.0) -> list[int]:
        sampler = Sampler(Sampling(temperature=temperature, seed=seed), 500, ())
        return [sampler(np.zeros(500, np.float32) + np.eye(500, dtype=np.float32)[7]) for _ in range(8)]

    assert draws(3) == draws(3) != draws(4)
    assert draws(None) != draws(None)
    assert draws(None, 0.0) == [7] * 8


def test_a_mask_comes_before_the_choice() -> None:
    allowed = np.array([True, False, True, True])
    assert Sampler(Sampling(), 4, ())(np.log(SHARES).astype(np.float32), allowed) == 3
    sampler = Sampler(Sampling(temperature=1.0, top_k=1), 4, ())
    assert {sampler(np.log(SHARES).astype(np.float32), allowed) for _ in range(9)} == {3}


@pytest.mark.parametrize(("defaults", "said", "expected"), [
    ({}, {}, Sampling()),
    ({"temperature": .6, "top_p": .95}, {}, Sampling(temperature=.6, top_p=.95)),
    ({"temperature": .6, "top_p": .95}, {"temperature": 0}, Sampling(temperature=0, top_p=.95)),
    ({"do_sample": False, "temperature": .6, "repetition_penalty": 1.1}, {}, Sampling(repetition_penalty=1.1)),
    ({"do_sample": True, "top_k": 20}, {}, Sampling(temperature=1.0, top_k=20)),
    ({}, {"top_p": .9, "seed": 4, "min_p": None}, Sampling(temperature=1.0, top_p=.9, seed=4)),
    ({"pad_token_id": 2}, {"seed": 4}, Sampling(seed=4)),
], ids=str)
def test_what_is_said_goes_over_the_models_own(defaults: dict[str, Any], said: dict[str, Any], expected: Sampling,
                                               ) -> None:
    assert Sampling.of(defaults, said) == expected


@pytest.mark.parametrize(("words", "message"), [
    ({"temperature": -1}, "temperature must be a number of 0.0 to inf, got -1"),
    ({"temperature": math.nan}, "temperature must be a number"), ({"temperature": math.inf}, "temperature must be"),
    ({"temperature": "hot"}, "got 'hot'"), ({"temperature": True}, "got True"),
    ({"top_p": 0}, "must be above 0"), ({"top_p": 1.5}, "top_p must be a number of 0.0 to 1.0"),
    ({"min_p": -.1}, "min_p"), ({"top_k": -1}, "top_k"), ({"top_k": 2.5}, "top_k must be a whole number"),
    ({"seed": -1}, "seed must be 0 or more"), ({"seed": 1.0}, "seed must be a whole number"),
    ({"repetition_penalty": 0}, "must be above 0"),
], ids=str)
def test_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Sampling(**words)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_logits_are_no_text(value: float) -> None:
    with pytest.raises(EngineError, match="weights or this engine are broken"):
        Sampler(Sampling(temperature=1.0), 4, ())(np.array([0, value, 1, 2], np.float32))
