"""Options that contradict each other, and outputs that are in the way."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from .case import BUNDLE, Case, Prepare, argument, convert, model, network, samples


def options(*more: str) -> Prepare:
    return model(network, *more)


def _data(*more: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        np.save(folder / "data.npy", samples())
        return [*model(network, "--calibration", "data.npy")(folder), *more]
    return prepare


def _occupied(kind: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        onnx.save(network(), folder / "net.onnx")
        place = folder / "out"
        if kind == "file":
            place.write_text("mine")
        else:
            place.mkdir()
            (place / "thesis.txt").write_text("mine")
        return convert("net.onnx", "--force", "-o", "out")
    return prepare


def _below_a_file(folder: Path) -> list[str]:
    _occupied("file")(folder)
    return convert("net.onnx", "-o", "out/net.edgeq")


def _labels(folder: Path) -> list[str]:
    onnx.save(network(), folder / "net.onnx")
    (folder / "labels.txt").write_bytes(b"\xff\xfe\x00")
    return convert("net.onnx", "--labels", "labels.txt")


def _too_few_labels(folder: Path) -> list[str]:
    onnx.save(network(), folder / "net.onnx")
    (folder / "labels.txt").write_text("ant\nbee\n")
    return convert("net.onnx", "--labels", "labels.txt")


def _preprocess(folder: Path) -> list[str]:
    onnx.save(network(), folder / "net.onnx")
    (folder / "steps.json").write_text('{"resise": [8, 8]}')
    return convert("net.onnx", "--preprocess", "steps.json")


OPTIONS = (
    Case("8-bit activations without data", options("--activations", "8"), r"--activations 8.*--calibration", 2),
    Case("8-bit activations with float weights", _data("--activations", "8", "--bits", "32"),
         r"--activations 8.*--bits", 2),
    Case("unknown granularity", options("--weights", "block"), r"--weights block.*block:SIZE", 2),
    Case("not a regular expression", options("--keep-float", "("), r"--keep-float.*regular expression", 2),
    Case("shape that is none", options("--input", "image"), r"--input.*image:1x3x224x224", 2),
    Case("unknown target", argument("convert", "net.onnx", "--target", "tpu"), r"--target.*tpu.*onnxruntime", 2),
    Case("no target", argument("convert", "net.onnx"), r"--target", 2),
    Case("--dry-run and --keep-qdq", options("--dry-run", "--keep-qdq", "q.onnx"), r"--dry-run.*--keep-qdq", 2),
    Case("unknown preset", options("--preprocess", "imagnet"), r"imagnet.*imagenet", 2),
    Case("unknown preprocessing step", _preprocess, r"steps\.json.*resise", 2),
    Case("too few labels", _too_few_labels, r"--labels: 2 names.*'scores' has 5", 2),
    Case("labels that are no text", _labels, r"labels\.txt.*UTF-8", 2),
)

OUTPUTS = (
    Case("output exists", options("-o", BUNDLE), r"good\.edgeq exists.*--force", needs_bundle=True),
    Case("output is a file", _occupied("file"), r"out exists and is not a bundle.*-o"),
    Case("output is somebody's folder", _occupied("folder"), r"out exists and is not a bundle.*-o"),
    Case("output below a file", _below_a_file, r"out is not a folder.*-o"),
)
