"""What is said of calibration samples: each planted fault is named, and good samples are left in peace."""
from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import network

from edgeq import policy
from edgeq.conversion.suspicions import ends
from edgeq.errors import CalibrationError
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.calibrate.advice import (
    InputSummary,
    moves,
    said_of_declared,
    said_of_evaluation,
    said_of_moves,
    survey,
)
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import open_samples
from edgeq_runtime.preprocess import PRESETS

Image = NDArray[np.float32]


def pictures(count: int = policy.ENOUGH_SAMPLES.value) -> list[Image]:
    """[1,3,20,28] in -1..1: smooth, and its three channels differ, as those of photographs do."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        walk = random.normal(size=(1, 3, 20, 28)).cumsum(2).cumsum(3) / 40 + random.normal(size=(1, 3, 1, 1))
        found.append(np.tanh(walk).astype(np.float32))
    return found


def warnings(images: list[Image]) -> tuple[str, ...]:
    return survey({"x": image} for image in images).warnings


def test_good_samples_raise_no_warning() -> None:
    assert warnings(pictures()) == ()


def reshaped(images: list[Image]) -> list[Image]:
    return [np.ascontiguousarray(image.transpose(0, 2, 3, 1)).reshape(image.shape) for image in images]


@pytest.mark.parametrize(("images", "words"), [
    ([*pictures()[:-1], np.full((1, 3, 20, 28), 0.5, np.float32)], "sample 31 of input 'x' hold one number only"),
    ([np.zeros((1, 3, 20, 28), np.float32)] * 40, "every number of input 'x' is 0: these are no real samples"),
    (pictures()[:1] * 40, "the samples are all the same"),
    ([*pictures(), *pictures()], "32 of the 64 samples are repeated"),
    ([*pictures()[:-2], *(255 * image for image in pictures()[-2:])], r"2 samples \(30, 31\) of input 'x' reach"),
    ([np.rint(127.5 + 127.5 * image) for image in pictures()], "holds whole numbers from 0 to 255"),
    (reshaped(pictures()), r"looks like channels-last pixels that were reshaped: transpose \(0, 3, 1, 2\)"),
    (pictures(5), "5 samples are few"),
], ids=["one constant", "all constant", "all equal", "repeated", "another scale", "pixels", "layout", "few"])
def test_a_planted_fault_is_named(images: list[Image], words: str) -> None:
    found = warnings(images)
    assert any(re.search(words, warning) for warning in found), found


RANDOM = np.random.default_rng(7)
SPEECH = [(10 ** RANDOM.uniform(-2, -.05) * np.sin(np.arange(512) / RANDOM.uniform(2, 9)))[None].astype(np.float32)
          for _ in range(40)]
STATES = [np.zeros((2, 1, 8), np.float32)] * 4 + [RANDOM.normal(size=(2, 1, 8)).astype(np.float32) for _ in range(36)]


@pytest.mark.parametrize("feeds", [
    [{"x": sound} for sound in SPEECH],
    [{"x": sound * 32767 / 20} for sound in SPEECH],
    [{"x": sound, "state": state, "sr": np.array(16000), "threshold": np.float32([0.5])}
     for sound, state in zip(SPEECH, STATES, strict=True)],
    [{"ids": RANDOM.zipf(1.5, (1, 200)) % 500, "mask": np.ones((1, 200), np.float32), "length": np.array([200])}
     for _ in range(40)],
    [{"x": (np.abs(sound[:, None]) ** 2).repeat(20, 1)} for sound in SPEECH],
], ids=["quiet speech", "quiet speech in 16 bits", "states and a sampling rate", "masks and lengths", "powers"])
def test_what_is_no_fault_is_left_in_peace(feeds: list[dict[str, NDArray[Any]]]) -> None:
    assert survey(feeds).warnings == ()


@pytest.mark.parametrize(("feeds", "words"), [
    ([{"x": RANDOM.uniform(0, 1, (1, 3, 20, 28)).astype(np.float32)} for _ in range(40)],
     "neighbouring pixels of input 'x' have nothing in common: this is noise"),
    ([{"x": RANDOM.normal(size=(1, 20, 28, 3)).astype(np.float32)} for _ in range(40)], "this is noise"),
    ([{"x": RANDOM.uniform(-9, 9, (1, 49, 40)).astype(np.float32)} for _ in range(40)], "spread evenly"),
    ([{"ids": RANDOM.integers(0, 999, (1, 200))} for _ in range(40)], "numbers of input 'ids' are spread evenly"),
    ([*({"x": sound} for sound in SPEECH[1:]), {"x": np.rint(32767 * SPEECH[0])}], "sample 39 of input 'x' reach"),
    ([*({"x": np.rint(32767 * sound)} for sound in SPEECH[1:]), {"x": SPEECH[0]}], "bring all to one scale"),
    ([{"x": sound, "state": STATES[0]} for sound in SPEECH], "every number of input 'state' is 0: give what it holds"),
    ([{"x": 0 * sound if k == 3 else sound, "state": STATES[0] if k == 3 else state}
      for k, (sound, state) in enumerate(zip(SPEECH, STATES, strict=True))], "sample 3 of every input hold one number"),
])
def test_faults_of_other_inputs_than_pictures(feeds: list[dict[str, NDArray[Any]]], words: str) -> None:
    assert any(words in warning for warning in survey(feeds).warnings), survey(feeds).warnings


@pytest.mark.parametrize(("low", "high", "words"), [
    (0.0, 1.0, "from 0 to 1 alone, where the declared preprocessing makes -2.118 to 2.64: prepare"),
    (0.0, 255.0, "from 0 to 255, which the declared preprocessing makes -2.118 to 2.64 of no picture"),
    (-2.1, 2.6, ""), (-1.0, 1.9, "")])
def test_samples_that_the_declared_preprocessing_did_not_make(low: float, high: float, words: str) -> None:
    said = said_of_declared(InputSummary("x", low, high, 0, 1), ends(PRESETS["imagenet"]()))
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize(("fed", "words"), [
    (np.linspace(-2.1, 2.6, 100), "79% of what --eval puts into input 'x' lies outside 0 to 1"),
    (np.linspace(0, 1, 100), ""), (np.append(np.linspace(0, 1, 99), 7), ""),
    (np.linspace(0.5, 0.51, 100), "reaches 0.5 to 0.51 alone")])
def test_what_eval_feeds_outside_the_calibrated_range(fed: NDArray[Any], words: str) -> None:
    said = said_of_evaluation(InputSummary("x", 0.0, 1.0, 0, 1), fed)
    assert words in said
    assert bool(said) == bool(words)


def test_the_digest_and_the_summary_are_those_of_the_data() -> None:
    samples = open_samples([{"x": image} for image in pictures()], {"x": InputSpec("float32", (1, 3, 20, 28))})
    found, data = survey(samples), np.concatenate(pictures()).astype(np.float64)
    assert found.sha256 == samples.digest()
    line, = found.inputs
    assert (line.smallest, line.largest) == (data.min(), data.max())
    assert (line.mean, line.deviation) == pytest.approx((data.mean(), data.std()), rel=1e-9)


def test_the_other_layout_is_named_where_shapes_tell() -> None:
    samples = open_samples([{"x": np.zeros((1, 20, 28, 3), np.float32)}], {"x": InputSpec("float32", (1, 3, 20, 28))})
    with pytest.raises(CalibrationError, match=r"channels seem to come last: use .transpose\(0, 3, 1, 2\)"):
        list(samples)


def test_ranges_that_still_move_are_told_from_those_that_stand() -> None:
    model = network("g (float[1,64] x) => (float[1,64] y) { a = Relu (x) y = Neg (a) }")
    random = np.random.default_rng(0)
    steady = [{"x": random.uniform(-1, 1, (1, 64)).astype(np.float32)} for _ in range(64)]
    found = calibrate(model, ["x", "a"], steady)
    assert found.earlier is not None
    assert found.earlier.samples == 32
    assert moves(found, CALIBRATORS["minmax"]) == []
    assert "moved none of 2 ranges by more than 10%" in said_of_moves(found, [])
    growing = [{"x": sample["x"] * (1 if k < 48 else 3)} for k, sample in enumerate(steady)]
    found = calibrate(model, ["x", "a"], growing)
    moved = moves(found, CALIBRATORS["minmax"])
    assert {move.value for move in moved} == {"x", "a"}
    assert moved[0].ratio == pytest.approx(3, rel=0.1)
    assert said_of_moves(found, moved).startswith("samples 33 to 64 moved 2 of 2 ranges")
