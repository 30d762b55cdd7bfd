"""Bundles made by hand, so that the runtime is tested without the converter."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from runtime_bundles import MakeBundle, affine_model, entries

from edgeq_runtime import Manifest, TensorSpec
from edgeq_runtime.manifest import FILE_NAME
from edgeq_runtime.selftest import Case, Tolerance, write_selftest


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """make_bundle(batch="n", **fields of the manifest to change) -> folder of an onnxruntime bundle."""

    def make(batch: Any = "n", name: str = "affine.edgeq", **changes: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(affine_model(), folder / "model.onnx")
        image, offset = np.array([[1, 2, 3]], np.float32), np.array([.5, 0, -1], np.float32)
        outputs = {"sum": image * 2 + offset, "count": np.array(3)}
        write_selftest(folder / "selftest.npz", [Case({"image": image, "offset": offset}, outputs)],
                       Tolerance("float32 sums in any order", {"sum": 1e-6}))
        manifest = Manifest(
            name="affine", target="onnxruntime", engine="onnxruntime", engine_version=">=1.18", entry="model.onnx",
            inputs=(TensorSpec("image", "float32", (batch, 3)), TensorSpec("offset", "float32", (3,))),
            outputs=(TensorSpec("sum", "float32", (batch, 3)), TensorSpec("count", "int64", ())), files=entries(folder))
        (folder / FILE_NAME).write_text(replace(manifest, **changes).to_json())
        return folder

    return make


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Path:
    return make_bundle()
