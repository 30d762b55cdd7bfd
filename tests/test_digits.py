"""The sample that `make demo` shows, on real digits: from the float model to the scores of its bundles."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "samples" / "digits"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_demo", FOLDER / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def test_set() -> dict[str, Any]:
    return dict(np.load(FOLDER / "test.npz"))


def test_the_float_model_is_worth_converting(demo: ModuleType, test_set: dict[str, Any]) -> None:
    row, _ = demo.score_float(test_set["image"], test_set["label"])
    assert row.accuracy >= 97


def test_no_test_image_was_used_to_calibrate(test_set: dict[str, Any]) -> None:
    seen = {image.tobytes() for image in np.load(FOLDER / "calibration.npz")["image"]}
    assert len(seen) == 128
    assert not seen & {image.tobytes() for image in test_set["image"]}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("target", ["onnxruntime", "tflite", "coreml"])
def test_bundles(demo: ModuleType, test_set: dict[str, Any], tmp_path: Path, target: str, bits: int) -> None:
    images, labels = test_set["image"][:200], test_set["label"][:200]
    first, reference = demo.score_float(images, labels)
    row = demo.score_bundle(target, bits, images, labels, reference, tmp_path)
    assert first.accuracy - row.accuracy <= demo.LIMIT[bits]
    assert row.agreement >= 98
    assert row.bytes < 0.5 * first.bytes
    assert (row.latency_ms is None) is (target == "coreml")
