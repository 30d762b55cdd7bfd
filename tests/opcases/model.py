"""A row as a model, its samples, and the reference that runs both."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from edgeq.graph import IR_VERSION, OPSET

from .case import Case, Input, Tensor

Arrays = dict[str, NDArray[Any]]


def build(case: Case) -> ir.Model:
    """The row in float: opset 21, IR 10, static shapes. Run-time inputs are named x0, x1, ... by position."""
    values = {name: _value(name, tensor, case) for name, tensor in _tensors(case)}
    nodes = [ir.node(case.op, _operands(case.inputs, values, "x", "c"), dict(case.attributes), name=case.id,
                     outputs=[ir.Value(name=_inner(name) if case.tail else name) for name in case.outputs])]
    for number, step in enumerate(case.tail):
        last = number == len(case.tail) - 1
        operands = [nodes[-1].outputs[0], *_operands(step.inputs, values, f"t{number}_", f"t{number}_")]
        outputs = [ir.Value(name=case.outputs[0] if last else f"{case.outputs[0]}_{number}")]
        nodes.append(ir.node(step.op, operands, dict(step.attributes), name=f"{case.id}_{step.op}", outputs=outputs))
    graph = ir.Graph(
        [v for v in values.values() if v.const_value is None], [v for v in nodes[-1].outputs if v.name], nodes=nodes,
        initializers=[v for v in values.values() if v.const_value is not None], opset_imports={"": OPSET}, name=case.id)
    model = inferred(ir.Model(graph, ir_version=IR_VERSION))
    unknown = [output for output in model.graph.outputs if output.shape is None or not output.shape.is_static()]
    results = run_onnxruntime(model, sample(case)) if unknown else {}
    for output in unknown:
        output.shape = ir.Shape(results[str(output.name)].shape)
    return model


def inferred(model: ir.Model) -> ir.Model:
    """The model as it comes back from a file, with the shapes that ONNX infers."""
    proto = ir.to_proto(model)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True))


def _inner(name: str) -> str:
    return f"{name}_inner" if name else ""


def _tensors(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the row with its name, in order."""
    for index, tensor in enumerate(case.inputs):
        if isinstance(tensor, Tensor):
            yield f"{'c' if tensor.constant else 'x'}{index}", tensor
    for number, step in enumerate(case.tail):
        for index, tensor in enumerate(step.inputs):
            if isinstance(tensor, Tensor):
                yield f"t{number}_{index}", tensor


def _value(name: str, tensor: Tensor, case: Case) -> ir.Value:
    dtype = ir.DataType.from_numpy(np.dtype(tensor.dtype))
    data = ir.tensor(tensor.draw(case.rng(name)), name=name) if tensor.constant else None
    return ir.Value(name=name, const_value=data, shape=ir.Shape(tensor.shape), type=ir.TensorType(dtype))


def _operands(inputs: tuple[Input, ...], values: Mapping[str, ir.Value], fed: str, held: str) -> list[ir.Value | None]:
    operands: list[ir.Value | None] = []
    for index, item in enumerate(inputs):
        if item is None:
            operands.append(None)
        elif isinstance(item, str):
            operands.append(values[item])
        else:
            operands.append(values[f"{held if item.constant else fed}{index}"])
    return operands


def sample(case: Case) -> Arrays:
    """Run-time input name -> array."""
    return {name: tensor.draw(case.rng(f"{name} sample")) for name, tensor in _tensors(case) if not tensor.constant}


def run_onnxruntime(model: ir.Model, feeds: Arrays) -> Arrays:
    """The reference: every node as it is written, nothing fused -> output name -> array."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))
