"""How much of what a device sees lies outside the range of the calibration samples."""
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_bundles import MakeBundle

import edgeq_runtime
from edgeq_runtime import BundleError
from edgeq_runtime.__main__ import main
from edgeq_runtime.drift import SAMPLE, DriftWatch

CALIBRATION = {"samples": 8, "sha256": "", "ranges": {"image": [-1.0, 1.0]}}
OFFSET = np.zeros(3, np.float32)


def feed(*values: float) -> dict[str, Any]:
    return {"image": np.array([values], np.float32), "offset": OFFSET}


def test_counts_what_lies_outside(make_bundle: MakeBundle) -> None:
    with edgeq_runtime.load(make_bundle(calibration=CALIBRATION)) as model:
        assert model.drift()[0].share == 0
        model.run(feed(-1, 0, 1))
        model.run(feed(-1.5, 2, .5))
        model.run(feed(np.nan, 0, 0))
        drift, = model.drift()
    assert (drift.input, drift.values, drift.outside) == ("image", 9, 3)
    assert str(drift) == ("33 % of the values of 'image' lie outside -1 to 1, the range of the calibration samples")


@pytest.mark.parametrize("calibration", [None, {"samples": 8}, {**CALIBRATION, "ranges": {"other": [0, 1]}}])
def test_says_nothing_where_no_range_is_known(make_bundle: MakeBundle, calibration: Any) -> None:
    with edgeq_runtime.load(make_bundle(calibration=calibration)) as model:
        model.run(feed(1, 2, 3))
        assert model.drift() == []


def test_can_be_left_out(make_bundle: MakeBundle) -> None:
    with edgeq_runtime.load(make_bundle(calibration=CALIBRATION), watch=False) as model:
        model.run(feed(1, 2, 3))
        assert model.drift() == []


@pytest.mark.parametrize("ranges", [{"image": [1]}, {"image": None}, {"image": ["low", "high"]}, 3])
def test_damaged_ranges_are_one_message(make_bundle: MakeBundle, ranges: Any) -> None:
    with pytest.raises(BundleError, match="calibration ranges cannot be read"):
        edgeq_runtime.load(make_bundle(calibration={"ranges": ranges}))


@pytest.mark.parametrize("size", [SAMPLE, 2 * SAMPLE + 17, 150_528])
def test_the_share_of_a_large_input_is_estimated(size: int) -> None:
    """A tenth lies outside, in one block; over 100 runs, every value has been looked at."""
    watch = DriftWatch(["x"], {"x": [0.0, 1.0]})
    image = np.full(size, .5, np.float32)
    image[size // 2:size // 2 + size // 10] = 7
    for _ in range(100):
        watch.add([image])
    drift, = watch.report()
    assert drift.share == pytest.approx(.1, abs=1e-3)
    assert SAMPLE <= drift.values / 100 < 2 * SAMPLE


def test_one_value_among_many_is_met_in_time() -> None:
    watch = DriftWatch(["x"], {"x": [0.0, 1.0]})
    image = np.zeros((1, 3, 224, 224), np.float32)
    image[0, 1, 100, 100] = 9
    for _ in range(image.size // SAMPLE):
        watch.add([image])
    assert watch.report()[0].outside == 1


def test_threads_lose_no_count() -> None:
    watch = DriftWatch(["x"], {"x": [0.0, 1.0]})
    image = np.array([0, 2], np.float32)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: watch.add([image]), range(2000)))
    drift, = watch.report()
    assert (drift.values, drift.outside) == (4000, 2000)
    watch.reset()
    assert watch.report()[0].values == 0


def test_the_command_line_notes_it(make_bundle: MakeBundle, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(calibration=CALIBRATION)
    np.savez(tmp_path / "in.npz", image=np.array([[255, 0, 0]], np.float32), offset=OFFSET)
    assert main([str(folder), "run", "--input", str(tmp_path / "in.npz")]) == 0
    assert "note: 33 % of the values of 'image' lie outside -1 to 1" in capsys.readouterr().err
