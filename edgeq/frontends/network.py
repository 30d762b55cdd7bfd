"""What every loaded network must be: known operators, unique names, weights that are numbers."""
from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from edgeq.errors import ModelError, Problem, UnsupportedModel
from edgeq.external_weights import IN_MEMORY_BYTES
from edgeq.frontends.tensors import MAX_ELEMENTS
from edgeq.graph import OPSET, all_nodes, attribute, constant, label, real_inputs, shape, static, value_bytes
from edgeq.ops import RANDOM, RECURRENT
from edgeq.passes.loops import is_endless

MAX_TRIPS = 100_000  # of a Loop: a network that runs its body more often is none that anybody deploys
# Operators whose attribute `axis` is one of the first input's; of others it may be one more, or means nothing.
AXIS = frozenset({
    "ArgMax", "ArgMin", "Compress", "Concat", "Gather", "GatherElements", "Hardmax", "LogSoftmax", "LpNormalization",
    "ScatterElements", "Softmax", "Split", "TopK",
})
GATES = MappingProxyType({"RNN": 1, "GRU": 3, "LSTM": 4})
_SHOWN = 5  # names listed in a message before "and N more"


def check_model(model: ir.Model) -> None:
    """Name every node and value uniquely, then refuse unknown operators, random numbers, endless loops and
    NaN weights.

    Infinite weights pass: masks are made of them. Nodes of other domains (com.microsoft) pass too; a backend knows
    better than a reader what it can run.

    Raises:
        UnsupportedModel: operators that the ONNX opset does not have, draw random numbers, or never end; lists all
            of them.
        ModelError: initializers that hold NaN.
    """
    NameFixPass()(model)
    _check_operators(model)
    _check_loops(model)
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


def _check_loops(model: ir.Model) -> None:
    """A Loop that takes hours, or never ends, would be run when the result is verified."""
    problems = [Problem(label(node), node.op_type, reason) for node in all_nodes(model.graph)
                if node.op_type == "Loop" and node.domain == "" and (reason := _endless(node))]
    if problems:
        raise UnsupportedModel("any target", problems)


def _endless(node: ir.Node) -> str:
    """Why a Loop has no end that is near; where data decide about its end, nobody knows."""
    trips = constant(node.inputs[0])
    if trips is not None and trips.size != 1:
        return f"its number of trips has the shape {list(trips.shape)}"
    if not is_endless(node) or (trips is None and node.inputs[0] is not None):
        return ""
    if trips is None:
        return "neither a number of trips nor its body ever ends it"
    return f"it runs its body {trips.item()} times, more than {MAX_TRIPS}" if trips.item() > MAX_TRIPS else ""


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


def check_values(model: ir.Model) -> None:
    """What only shows once every shape and type is known. onnx infers the result of a node whose inputs do not fit.

    Raises:
        UnsupportedModel: inputs of types that their operator does not take, or not together; values of more than 2**31
            elements, or inputs of more than 1 GB; axes that a value has not; a Reshape that loses or makes elements,
            a Resize with other than one number for each axis, weights that do not fit.
    """
    problems = [Problem(label(node), node.op_type, reason) for node in all_nodes(model.graph)
                if node.domain == "" and (reason := _misfit(node))]
    problems += [Problem(str(value.name), "input", f"its shape {list(shape(value))} is more than 1 GB for one sample")
                 for value in real_inputs(model.graph) if (value_bytes(value) or 0) > IN_MEMORY_BYTES]
    if problems:
        raise UnsupportedModel("any target", problems)


