"""Every form of data, and every way in which it can be wrong: one line that names the place and the remedy."""
from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import CalibrationError, MissingExtra
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import Samples, open_samples

IMAGE = {"image": InputSpec(np.float32, ("N", 3, 4, 5))}
TWO = {"image": InputSpec(np.float32, (1, 3, 4, 5)), "rate": InputSpec(np.int64, ())}
DATA = np.random.default_rng(5).normal(size=(6, 3, 4, 5)).astype(np.float32)
RATES = np.arange(6)


def write(path: Path, arrays: Any) -> Path:
    match path.suffixes:
        case [".npy"]:
            np.save(path, arrays)
        case [".npz"]:
            np.savez(path, **arrays)
        case _:
            np.savez_compressed(path, **arrays)
    return path


def assert_feeds(samples: Samples, expected: list[dict[str, np.ndarray]]) -> None:
    for _ in range(2):  # re-iterable
        found = list(samples)
        assert len(found) == len(expected) == samples.count
        for feed, wanted in zip(found, expected, strict=True):
            assert set(feed) == set(wanted)
            for name in wanted:
                assert feed[name].dtype == wanted[name].dtype
                assert feed[name].shape == wanted[name].shape
                np.testing.assert_array_equal(feed[name], wanted[name])


SINGLE = [{"image": row[np.newaxis]} for row in DATA]
PAIRS = [{"image": row[np.newaxis], "rate": np.int64(rate).reshape(())} for row, rate in zip(DATA, RATES, strict=True)]


def test_npy_is_fed_row_by_row(tmp_path: Path) -> None:
    samples = open_samples(write(tmp_path / "x.npy", DATA), IMAGE)
    assert samples.length == 6
    assert_feeds(samples, SINGLE)


@pytest.mark.parametrize("name", ["x.npz", "x.packed.npz"])
def test_npz_is_fed_row_by_row_by_name_and_labels_are_left_alone(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, {"rate": RATES, "label": RATES, "image": DATA})
    assert_feeds(open_samples(str(path), TWO), PAIRS)


def test_a_folder_holds_complete_feeds_whose_shapes_may_differ(tmp_path: Path) -> None:
    spec = {"image": InputSpec(np.float32, ("N", 3, "H", "W"))}
    write(tmp_path / "a.npy", DATA[:2])
    write(tmp_path / "b.npz", {"image": DATA[2:3, :, :2]})
    (tmp_path / "readme.txt").write_text("not data")
    assert_feeds(open_samples(tmp_path, spec), [{"image": DATA[:2]}, {"image": DATA[2:3, :, :2]}])


