"""What every loaded network must be: known operators, unique names, weights that are numbers."""
from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from edgeq.errors import ModelError, Problem, UnsupportedModel
from edgeq.graph import OPSET, all_nodes, constant, label
from edgeq.ops import RANDOM

_SHOWN = 5  # names listed in a message before "and N more"


def check_model(model: ir.Model) -> None:
    """Name every node and value uniquely, then refuse unknown operators, random numbers and NaN weights.

    Infinite weights pass: masks are made of them. Nodes of other domains (com.microsoft) pass too; a backend knows
    better than a reader what it can run.

    Raises:
        UnsupportedModel: operators that the ONNX opset does not have, or that draw random numbers; lists all of them.
        ModelError: initializers that hold NaN.
    """
    NameFixPass()(model)
    _check_operators(model)
    _check_numbers(model)


def _check_operators(model: ir.Model) -> None:
    problems = [
        Problem(label(node), node.op_type, f"no such operator in ONNX opset {OPSET}")
        for node in all_nodes(model.graph)
        if node.domain == "" and not onnx.defs.has(node.op_type, OPSET, "")
    ]
    if problems:
        raise UnsupportedModel(f"ONNX opset {OPSET}", problems)
    random = [Problem(label(node), node.op_type, "it gives other numbers in every run, so nothing can be checked",
                      "export the model for inference (model.eval()), or make the random numbers an input")
              for node in all_nodes(model.graph) if node.domain == "" and _is_random(node)]
    if random:
        raise UnsupportedModel("any target", random)


def _is_random(node: ir.Node) -> bool:
    if node.op_type != "Dropout":
        return node.op_type in RANDOM
    training, ratio = (constant(node.inputs[k]) if len(node.inputs) > k else None for k in (2, 1))
    return training is not None and bool(training.all()) and (ratio is None or bool(ratio.any()))


def _check_numbers(model: ir.Model) -> None:
    broken = [value.name or "?" for graph in model.graphs() for value in graph.initializers.values() if _has_nan(value)]
    if broken:
        more = f" and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise ModelError(f"weights hold NaN: {', '.join(broken[:_SHOWN])}{more}; "
                         "the training went wrong or the file is damaged")


def _has_nan(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.size == 0:
        return False
    smallest = tensor.numpy().min()  # min hands a NaN on, and needs no second array
    return bool(smallest != smallest)