def _is_empty(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and 0 in list(value.shape)


def _misfit(node: ir.Node) -> str:
    for value in node.outputs:
        sizes = static(value)
        if sizes is not None and math.prod(sizes) > MAX_ELEMENTS:
            return f"its result '{value.name}' of the shape {sizes} has more than 2**31 elements"
    if node.op_type in RECURRENT and any(map(_is_empty, node.inputs)):
        return "an input is empty, and its kernels end the process then"
    return _types_misfit(node) or _axes_misfit(node) or _sizes_misfit(node)


def _axes_misfit(node: ir.Node) -> str:
    """Axes that the first input has not; onnx does not look at all of them."""
    first = node.inputs[0] if node.inputs else None
    if first is None or first.shape is None:
        return ""
    rank, axis = len(first.shape), attribute(node, "axis")
    if node.op_type in AXIS and axis is not None and not -rank <= axis < rank:
        return f"it works on axis {axis} of '{first.name}', which has {rank} axes"
    order = attribute(node, "perm")
    if node.op_type == "Transpose" and order is not None and sorted(order) != list(range(rank)):
        return f"its perm {list(order)} is no order of the {rank} axes of '{first.name}'"
    return ""


def _types_misfit(node: ir.Node) -> str:
    """The types of the inputs against the definition: those of one letter are equal, and among the letter's."""
    schema: Any = onnx.defs.get_schema(node.op_type, OPSET, "")
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    bound: dict[str, str] = {}
    for index, value in enumerate(node.inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)] if schema.inputs else None
        if value is None or formal is None or not isinstance(value.type, ir.TensorType):
            continue
        found, letter = f"tensor({value.type.dtype.name.lower()})", formal.type_str
        taken = allowed.get(letter, [letter])
        if found not in taken and (found, *taken) != ("tensor(int32)", "tensor(int64)"):  # an index that torch narrowed
            return f"its input '{value.name}' is a {found}, which it does not take"
        if letter in allowed and formal.is_homogeneous and bound.setdefault(letter, found) != found:
            return f"its inputs are of different types: {bound[letter]} and {found} ('{value.name}')"
    return ""


def _sizes_misfit(node: ir.Node) -> str:
    known = [static(value) for value in (*node.inputs, *node.outputs)]
    if node.op_type == "Reshape" and known[0] is not None and known[-1] is not None and (
            math.prod(known[0]) != math.prod(known[-1])):
        return f"{list(known[0])} has another number of elements than {list(known[-1])}"
    if node.op_type in RECURRENT:
        return _recurrent_misfit(node, known)
    if node.op_type == "PRelu" and known[0] is not None and known[1] is not None and not _fits_into(known[1], known[0]):
        return f"its slope {list(known[1])} does not fit into {list(known[0])}"
    if node.op_type == "STFT" and known[0] is not None and len(known[0]) == 3 and known[0][-1] not in (1, 2):
        return f"its signal {list(known[0])} is neither real nor complex: the last axis has 1 or 2 numbers"
    if node.op_type == "Resize" and known[0] is not None:
        wanted = len(attribute(node, "axes") or known[0])
        for index in (2, 3):
            given = known[index] if index < len(node.inputs) else None
            if given is not None and given not in ((0,), (wanted,)):
                return f"its {'scales' if index == 2 else 'sizes'} are {list(given)} numbers for {wanted} axes"
    return ""


def _fits_into(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether a shape can be repeated to another: from the last axis on, each size is 1 or equal."""
    return len(small) <= len(large) and all(
        a in (1, b) for a, b in zip(reversed(small), reversed(large), strict=False))


def _recurrent_misfit(node: ir.Node, known: Sequence[tuple[int, ...] | None]) -> str:
    """X [T,N,I] or, batch first, [N,T,I]; W [D,G*H,I], R [D,G*H,H], B [D,2*G*H] with G gates: onnx checks the ranks."""
    x, *weights = (known[index] if index < len(node.inputs) else None for index in range(4))
    hidden = attribute(node, "hidden_size") or (weights[1][-1] if weights[1] else None)
    directions = 2 if attribute(node, "direction", "forward") == "bidirectional" else 1
    if x is None or hidden is None:
        return ""
    rows = GATES[node.op_type] * hidden
    for name, found, wanted in zip("WRB", weights, ((rows, x[-1]), (rows, hidden), (2 * rows,)), strict=True):
        if found is not None and found != (directions, *wanted):
            return f"its {name} is {list(found)} instead of {[directions, *wanted]}"
    return ""
