"""Calibration data that does not fit the model."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .case import Case, Prepare, convert, network, samples


def calibration(file: str, *more: str, **arrays: Any) -> Prepare:
    """Convert with an .npz of these arrays, or an .npy of the only one."""
    def prepare(folder: Path) -> list[str]:
        onnx.save(network(), folder / "net.onnx")
        if file.endswith(".npz"):
            np.savez(folder / file, **arrays)
        else:
            np.save(folder / file, next(iter(arrays.values())), allow_pickle=True)
        return convert("net.onnx", "--calibration", file, *more)
    return prepare


def _truncated_npz(folder: Path) -> list[str]:
    arguments = calibration("data.npz", image=samples())(folder)
    file = folder / "data.npz"
    file.write_bytes(file.read_bytes()[:1500])
    return arguments


def _images(*more: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        onnx.save(network(), folder / "net.onnx")
        (folder / "photos").mkdir()
        (folder / "photos" / "a.png").write_bytes(b"no image")
        return convert("net.onnx", "--calibration", "photos", *more)
    return prepare


def _function(module: str, body: str) -> Prepare:
    """Python keeps what it has imported, so each case has a module name of its own."""
    def prepare(folder: Path) -> list[str]:
        onnx.save(network(), folder / "net.onnx")
        (folder / f"{module}.py").write_text(f"def data():\n    {body}\n")
        return convert("net.onnx", "--calibration", f"{module}:data")
    return prepare


def _empty_folder(folder: Path) -> list[str]:
    onnx.save(network(), folder / "net.onnx")
    (folder / "data").mkdir()
    return convert("net.onnx", "--calibration", "data")


def _no_data(folder: Path) -> list[str]:
    onnx.save(network(), folder / "net.onnx")
    return convert("net.onnx", "--calibration", "data.npz")


_NAN = np.where(np.arange(8) == 5, np.nan, samples()).astype(np.float32)

CALIBRATION = (
    Case("no such data", _no_data, r"data\.npz.*does not exist"),
    Case("wrong name", calibration("data.npz", picture=samples()), r"data\.npz.*'picture'.*'image'"),
    Case("wrong shape", calibration("data.npz", image=samples()[..., :4]), r"image.*\[1,3,8,4\].*\[1,3,8,8\]"),
    Case("wrong dtype", calibration("data.npz", image=samples().astype(np.float64)), r"image.*float64.*float32"),
    Case("zero samples", calibration("data.npz", image=samples(0)), r"data\.npz.*no samples"),
    Case("NaN in a sample", calibration("data.npz", image=_NAN), r"sample 0.*image.*NaN"),
    Case("Python objects", calibration("data.npy", image=np.array([{}, {}], object)), r"data\.npy.*[Oo]bject"),
    Case("truncated data", _truncated_npz, r"data\.npz"),
    Case("empty folder", _empty_folder, r"data.*holds no"),
    Case("images without --preprocess", _images(), r"photos.*--preprocess"),
    Case("damaged image", _images("--preprocess", "imagenet"), r"photos/a\.png.*cannot be read"),
    Case("function that fails", _function("failing_feeds", "return 1 / 0"), r"failing_feeds:data.*ZeroDivisionError"),
    Case("function that yields no dicts", _function("number_feeds", "return [1, 2]"),
         r"number_feeds:data.*sample 0.*int.*dicts"),
)
