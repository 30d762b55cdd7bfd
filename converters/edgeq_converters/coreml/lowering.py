"""A folded ONNX graph -> a MIL program."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from edgeq.backend import EmitOptions
from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import NodeNote, quant, shape
from edgeq.scheme import QuantParams
from edgeq.state import state_of
from edgeq_converters.coreml import many_axes
from edgeq_converters.coreml.builder import MAX_RANK, Builder, Storage, sanitise
from edgeq_converters.coreml.table import TABLE
from edgeq_converters.coreml.weights import packed, weight
from edgeq_converters.mil.builder import Constant, Operand, Precision, Raw, Var
from edgeq_converters.mil.nodes import Lowering
from edgeq_converters.mil.ops_cast import NARROW, SMALL_FLOATS
from edgeq_converters.mil.precision import beyond_float16, in_float32
from edgeq_converters.optable import CannotLower
from edgeq_runtime.engines.coreml import interface_shape

TARGET: Final = "coreml"
FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
INTEGERS: Final = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8,
                             ir.DataType.UINT64, ir.DataType.UINT32, ir.DataType.UINT16, ir.DataType.UINT8,
                             ir.DataType.BOOL})
WITHIN: Final = frozenset({*SMALL_FLOATS, *NARROW})  # between two nodes, numbers of these types are held in wider ones

# https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html, iOS 17 and 18
QUANTIZE_SINCE: Final = 17
STATE_SINCE: Final = 18
NO_QUANTIZE: Final = ("iOS 16 cannot round activations: only weights have their bits, activations are float16 within "
                      "the calibrated range; --min-os 17 rounds them")


@dataclass(frozen=True, slots=True)
class Lowered:
    """program: coremltools' Program. names: graph input or output -> its name in the program, where they differ.

    interface: the program's names of all inputs and outputs. states: graph inputs that are none of these, because the
    program keeps them from run to run, together with the outputs that they are. weight_bytes4: bytes that the 4-bit
    weights must take in the written file. nodes: name of an op -> label and operator of the ONNX node that it was made
    for. float_nodes: those whose results the plan rounds to 8 bits and the program does not. notes: inputs and outputs
    that have another shape in the program, states that it does not keep, and nodes that half precision is too narrow
    for.
    """

    program: Any
    names: dict[str, str]
    interface: frozenset[str]
    states: tuple[str, ...]
    weight_bytes4: int
    nodes: Mapping[str, tuple[str, str]]
    float_nodes: tuple[NodeNote, ...] = ()
    notes: tuple[NodeNote, ...] = ()


def lower(graph: ir.Graph, options: EmitOptions, precision: Precision) -> Lowered:
    """Lower every node of a folded graph (see edgeq_converters.prepare).

    Raises:
        UnsupportedModel: lists every node, input and output that Core ML does not have.
    """
    import coremltools as ct
    from coremltools.converters.mil.mil import Function, Program

    builder = Builder(options, precision, Storage(packed, weight, on_grid))
    names = _interface_names(graph)
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    problems = [Problem(_name(value), "input", reason) for value in inputs if (reason := _refusal(value))]
    problems += [Problem(_name(value), "output", "it is an input too, and Core ML has one value for a name",
                         "drop the output, or put an Identity in front of it")
                 for value in graph.outputs if value in inputs]
    if problems:
        raise UnsupportedModel(TARGET, problems)
    program = Program()
    for name in names.values():
        builder.unique(name)
    beyond = beyond_float16(graph) if precision == "float16" else {}
    builder.in_float32 = in_float32(graph) | beyond.keys() if precision == "float16" else set()
    kept, outside = _states(builder, graph)
    with Function({names[_name(v)]: _placeholder(builder, v, v in kept) for v in inputs},
                  _target(ct, options)) as function:
        values: dict[ir.Value, Operand] = {}
        for value in inputs:
            values[value] = _entering(builder, value, function.inputs[names[_name(value)]], value in kept)
        Nodes(builder, TABLE, values).nodes(graph)
        for value, after in kept.items():
            _keep(builder, function.inputs[names[_name(value)]], values[after], interface_shape(shape(value)))
        outputs = [value for value in graph.outputs if value not in kept.values()]
        function.set_outputs([_leaving(builder, v, values[v], names[_name(v)]) for v in outputs])
    program.add_function("main", function)
    public = [value for value in (*inputs, *outputs) if value not in kept]
    return Lowered(program, {k: v for k, v in names.items() if k != v}, frozenset(names[_name(v)] for v in public),
                   tuple(map(_name, kept)), sum(map(len, builder.packed4)), builder.nodes,
                   tuple(builder.float_nodes.values()),
                   (*_reshaped("input", inputs), *_reshaped("output", graph.outputs), *beyond.values(), *outside))


def _target(ct: Any, options: EmitOptions) -> Any:
    return getattr(ct.target, f"iOS{options.min_os}")


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def _interface_names(graph: ir.Graph) -> dict[str, str]:
    """Input and output names as Core ML allows them, each once."""
    names: dict[str, str] = {}
    for value in (*graph.inputs, *graph.outputs):
        if value.name is None or value.name in names:
            continue
        safe = sanitise(value.name)
        while safe in names.values():
            safe += "_"
        names[value.name] = safe
    return names


# ---------------------------------------------------------------------- the interface
def _refusal(value: ir.Value) -> str:
    """Why Core ML cannot take this input, or ''."""
    if value.dtype not in FLOATS | INTEGERS:
        return f"Core ML has no {value.dtype.name if value.dtype else 'such'} tensors"
    return "an empty tensor; Core ML has none" if 0 in shape(value) else ""


def _reshaped(kind: str, values: Iterable[ir.Value]) -> list[NodeNote]:
    return [NodeNote(_name(value), kind, f"{list(interface_shape(shape(value)))} in the package, because Core ML ends "
                                         f"at rank {MAX_RANK}; edgeq_runtime takes and gives {list(shape(value))}")
            for value in values if value.shape is not None and len(value.shape) > MAX_RANK]


def _states(b: Builder, graph: ir.Graph) -> tuple[dict[ir.Value, ir.Value], list[NodeNote]]:
    """(input -> output: the pairs of state that the program keeps, why it does not keep others)"""
    outputs = {value.name: value for value in graph.outputs}
    pairs = {value: outputs[state_of(value)] for value in graph.inputs if state_of(value) in outputs}
    why = {value: reason for value, after in pairs.items() if (reason := _stays_outside(b, value, after))}
    kept = {value: after for value, after in pairs.items() if value not in why}
    if kept and len(kept) == len(outputs):
        kept.popitem()  # a program gives something
    return kept, [NodeNote(_name(value), "input", f"a state that the caller feeds back: {reason}")
                  for value, reason in why.items()]


def _stays_outside(b: Builder, value: ir.Value, after: ir.Value) -> str:
    """Why a package does not keep a state, or ''. Its states are float16:
    https://github.com/apple/coremltools/blob/main/coremltools/converters/mil/backend/mil/load.py
    """
    if b.options.min_os < STATE_SINCE:
        return f"packages keep state from iOS {STATE_SINCE} on: --min-os {STATE_SINCE}"
    if value.dtype not in FLOATS:
        return f"packages keep float16, no {value.dtype.name if value.dtype else 'such'} numbers"
    if b.precision != "float16":
        return "packages keep float16, and this one computes in float32: --bits 16"
    return "float16 is too narrow for it" if after.producer() in b.in_float32 else ""


def _keep(b: Builder, state: Var, operand: Operand, sizes: tuple[int, ...]) -> None:
    b.node = None
    var = b.var(b.reshape(operand, sizes))
    half = var if b.float_bits(var) == 16 else b.op("cast", x=var, dtype="fp16")
    b.op("coreml_update_state", state=state, value=half)


def _placeholder(b: Builder, value: ir.Value, is_kept: bool) -> Any:
    """float32 for floats, int32 for integers and bool: what every iOS version takes."""
    import coremltools.converters.mil as mil
    from coremltools.converters.mil.mil import types

    if is_kept:
        return mil.Builder.state_tensor_placeholder(interface_shape(shape(value)), types.fp16)
    return mil.Builder.placeholder(interface_shape(shape(value)), types.fp32 if value.dtype in FLOATS else types.int32)


def _entering(b: Builder, value: ir.Value, var: Var, is_kept: bool) -> Var:
    if is_kept:
        var = b.op("read_state", input=var)
    elif value.dtype in FLOATS and b.precision == "float16":
        half = b.op("cast", x=var, dtype="fp16", name=b.unique(f"{value.name}_to_fp16"))
        b.singles[half.name], var = var, half
    elif value.dtype == ir.DataType.BOOL:
        var = b.op("cast", x=var, dtype="bool")
    return b.reshape(var, shape(value))


def _leaving(b: Builder, value: ir.Value, operand: Operand, name: str) -> Var:
    """As float32 or int32, the types of the interface, and in a shape that it has."""
    b.node = None
    if 0 in operand.shape:
        raise UnsupportedModel(TARGET, [Problem(_name(value), "output", "an empty tensor; Core ML has none")])
    if not 1 <= b.rank(operand) <= MAX_RANK:
        operand = b.reshape(operand, interface_shape(b.shape(operand)))
    var = b.var(operand)
    exact = b.grids.get(var.name)
    if exact is not None and b.precision == "float16":  # the very numbers of the grid, not their float16 neighbours
        stored, scale, zero_point = exact
        return b.op("dequantize", input=stored, scale=Raw(scale), zero_point=zero_point, name=name)
    if b.kind(operand) == "float":
        if b.float_bits(var) == 16:
            return b.op("cast", x=var, dtype="fp32", name=name)
    elif b.kind(operand) == "bool":
        return b.op("cast", x=var, dtype="int32", name=name)
    return b.op("identity", x=var, name=name)


# ---------------------------------------------------------------------- nodes
class Nodes(Lowering[Builder]):
    """Also of more axes than Core ML has."""

    def results(self, node: ir.Node, inputs: Sequence[Operand]) -> Any:
        return many_axes.lower(node, self.builder, inputs)

    def checked(self, value: ir.Value, result: Operand) -> Operand:
        if value.dtype is not None and value.dtype not in FLOATS | INTEGERS | WITHIN:
            raise CannotLower(f"Core ML has no {value.dtype.name} tensors")
        if not isinstance(result, Constant) and 0 in result.shape:
            raise CannotLower("an empty tensor; Core ML has none")
        grid = quant(value)
        return result if grid is None else self.builder.on_grid(result, grid)


def on_grid(b: Builder, operand: Operand, grid: QuantParams) -> Var:
    """Round to a grid: quantize and dequantize. Where there is no such op, at least its range holds.

    The range matters: a grid that starts at 0 is the ReLU, which quantizers drop. Steps of 16 bits are finer than
    float16, and iOS 16 has no quantize.
    """
    x = b.var(operand)
    if grid.type.bits != 8 or b.options.min_os < QUANTIZE_SINCE:
        if grid.type.bits == 8 and b.node is not None:
            b.float_nodes[b.node] = NodeNote.of(b.node, NO_QUANTIZE)
        low, high = grid.real_range()
        return b.op("clip", x=x, alpha=low, beta=high)
    signed = grid.as_signed()  # "better when the zero point is 0": at least int8 can have it
    scale = np.float32(signed.scale)
    zero_point = Raw(np.int8(signed.zero_point)) if signed.zero_point else None
    given = b.singles.get(x.name)  # an input is still float32: rounding it to float16 first would round twice
    half = b.rounded(np.asarray(scale))[()]
    x, unit = (x, half) if given is None else (given, scale)
    stored = b.op("quantize", input=x, scale=Raw(unit), zero_point=zero_point, output_dtype="int8")
    result = b.op("dequantize", input=stored, scale=Raw(half), zero_point=zero_point)
    b.grids[result.name] = (stored, scale, zero_point)
    return result
