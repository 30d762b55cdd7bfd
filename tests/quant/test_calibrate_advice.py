"""What is said of calibration samples: each planted fault is named, and good samples are left in peace."""
from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import network

from edgeq import policy
from edgeq.errors import CalibrationError
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.calibrate.advice import moves, said_of_moves, survey
from edgeq.quant.samples import InputSpec, open_samples

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
