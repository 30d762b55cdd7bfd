"""Bundles that the runtime refuses, and inputs that do not fit a good one."""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .case import BUNDLE, Case, Prepare, argument, samples


def damaged(change: Callable[[Path], None], *command: str) -> Prepare:
    """Let the runtime open the bundle after a change."""
    def prepare(folder: Path) -> list[str]:
        change(folder / BUNDLE)
        return list(command)
    return prepare


def manifest(**values: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        file = bundle / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return change


def _flip(bundle: Path) -> None:
    file = bundle / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _lose(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()


def _truncate(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"short")


def _break_json(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{")


def _escape(bundle: Path) -> None:
    shutil.copy(bundle / "model.onnx", bundle.parent / "outside.onnx")
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    manifest(entry="../outside.onnx", files=[{**files[0], "path": "../outside.onnx"}, *files[1:]])(bundle)


def _link(bundle: Path) -> None:
    shutil.move(bundle / "model.onnx", bundle.parent / "outside.onnx")
    (bundle / "model.onnx").symlink_to(bundle.parent / "outside.onnx")


def _input(array: NDArray[Any]) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        np.save(folder / "x.npy", array)
        return ["run", BUNDLE, "--input", "x.npy"]
    return prepare


_VERIFY, _RUN = ("verify", BUNDLE), ("run", BUNDLE, "--input", "x.npy")

_ROWS = (
    ("changed byte", damaged(_flip, *_VERIFY), r"model\.onnx.*sha256"),
    ("missing file", damaged(_lose, *_VERIFY), r"model\.onnx.*missing"),
    ("truncated file", damaged(_truncate, *_RUN),
     r"model\.onnx.*5 bytes"),
    ("newer format", damaged(manifest(format=99), *_VERIFY), r"format 99.*update edgeq-runtime"),
    ("path that leaves the folder", damaged(_escape, *_VERIFY), r"outside\.onnx.*inside the bundle"),
    ("link that leaves the folder", damaged(_link, *_VERIFY), r"model\.onnx.*out of the bundle"),
    ("unknown key", damaged(manifest(gpu="yes"), *_VERIFY), r"unknown key 'gpu'"),
    ("manifest that is no JSON", damaged(_break_json, *_VERIFY),
     r"manifest\.json is not JSON"),
    ("no bundle", argument("verify", "nowhere.edgeq"), r"nowhere\.edgeq"),
    ("no such input file", argument("run", BUNDLE, "--input", "nothing.npy"), r"nothing\.npy: No such file"),
    ("input of an unknown kind", argument("run", BUNDLE, "--input", "x.docx"), r"x\.docx"),
    ("input of another shape", _input(samples()), r"image.*\[4, 3, 8, 8\].*\[1, 3, 8, 8\]"),
    ("input of another dtype", _input(samples(1).astype(np.complex64)), r"image.*complex64.*float32"),
)

BUNDLES = (*(Case(*row, needs_bundle=True) for row in _ROWS),
           Case("samples without a model to compare", argument(*_VERIFY, "--data", "x.npy"), r"--data.*--reference", 2,
                needs_bundle=True))
