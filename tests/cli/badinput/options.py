"""Options that contradict each other, and outputs that are in the way."""
from __future__ import annotations

import sys
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


def _about(folder: Path) -> list[str]:
    (folder / "about.json").write_text('{"writer": "me"}')
    return options("--about", "about.json")(folder)


def _evaluated(*more: str, labels: tuple[int, ...] = (0, 1, 2, 3)) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        np.savez(folder / "labelled.npz", image=samples(), labels=labels)
        return [*model(network, "--eval", "labelled.npz")(folder), *more]
    return prepare


def _own(body: str) -> Prepare:
    """A metric of the user's, in a module of the current folder."""
    def prepare(folder: Path) -> list[str]:
        sys.modules.pop("own", None)
        (folder / "own.py").write_text(f"def metric(predictions, targets):\n    {body}\n")
        return _evaluated("--metric", "own:metric")(folder)
    return prepare


OPTIONS = (
    Case("8-bit activations without data", options("--activations", "8"), r"--activations 8.*--calibration", 2),
    Case("8-bit activations with float weights", _data("--activations", "8", "--bits", "32"),
         r"--activations 8.*--bits", 2),
    Case("integers that nothing makes", options("--io", "int8"), r"--io int8 needs 8-bit activations.*--calibr", 2),
    Case("16 bits without data", options("--activations", "16"), r"--activations 16 needs real samples", 2),
    Case("16 bits where there are none", _data("--activations", "16", "--target", "coreml"),
         r"--activations 16: coreml has no integers of 16 bits; onnxruntime and tflite have", 2),
    Case("16 bits beside 4", _data("--activations", "16", "--target", "tflite", "--bits", "4"),
         r"--activations 16 with --bits 4: .*garbage.*use --bits 8", 2),
    Case("all integers without data", options("--full-integer"), r"--full-integer needs 8-bit activations", 2),
    Case("integers for TensorRT", _data("--io", "uint8", "--target", "tensorrt"), r"TensorRT.*floats.*leave --io", 2),
    Case("integers of a kind", options("--io", "int4"), r"--io int4: use float, uint8 or int8", 2),
    Case("integers in three places", options("--io", "int8,int8,float"), r"two with a comma", 2),
    Case("unknown granularity", options("--weights", "block"), r"--weights block.*block:SIZE", 2),
    Case("a layer that is not there", options("--keep-float", "frist"), r"--keep-float frist: no layer.*'first'", 2),
    Case("a metric without data", options("--metric", "top1"), r"top1 needs labelled data: add --eval DATA", 2),
    Case("data without a metric", _evaluated(), r"--eval needs --metric: top1, top5", 2),
    Case("no such metric", _evaluated("--metric", "accuracy"), r"no metric 'accuracy'; there are top1", 2),
    Case("a search without a metric", options("--max-drop", "1"), r"add --eval DATA with --metric", 2),
    Case("labels that no class has", _evaluated("--metric", "top1", labels=(0, 1, 2, 5)),
         r"--metric top1: sample 3: label 5 where the model has classes 0 to 4"),
    Case("labels of another kind", _evaluated("--metric", "psnr"), r"sample 0: an image of shape \(\)"),
    Case("too few labels for the samples", _evaluated("--metric", "top1", labels=(0, 1, 2)), r"4 samples and 3 labels"),
    Case("a metric that raises", _own("raise KeyError('boxes')"), r"--metric own:metric: KeyError: 'boxes'"),
    Case("a metric that is not a number", _own("return float('nan')"), r"--metric own:metric: the score is nan"),
    Case("not a regular expression", options("--keep-float", "("), r"--keep-float.*regular expression", 2),
    Case("shape that is none", options("--input", "image"), r"--input.*image:1x3x224x224", 2),
    Case("size that is none", options("--input", "image:1x3x8..4x8"), r"--input.*'8\.\.4' is no size of an axis", 2),
    Case("unknown target", argument("convert", "net.onnx", "--target", "tpu"), r"--target.*tpu.*onnxruntime", 2),
    Case("a network for a target of language models", argument("convert", "net.onnx", "--target", "gguf"),
         r"--target gguf takes language models alone: .* other networks go to coreai, coreml, onnxruntime",
         2),
    Case("no target", argument("convert", "net.onnx"), r"--target", 2),
    Case("--dry-run and --keep-qdq", options("--dry-run", "--keep-qdq", "q.onnx"), r"--dry-run.*--keep-qdq", 2),
    Case("unknown preset", options("--preprocess", "imagnet"), r"imagnet.*imagenet", 2),
    Case("unknown preprocessing step", _preprocess, r"steps\.json.*resise", 2),
    Case("a file that says something else of itself", _about, r"--about about\.json: give texts for author", 2),
    Case("too few labels", _too_few_labels, r"--labels: 2 names.*'scores' has 5", 2),
    Case("labels that are no text", _labels, r"labels\.txt.*UTF-8", 2),
)

OUTPUTS = (
    Case("output exists", options("-o", BUNDLE), r"good\.edgeq exists.*--force", needs_bundle=True),
    Case("output is a file", _occupied("file"), r"out exists and is not a bundle.*-o"),
    Case("output is somebody's folder", _occupied("folder"), r"out exists and is not a bundle.*-o"),
    Case("output below a file", _below_a_file, r"out is not a folder.*-o"),
)
