"""Bundles that edgeq wrote before its rooms were named anew (17819ca, November 2026) still open and self-test."""
from __future__ import annotations

from pathlib import Path

import pytest

import edgeq
import edgeq_runtime
from edgeq.bundle.archive import unpack

STORED = sorted((Path(__file__).parent / "stored").glob("*.zip"))


@pytest.mark.parametrize("archive", STORED, ids=lambda path: path.stem)
def test_a_bundle_of_before(archive: Path, tmp_path: Path) -> None:
    folder = unpack(archive, tmp_path / "bundle.edgeq")
    with edgeq_runtime.load(folder, verify=True) as model:
        assert model.self_test().ok
    assert edgeq.verify(folder).passed
    assert edgeq.inspect(folder)["quantization"]["weight_bits"] == 8


def test_there_is_one_of_every_engine_that_runs_here() -> None:
    assert [path.stem for path in STORED] == ["2026-11-coreml", "2026-11-onnxruntime", "2026-11-tflite"]
