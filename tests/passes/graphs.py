"""Small graphs written as ONNX text, and what must hold of every rewrite: same numbers, valid graph, static shapes."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from edgeq.frontends import load_model
from edgeq.graph import shape
from edgeq.passes import canonicalize

_NUMPY = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_, "tensor(int32)": np.int32}


@dataclass(frozen=True)
class Row:
    """``ops``: the operators that must be left, in graph order. ``constants``: initializers by name."""

    name: str
    text: str
    ops: Sequence[str]
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 21

    def __str__(self) -> str:
        return self.name


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def build(text: str, constants: dict[str, Any] | None = None, opset: int = 21) -> onnx.ModelProto:
    """ONNX text of a graph, and its initializers -> the model."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    for name, data in (constants or {}).items():
        data = np.asarray(data, np.float32) if isinstance(data, float) else np.asarray(data)
        model.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return model


def session(model: onnx.ModelProto | ir.Model) -> onnxruntime.InferenceSession:
    """onnxruntime on one thread, every optimization off: it runs exactly the nodes that are there."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(of: onnxruntime.InferenceSession, seed: int = 1) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {value.name: np.asarray(3 * rng.standard_normal([d if isinstance(d, int) else 1 for d in value.shape]))
            .astype(_NUMPY[value.type]) for value in of.get_inputs()}


def assert_close(expected: Sequence[Any], got: Sequence[Any], tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` of the largest number of each output."""
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        largest = float(np.abs(a.astype(np.float64)).max()) if a.size else 0.0
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * largest)


def assert_whole(model: ir.Model) -> None:
    """What every pass is given and leaves: a valid graph, in order, whose values have a name, a type and a shape."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs if value.name != "")]
    names = [value.name for value in values]
    assert len(set(names)) == len(names)
    for value in values:
        assert value.dtype is not None
        shape(value)


def check(row: Row, run: Callable[[ir.Model], object] | None = None) -> ir.Model:
    """Load a row, rewrite it, and hold the result to the row and to onnxruntime on the model as it was given. run: all
    passes by default, each of which leaves the graph whole.
    """
    given = build(row.text, row.constants, row.opset)
    before = session(given)
    model = load_model(given)
    if run is None:
        canonicalize(model, fired=lambda step: assert_whole(model))
    else:
        run(model)
    assert [node.op_type for node in model.graph] == list(row.ops)
    assert_whole(model)
    after = session(model)
    assert [value.name for value in after.get_outputs()] == [value.name for value in before.get_outputs()]
    sample = feeds(before)
    assert_close(before.run(None, sample), after.run(None, sample))
    return model
