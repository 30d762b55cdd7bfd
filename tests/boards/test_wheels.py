"""Which packages a board gets. pip is real; its index is a folder of small wheels."""
from __future__ import annotations

import os
import re
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeq.boards.cache import forget_fetched
from edgeq.boards.facts import Facts
from edgeq.boards.wheels import choose_packages
from edgeq.errors import BoardError, UsageError
from edgeq_runtime import Manifest, TensorSpec
from edgeq_runtime.manifest import FileEntry

PI = Facts("/root", "aarch64", "linux", "3.11.2", "cp311", "glibc 2.36")
PI_32 = replace(PI, machine="armv7l", packages={"numpy": "1.24.2"})
INDEX = [
    "onnxruntime-1.19.0-cp311-cp311-manylinux_2_27_aarch64", "onnxruntime-1.24.0-cp311-cp311-manylinux_2_28_aarch64",
    "onnxruntime-1.25.0-cp311-cp311-manylinux_2_38_aarch64", "onnxruntime-1.26.0-cp312-cp312-manylinux_2_28_aarch64",
    "onnxruntime-1.27.0-cp311-cp311-manylinux_2_28_x86_64",
    "numpy-2.4.0-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64", "flatbuffers-25.0-py2.py3-none-any",
    "ai_edge_litert-2.3.0-cp311-cp311-manylinux_2_27_aarch64",
    "tflite_runtime-2.14.0-cp311-cp311-manylinux_2_34_armv7l",
]


def write_wheel(folder: Path, name: str) -> None:
    """An empty wheel with what pip reads of it."""
    project, version, tags = name.split("-", 2)
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
        info = f"{project}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tags}\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for name in INDEX:
        write_wheel(folder, name)
    for name, value in (("CONFIG_FILE", "/dev/null"), ("NO_INDEX", "1"), ("FIND_LINKS", str(folder))):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def manifest(engine: str = "onnxruntime", version: str = ">=1.18", **options: Any) -> Manifest:
    tensor = TensorSpec("x", "float32", (1,))
    return Manifest(name="x", target=engine, engine=engine, engine_version=version, entry="model", options=options,
                    inputs=(tensor,), outputs=(tensor,), files=(FileEntry("model", 1, ""),))


def test_the_newest_that_fits_the_processor_the_python_and_the_libc() -> None:
    found = choose_packages(manifest(), PI)
    assert found.engine == "onnxruntime 1.24.0"
    assert [wheel.name.split("-")[0] for wheel in found.wheels] == ["numpy", "onnxruntime"]
    assert choose_packages(manifest(), replace(PI, libc="glibc 2.27")).engine == "onnxruntime 1.19.0"
    assert choose_packages(manifest(), replace(PI, libc="glibc 2.41")).engine == "onnxruntime 1.25.0"


def test_the_users_release_and_the_bundles_range() -> None:
    assert choose_packages(manifest(), PI, "onnxruntime==1.19.0").engine == "onnxruntime 1.19.0"
    assert choose_packages(manifest(version=">=1.18,!=1.24.0"), PI).engine == "onnxruntime 1.19.0"
    with pytest.raises(UsageError, match="this bundle runs on onnxruntime there"):
        choose_packages(manifest(), PI, "ai-edge-litert==2.3.0")


def test_what_was_chosen_once_needs_no_index(index: Path) -> None:
    first = choose_packages(manifest(), PI)
    for wheel in index.iterdir():
        wheel.unlink()
    assert choose_packages(manifest(), PI) == first


def test_a_newer_release_is_found_after_a_refresh(index: Path) -> None:
    """The old choice first stays, and tells its age; one that the user made has none."""
    first = choose_packages(manifest(), PI)
    write_wheel(index, INDEX[1].replace("1.24.0", "1.24.9"))
    long_ago = time.time() - 63.5 * 86400
    os.utime(first.wheels[0].parent, (long_ago, long_ago))
    kept = choose_packages(manifest(), PI)
    assert (kept.engine, kept.age_days) == ("onnxruntime 1.24.0", 63)
    assert choose_packages(manifest(), PI, "onnxruntime==1.19.0").age_days is None
    size = sum(wheel.stat().st_size for wheel in first.wheels)
    (forgotten,) = forget_fetched()
    assert (forgotten.kind, forgotten.entries, forgotten.oldest_days) == ("wheels", 2, 63)
    assert forgotten.bytes > size
    newest = choose_packages(manifest(), PI)
    assert (newest.engine, newest.age_days) == ("onnxruntime 1.24.9", 0)
    forget_fetched()
    assert forget_fetched() == []


def test_the_boards_own_engine() -> None:
    facts = replace(PI, packages={"numpy": "2.1.0", "onnxruntime": "1.20.1"})
    assert choose_packages(manifest(), facts, "installed").wheels == ()
    with pytest.raises(BoardError, match=r"the bundle needs onnxruntime >=1\.23, the board's Python has 1\.20\.1"):
        choose_packages(manifest(version=">=1.23"), facts, "installed")


def test_32_bits_take_numpy_from_the_board() -> None:
    found = choose_packages(manifest("tflite", ">=2.1", tflite_runtime=">=2.14"), PI_32)
    assert (found.engine, len(found.wheels)) == ("tflite-runtime 2.14.0", 1)


@pytest.mark.parametrize(("given", "facts", "message"), [
    (manifest(version=">=1.24"), replace(PI, libc="glibc 2.27"),
     "PyPI has no wheel of onnxruntime>=1.24 for linux on aarch64, Python 3.11.2, glibc 2.27: a newer system"),
    (manifest(), replace(PI, tag="cp310", python="3.10"), "PyPI has no wheel of onnxruntime>=1.18 for linux on aar"),
    (manifest(), replace(PI, libc=""), "the engines have wheels for glibc only"),
    (manifest(), replace(PI, tag="pypy310"), "the engines have wheels for CPython only"),
    (manifest(), replace(PI, machine="riscv64"), "there is no onnxruntime for linux on riscv64"),
    (manifest("coreml", ">=18"), PI, "Core ML runs on Apple's devices only"),
    (manifest("tflite", ">=2.1", tflite_runtime=">2.14"), PI_32, "tflite-runtime 2.14.0 is the last for armv7l"),
    (manifest("tflite", ">=2.1", tflite_runtime=">=2.14"), replace(PI_32, packages={}), "apt install python3-numpy"),
    (manifest(), PI_32, "sudo apt install python3-onnxruntime"),
])
def test_says_why_not(given: Manifest, facts: Facts, message: str) -> None:
    with pytest.raises(BoardError, match=re.escape(message)):
        choose_packages(given, facts)


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(BoardError, match=r"pip cannot reach its index for onnxruntime>=1\.18, numpy: Connection refus"):
        choose_packages(manifest(), PI)
