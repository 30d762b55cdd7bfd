"""What is reported comes from samples that no range, weight or choice has seen."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import feeds, residual

import edgeq
from edgeq.errors import CalibrationError
from edgeq.quant.calibrate import Statistics
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import open_samples
from edgeq_runtime.selftest import read_selftest

SHAPE = (1, 3, 9, 7)
SPECS = {"x": InputSpec("float32", SHAPE)}


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"x": np.full(SHAPE, k, np.float32)} for k in range(count)]


def numbers(samples: Any) -> list[int]:
    return [int(feed["x"].flat[0]) for feed in samples]


@pytest.mark.parametrize(("count", "held"), [(9, 0), (10, 2), (23, 4), (1000, 31)])
def test_a_fifth_is_held_out_and_never_more_than_32(count: int, held: int) -> None:
    seen, unseen = open_samples(numbered(count), SPECS).hold_out()
    kept = numbers(unseen) if unseen is not None else []
    assert len(kept) == held == (0 if unseen is None else unseen.count)
    assert sorted(numbers(seen) + kept) == list(range(count))
    assert seen.count == count - held


def test_the_order_of_the_samples_means_nothing() -> None:
    """What is held out, and what is chosen, and in which order."""
    data = numbered(40)
    found = [open_samples(order, SPECS) for order in (data, data[::-1], data[20:] + data[:20])]
    held = [unseen for samples in found if (unseen := samples.hold_out()[1]) is not None]
    assert [sorted(numbers(samples)) for samples in held] == [sorted(numbers(held[0]))] * 3
    for skip in (0, 5):
        assert [numbers(samples.chosen(7, skip)) for samples in found] == [numbers(found[0].chosen(12)[skip:][:7])] * 3
    first, last = found[0].split(4)
    assert not set(numbers(first)) & set(numbers(last))


def test_parts_know_their_order_without_reading_again() -> None:
    read = []

    class Source:
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for feed in numbered(40):
                read.append(feed)
                yield feed

    samples = open_samples(Source(), SPECS)
    seen, _ = samples.hold_out()
    learn, judge = seen.split(3)
    before = samples.ranks, len(read)
    again = open_samples(list(learn), SPECS)
    assert learn.ranks == again.ranks
    assert sorted(judge.ranks) == list(range(judge.count))
    assert len(read) == before[1] + samples.count  # by list(learn)


def test_a_calibration_cache_goes_on_with_more_samples(tmp_path: Path) -> None:
    """Of 40 and then of 60, part of both held out: what was seen stays the beginning of what is."""
    data = feeds(SHAPE, 60)
    for count in (40, 40, 60):
        edgeq.convert(residual(), target="onnxruntime", calibration=data[:count], calibration_cache=tmp_path / "c.npz",
                      output=tmp_path / "b", force=True)
    assert Statistics.load_with_origin(tmp_path / "c.npz")[0].samples == 48


def test_a_limit_and_a_source_without_length_are_split_alike() -> None:
    class Source:
        def __iter__(self) -> Iterator[dict[str, Any]]:
            return iter(numbered(40))

    seen, unseen = open_samples(Source(), SPECS, limit=12).hold_out()
    assert unseen is not None
    assert sorted(numbers(seen) + numbers(unseen)) == list(range(12))
    assert (seen.count, unseen.count, numbers(unseen.chosen(1))) == (10, 2, numbers(unseen.chosen(2))[:1])
    with pytest.raises(CalibrationError, match="no samples"):
        list(open_samples([], SPECS))


@pytest.mark.parametrize("bits", [4, 8])
def test_verification_runs_on_held_out_samples_alone(bits: int, tmp_path: Path) -> None:
    """The held-out ones are as others, but for a mark in one corner."""
    data = [dict(feed) for feed in feeds(SHAPE, 20)]
    for number, feed in enumerate(data):
        feed["x"] = feed["x"].copy()
        feed["x"][0, 0, 0, 0] = number / 100
    bundle = edgeq.convert(residual(), target="onnxruntime", bits=bits, calibration=data, output=tmp_path / "b")
    found = bundle.report["verification"]
    assert "held out: no range, weight or choice has seen them" in found["inputs"]
    assert found["samples"] == 4
    cases, *_ = read_selftest(bundle.path / "selftest.npz")
    assert {round(100 * float(case.inputs["x"][0, 0, 0, 0])) for case in cases} <= {4, 9, 14, 19}
    assert bundle.report["calibration"]["held_out"] == bundle.manifest.calibration["held_out"] == 4


def test_too_few_to_hold_any_out_is_said(tmp_path: Path) -> None:
    bundle = edgeq.convert(residual(), target="onnxruntime", calibration=feeds(SHAPE, 9), output=tmp_path / "b")
    assert bundle.report["verification"]["inputs"] == (
        "the samples that were also used for calibration: too few to hold any out")
    labelled = [(dict(feed), 0) for feed in feeds(SHAPE, 3)]
    bundle = edgeq.convert(residual(), target="onnxruntime", calibration=feeds(SHAPE, 9), eval=labelled, metric="top1",
                           output=tmp_path / "c")
    assert bundle.report["verification"]["inputs"] == "--eval"


def test_a_search_is_reported_on_what_it_did_not_see(tmp_path: Path) -> None:
    """Its own share is labelled as float has it, the other so that nothing is right."""
    from edgeq.inference.reference import run_onnx

    fed = feeds(SHAPE, 30)
    right = [int(out["y"].argmax()) for out in run_onnx(residual(), fed)]
    labels = [(label + 1) % 5 if number % 3 == 2 else label for number, label in enumerate(right)]
    bundle = edgeq.convert(residual(), target="onnxruntime", calibration=fed, eval=list(zip(map(dict, fed), labels,
                           strict=True)), metric="top1", max_drop=3.0, output=tmp_path / "b")
    found = bundle.report["evaluation"]
    assert (found["samples"], found["search"]["samples"]) == (10, 20)
    assert (found["float_score"], found["search"]["float_score"]) == (0, 100)
    assert found["search"]["score"] >= 97
    assert found["met"]
