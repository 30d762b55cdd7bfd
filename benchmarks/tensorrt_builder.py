"""Run by tensorrt_build.py, in the environment that has TensorRT's packages and nothing else:

    python tensorrt_builder.py MODEL.onnx

Parses and builds as onnxruntime's execution provider does from TensorRT 10 on, strongly typed. Prints "built", or the
first thing that the parser or the builder says against it.
"""
from __future__ import annotations

import sys
from typing import Any

import tensorrt_rtx_bindings as tensorrt


class Errors(tensorrt.ILogger):
    """Keeps what is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def log(self, severity: Any, text: str) -> None:
        if severity <= self.ERROR:
            self.texts.append(text)


def build(path: str) -> str:
    errors = Errors()
    builder = tensorrt.Builder(errors)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, errors)
    if not parser.parse_from_file(path):
        return f"parser: {parser.get_error(0).desc()}"
    if builder.build_serialized_network(network, builder.create_builder_config()) is None:
        return f"builder: {errors.texts[0] if errors.texts else 'no reason given'}"
    return "built"


if __name__ == "__main__":
    print(" ".join(build(sys.argv[1]).split()))
