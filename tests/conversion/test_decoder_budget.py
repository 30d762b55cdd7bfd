"""Types for a budget of bits: against every assignment of a small case, and what is measured against whole networks."""
from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from decoder_checkpoints import save_checkpoint, save_text

import edgeq
from edgeq.conversion.decoder_budget import Choice, measured_choices, types_for_budget
from edgeq.conversion.decoder_figures import Judge
from edgeq.errors import UsageError
from edgeq.frontends.decoder.checkpoint import open_checkpoint
from edgeq.quant.formats import FORMATS

BITS = {name: FORMATS[name].bits_per_weight for name in FORMATS}
LADDER = ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q8_0")


def made(count: int, seed: int) -> list[Choice]:
    """Tensors of unlike sizes and sensitivities, whose divergence falls with bits."""
    chance = np.random.default_rng(seed)
    return [Choice(((str(k), 0),), int(chance.integers(1, 9)) * 256, dict(zip(
        LADDER, chance.uniform(0.1, 9) * np.array([1, .3, .08, .01, .001]) * chance.uniform(0.7, 1.4, 5), strict=True)))
        for k in range(count)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [3.2, 4.5, 6.0])
def test_a_budget_is_spent_as_well_as_it_can_be(seed: int, budget: float) -> None:
    choices = made(5, seed)
    total = sum(choice.weights for choice in choices)

    def bits(types: tuple[str, ...]) -> float:
        return sum(BITS[type] * choice.weights for type, choice in zip(types, choices, strict=True)) / total

    def divergence(types: tuple[str, ...]) -> float:
        return sum(choice.divergence[type] for type, choice in zip(types, choices, strict=True))

    found = types_for_budget(choices, budget)
    got = tuple(found(*choice.keys[0]) for choice in choices)
    assert bits(got) <= budget
    allowed = [types for types in product(LADDER, repeat=5) if bits(types) <= budget]
    assert divergence(got) == pytest.approx(min(map(divergence, allowed)))


def test_less_than_the_smallest_types_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--bits-per-weight 2: the smallest types .* have 2\.62"):
        types_for_budget(made(3, 0), 2.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-llama")


def test_each_weight_is_measured_alone(checkpoint: Path) -> None:
    """The tried type's divergence is that of the network with this weight alone on its levels."""
    opened = open_checkpoint(checkpoint)
    spec, weights = opened.spec, opened.weights
    tokens = [np.random.default_rng(k).integers(3, spec.vocabulary, 48) for k in range(3)]
    choices = measured_choices(spec, weights, tokens, ("Q4_K", "Q6_K"), {"gate": "up"}, 4.5)
    assert [len(choice.keys) for choice in choices] == [1, *[1, 1, 1, 1, 2, 1] * 2]
    judge = Judge(spec, weights, tokens)
    for role, layer in (("embedding", None), ("v", 0), ("down", 1)):
        rounded = FORMATS["Q4_K"].dequantize(FORMATS["Q4_K"].quantize(weights.matrix(role, layer)))
        expected = judge.figures(lambda r, k, key=(role, layer), w=rounded: w if (
            "embedding" if r == "head" else r, k) == key else weights.matrix(r, k))
        (got,) = (choice.divergence["Q4_K"] for choice in choices if choice.keys == ((role, layer),))
        assert expected.scores.kl is not None
        # Figures leave out what no token follows.
        assert got == pytest.approx(expected.scores.kl.mean(), rel=0.1)


@pytest.mark.parametrize(("target", "budget"), [("gguf", 4.2), ("onnxruntime", 6.5)])
def test_a_conversion_keeps_the_budget(target: str, budget: float, checkpoint: Path, tmp_path: Path) -> None:
    text = save_text(tmp_path / "text.txt")
    bundle = edgeq.convert(checkpoint, target=target, bits_per_weight=budget, calibration=text, samples=8,
                           method="nearest", output=tmp_path / "x.edgeq")
    found = bundle.manifest.quantization
    assert budget - 0.2 < found["bits_per_weight"] <= budget
    assert len(found["types"]) > 1
