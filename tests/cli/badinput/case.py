"""The form of a case of bad input, and the small network that most of them start from."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

BUNDLE = "good.edgeq"
Prepare = Callable[[Path], list[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """message: a regular expression that stderr contains. needs_bundle: the folder holds a converted BUNDLE already."""

    name: str
    prepare: Prepare
    message: str
    code: int = 1
    needs_bundle: bool = False


def weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape, scale=0.2).astype(np.float32)


def network(*, nodes: Sequence[onnx.NodeProto] = (), shape: Sequence[int | str] = (1, 3, 8, 8),
            conv: NDArray[np.float32] | None = None) -> onnx.ModelProto:
    """image -> Conv -> Relu -> [nodes: from 'relu' to 'features'] -> mean -> Gemm -> scores [1,5]."""
    constants = {"w": weights(6, 3, 3, 3) if conv is None else conv, "b": weights(6), "v": weights(6, 5),
                 "c": weights(5)}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["conv"], "first", pads=[1, 1, 1, 1]),
         helper.make_node("Relu", ["conv"], ["relu"], "relu"), *nodes,
         helper.make_node("GlobalAveragePool", ["features" if nodes else "relu"], ["mean"], "mean"),
         helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
         helper.make_node("Gemm", ["flat", "v", "c"], ["scores"], "last")],
        "small", [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def samples(count: int = 4) -> NDArray[np.float32]:
    """float32 [count,3,8,8]."""
    return np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)


def convert(model: str, *more: str) -> list[str]:
    return ["convert", model, "--target", "onnxruntime", *more]


def model(change: Callable[[], onnx.ModelProto], *more: str) -> Prepare:
    """Convert what `change` builds."""
    def prepare(folder: Path) -> list[str]:
        onnx.save(change(), folder / "net.onnx")
        return convert("net.onnx", *more)
    return prepare


def argument(*words: str) -> Prepare:
    return lambda folder: list(words)
