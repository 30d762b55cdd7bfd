"""Golden vectors: exact, within tolerance, or failed with the first wrong value."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_bundles import entries

import edgeq_runtime
from edgeq_runtime import BundleError, Manifest
from edgeq_runtime.manifest import FILE_NAME
from edgeq_runtime.selftest import Case, SelfTestResult, Tolerance, read_selftest, write_selftest

IMAGE, OFFSET = np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([.5, 0, -1], np.float32)
RIGHT = {"sum": IMAGE * 2 + OFFSET, "count": np.array(6)}


def result(bundle: Path, outputs: dict[str, Any], tolerance: Tolerance) -> SelfTestResult:
    right = Case({"image": IMAGE, "offset": OFFSET}, RIGHT)
    write_selftest(bundle / "selftest.npz", [right, replace(right, outputs=outputs)], tolerance)
    manifest = Manifest.from_json((bundle / FILE_NAME).read_text())
    (bundle / FILE_NAME).write_text(replace(manifest, files=entries(bundle)).to_json())
    with edgeq_runtime.load(bundle) as model:
        return model.self_test()


def off_by(error: float) -> dict[str, Any]:
    wrong = RIGHT["sum"].copy()
    wrong[1, 2] -= np.float32(error)
    return {**RIGHT, "sum": wrong}


def test_passes_when_every_bit_agrees(bundle: Path) -> None:
    found = result(bundle, RIGHT, Tolerance("exact"))
    assert (found.status, found.cases, found.ok) == ("pass", 2, True)
    assert str(found) == "pass (2 samples)"


@pytest.mark.parametrize(("tolerance", "ok"), [
    (Tolerance("sums reordered", {"sum": .25}), True),
    (Tolerance("sums reordered", {"sum": .2}), False),
    (Tolerance("sums reordered", {"count": .25}), False),
])
def test_tolerance(bundle: Path, tolerance: Tolerance, ok: bool) -> None:
    found = result(bundle, off_by(.25), tolerance)
    assert found.status == ("within tolerance" if ok else "fail")
    assert found.largest_error == {"sum": .25, "count": 0}
    assert (tolerance.source if ok else "sample 1, output 'sum' at [1, 2]: expected 10.75, got 11") in str(found)


def test_one_number_may_be_far_off_and_not_all(bundle: Path) -> None:
    """A rounding that flipped moves one; a broken kernel moves all of them, each within the largest error."""
    tolerance = Tolerance("a rounding may flip", {"sum": .5}, {"sum": .25})
    assert result(bundle, off_by(.5), tolerance).status == "within tolerance"
    found = result(bundle, {**RIGHT, "sum": RIGHT["sum"] + np.float32(.5)}, tolerance)
    assert found.status == "fail"
    assert found.difference is not None
    assert (found.difference.noise, found.difference.allowed) == (.5, .25)
    assert "sample 1, output 'sum': errors of 0.5 on average, allowed are 0.25" in str(found)


def test_an_integer_output_is_judged_in_steps_of_one(bundle: Path) -> None:
    off = {**RIGHT, "count": np.array(7)}
    assert result(bundle, off, Tolerance("one step", {"count": 1})).status == "within tolerance"
    assert result(bundle, off, Tolerance("none")).status == "fail"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_fails(bundle: Path, value: float) -> None:
    wrong = RIGHT["sum"].copy()
    wrong[0, 0] = value
    found = result(bundle, {**RIGHT, "sum": wrong}, Tolerance("wide", {"sum": 1e9}))
    assert found.status == "fail"
    assert found.difference is not None
    assert found.difference.index == (0, 0)


def test_reads_what_was_written(tmp_path: Path) -> None:
    cases = [Case({"a/b c": np.array([1, 2], np.int8)}, {"file": np.array(k)}) for k in range(11)]
    write_selftest(tmp_path / "s.npz", cases, Tolerance("why", {"file": .5}))
    found, tolerance = read_selftest(tmp_path / "s.npz")
    assert tolerance == Tolerance("why", {"file": .5})
    assert [int(case.outputs["file"]) for case in found] == list(range(11))
    assert found[0].inputs["a/b c"].dtype == np.int8


def test_refuses_to_write_nothing_or_objects(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="proves nothing"):
        write_selftest(tmp_path / "s.npz", [], Tolerance("x"))
    with pytest.raises(ValueError, match="numbers only"):
        write_selftest(tmp_path / "s.npz", [Case({"a": np.array([{}])}, {})], Tolerance("x"))


def test_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "selftest.npz"
    with pytest.raises(BundleError, match=r"no selftest.npz: it was converted without verification"):
        read_selftest(path)
    for data in (b"", b"PK\3\4 no archive", b"\x93NUMPY"):
        path.write_bytes(data)
        with pytest.raises(BundleError, match="damaged"):
            read_selftest(path)
    np.savez(path, **{"input/0/a": np.array([{}], object), "tolerance": np.array('{"source": ""}')})  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"damaged.*allow_pickle"):
        read_selftest(path)


def test_refuses_other_outputs_and_shapes(bundle: Path) -> None:
    with pytest.raises(BundleError, match="sample 1 has the outputs"):
        result(bundle, {"sum": RIGHT["sum"]}, Tolerance("x"))
    with pytest.raises(BundleError, match="'sum' is float32"):
        result(bundle, {**RIGHT, "sum": RIGHT["sum"][:1]}, Tolerance("x", {"sum": 99}))