def test_a_folder_of_images_goes_through_preprocess(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3), np.uint8)
    for name, picture in zip(("a.png", "b.PNG"), pixels, strict=True):
        image.fromarray(picture).save(tmp_path / name)
    scaled = (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    expected = [{"image": row[np.newaxis]} for row in scaled]
    for batch in (..., np.newaxis):  # with and without the batch axis
        samples = open_samples(tmp_path, IMAGE, preprocess=lambda picture, batch=batch: (
            (picture.transpose(2, 0, 1) / 255).astype(np.float32)[batch]))
        assert_feeds(samples, expected)


def test_a_function_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_calibration_data.py").write_text(
        "import numpy as np\n"
        "def feeds():\n"
        "    for k in range(3):\n"
        "        yield {'image': np.full((1, 3, 4, 5), k, np.float32)}\n"
        "def broken():\n"
        "    raise OSError('camera is gone')\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    samples = open_samples("my_calibration_data:feeds", IMAGE)
    assert samples.length is None
    assert_feeds(samples, [{"image": np.full((1, 3, 4, 5), k, np.float32)} for k in range(3)])
    with pytest.raises(CalibrationError, match="raised OSError: camera is gone"):
        list(open_samples("my_calibration_data:broken", IMAGE))
    with pytest.raises(CalibrationError, match="cannot import 'my_calibration_data:absent'"):
        open_samples("my_calibration_data:absent", IMAGE)
    assert sys.path == path


def test_lists_and_generators_are_both_re_iterable() -> None:
    assert_feeds(open_samples(SINGLE, IMAGE), SINGLE)
    assert_feeds(open_samples(iter(SINGLE), IMAGE), SINGLE)


def test_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npy", DATA)
    assert_feeds(open_samples(path, IMAGE, limit=2), SINGLE[:2])
    assert_feeds(open_samples(path, IMAGE, limit=99), SINGLE)

    def endless() -> Iterator[dict[str, np.ndarray]]:
        while True:
            yield SINGLE[0]

    assert_feeds(open_samples(endless(), IMAGE, limit=3), [SINGLE[0]] * 3)
    with pytest.raises(ValueError, match="at least 1"):
        open_samples(path, IMAGE, limit=0)


def test_the_digest_is_of_what_is_fed_not_of_how_it_is_stored(tmp_path: Path) -> None:
    npy = open_samples(write(tmp_path / "x.npy", DATA), IMAGE)
    packed = open_samples(write(tmp_path / "x.packed.npz", {"image": DATA}), IMAGE)
    assert npy.digest() == packed.digest() == open_samples(SINGLE, IMAGE).digest()
    changed = DATA.copy()
    changed[5, 2, 3, 4] += 1e-6
    different = {open_samples(source, IMAGE).digest() for source in (
        SINGLE, SINGLE[:5], SINGLE[::-1], [{"image": DATA}], [{"image": row[np.newaxis]} for row in changed])}
    assert len(different) == 5


def test_safe_casts_only() -> None:
    bytes_ = [{"image": np.full((1, 3, 4, 5), 200, np.uint8)}]
    assert_feeds(open_samples(bytes_, IMAGE), [{"image": np.full((1, 3, 4, 5), 200, np.float32)}])
    with pytest.raises(CalibrationError, match=r"input 'image': its dtype is float64\[1,3,4,5\], the model takes "
                                               r"float32\[N,3,4,5\]; convert it with .astype\('float32'\)"):
        list(open_samples([{"image": np.zeros((1, 3, 4, 5))}], IMAGE))


BAD: dict[str, tuple[Any, str]] = {
    "wrong name": ([{"picture": DATA[:1]}], r"sample 0: holds 'picture'; the model takes 'image' float32\[N,3,4,5\]"),
    "wrong shape": ([SINGLE[0], {"image": DATA[:1, :, :, :4]}], r"sample 1, input 'image': its shape is "
                    r"float32\[1,3,4,4\], the model takes float32\[N,3,4,5\]"),
    "wrong rank": ([{"image": DATA[0, 0]}], r"its shape is float32\[4,5\]"),
    "NaN": ([SINGLE[0], {"image": DATA[:1] * np.float32(np.nan)}], "sample 1, input 'image': it contains NaN"),
    "infinity": ([{"image": DATA[:1] * np.float32(np.inf)}], "sample 0, input 'image': it contains NaN or infinity"),
    "text": ([{"image": "hello"}], "its shape is"),
    "no arrays": ([3], "sample 0 is a int; yield arrays, tuples of arrays, or dicts"),
    "zero samples": ([], r"holds no samples; give at least one for 'image' float32\[N,3,4,5\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_samples(case: str) -> None:
    source, message = BAD[case]
    with pytest.raises(CalibrationError, match=message) as error:
        list(open_samples(source, IMAGE))
    assert "\n" not in str(error.value)


def truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


FILES: dict[str, tuple[Any, str]] = {
    "absent": (lambda d: d / "absent.npz", "does not exist; give an .npz"),
    "of another kind": (lambda d: write_text(d / "x.csv", "1,2"), r"x\.csv' is neither \.npz nor \.npy"),
    "random bytes npy": (lambda d: write_text(d / "x.npy", "?" * 99), r"x\.npy' cannot be read"),
    "random bytes npz": (lambda d: write_text(d / "x.npz", "?" * 99), r"x\.npz' cannot be read"),
    "empty npz": (lambda d: write_text(d / "x.npz", ""), r"x\.npz' cannot be read"),
    "truncated npy": (lambda d: truncated(write(d / "x.npy", DATA)), r"x\.npy' cannot be read: it is truncated"),
    "truncated npz": (lambda d: truncated(write(d / "x.npz", {"image": DATA})), r"x\.npz' cannot be read"),
    "objects": (lambda d: write(d / "x.npy", np.array([{}, None])), "cannot be read: it holds Python objects"),
    "by columns": (lambda d: write(d / "x.npy", np.asfortranarray(DATA)), "numpy.ascontiguousarray"),
    "zero samples": (lambda d: write(d / "x.npy", DATA[:0]), r"x\.npy' holds no samples"),
    "a number": (lambda d: write(d / "x.npy", np.float32(3)), r"x\.npy' holds no samples"),
    "wrong name": (lambda d: write(d / "x.npz", {"a": DATA}), r"x\.npz': holds 'a'; the model takes 'image'"),
    "empty folder": (lambda d: d, "holds no .npz, .npy, image or .wav files"),
    "mixed folder": (lambda d: (write(d / "a.npy", DATA), write_text(d / "b.png", ""), d)[-1], "arrays and images"),
    "images unprepared": (lambda d: (write_text(d / "b.png", ""), d)[-1], "say how with --preprocess"),
    "bad file in folder": (lambda d: (write_text(d / "b.npz", "PK??"), d)[-1], r"b\.npz' cannot be read"),
}


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("case", FILES)
def test_bad_files(case: str, tmp_path: Path) -> None:
    source, message = FILES[case]
    with pytest.raises(CalibrationError, match=message) as error:
        list(open_samples(source(tmp_path), IMAGE))
    assert "\n" not in str(error.value)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    write_text(tmp_path / "b.png", "no picture")
    with pytest.raises(CalibrationError, match=r"b\.png' cannot be read"):
        list(open_samples(tmp_path, IMAGE, preprocess=lambda picture: picture))


def test_npz_arrays_of_different_lengths(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", {"image": DATA, "rate": RATES[:5]})
    with pytest.raises(CalibrationError, match=r"different numbers of samples \(image: 6, rate: 5\)"):
        open_samples(path, TWO)


def test_one_array_for_two_inputs(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"the model takes 'image' float32\[1,3,4,5\], 'rate' int64\[\]"):
        open_samples(write(tmp_path / "x.npy", DATA), TWO)


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "b.png", "")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeq\[image\]'"):
        open_samples(tmp_path, IMAGE, preprocess=lambda picture: picture)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.packed.npz"])
def test_files_are_streamed(tmp_path: Path, name: str) -> None:
    data = np.zeros((400, 3, 100, 50), np.float32)  # 24 MB, 60 kB each
    path = write(tmp_path / name, data if name.endswith(".npy") else {"image": data})
    spec = {"image": InputSpec(np.float32, (1, 3, 100, 50))}
    tracemalloc.start()
    try:
        assert sum(1 for _ in open_samples(path, spec)) == 400
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
