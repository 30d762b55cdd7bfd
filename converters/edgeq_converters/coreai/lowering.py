"""A folded ONNX graph -> a Core AI program."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.backend import EmitOptions
from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import NodeNote, quant, shape
from edgeq_converters.coreai.builder import Builder, Compositions
from edgeq_converters.coreai.dialect import Program, Var
from edgeq_converters.coreai.grids import on_grid
from edgeq_converters.coreai.table import TABLE
from edgeq_converters.coreai.vocabulary import WORDS
from edgeq_converters.coreai.weights import packed
from edgeq_converters.mil.builder import Constant, Operand, Precision
from edgeq_converters.mil.nodes import Lowering
from edgeq_converters.mil.ops_cast import SMALL_FLOATS
from edgeq_converters.mil.precision import beyond_float16, in_float32
from edgeq_converters.optable import CannotLower

FLOATS: Final = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
INTEGERS: Final = frozenset({
    ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8, ir.DataType.UINT64, ir.DataType.UINT32,
    ir.DataType.UINT16, ir.DataType.UINT8, ir.DataType.BOOL})
WITHIN: Final = frozenset({*SMALL_FLOATS, ir.DataType.INT4, ir.DataType.UINT4})  # held in wider types between nodes


@dataclass(frozen=True, slots=True)
class Lowered:
    """notes: nodes that half precision is too narrow for."""

    program: Program
    notes: tuple[NodeNote, ...] = ()


class Nodes(Lowering[Builder]):
    """Results in ONNX's integer types, whatever a handler computed them in."""

    def checked(self, value: ir.Value, result: Operand) -> Operand:
        if value.dtype is not None and value.dtype not in FLOATS | INTEGERS | WITHIN:
            raise CannotLower(f"Core AI has no {value.dtype.name} tensors")
        b, grid = self.builder, quant(value)
        if not isinstance(result, Constant) and value.dtype in INTEGERS:
            result = b.to(result, value.dtype.numpy())
        return result if grid is None else b.on_grid(result, grid)


def lower(graph: ir.Graph, options: EmitOptions, precision: Precision, *, traced: bool = False) -> Lowered:
    """Lower every node of a folded graph (see edgeq_converters.prepare). traced: the program remembers how.

    Raises:
        UnsupportedModel: lists every node, input and output that Core AI does not have.
    """
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    _refuse([*inputs, *graph.outputs])
    program = Program(traced=traced)
    builder = Builder(options, precision, program, Compositions(WORDS, packed, on_grid))
    beyond = beyond_float16(graph) if precision == "float16" else {}
    builder.in_float32 = in_float32(graph) | beyond.keys() if precision == "float16" else set()
    try:
        with program.function({_name(value): (shape(value), _interface(value)) for value in inputs}) as given:
            values: dict[ir.Value, Operand] = {value: _entering(builder, given[_name(value)]) for value in inputs}
            Nodes(builder, TABLE, values).nodes(graph)
            builder.node = None
            program.give({_name(value): _leaving(builder, value, values[value]) for value in graph.outputs})
    except CannotLower as error:
        raise UnsupportedModel(TABLE.target, [Problem(graph.name or "graph", "program", error.reason)]) from error
    return Lowered(program, tuple(beyond.values()))


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def _interface(value: ir.Value) -> np.dtype[np.generic]:
    """ONNX's own type."""
    assert value.dtype is not None
    return np.dtype(value.dtype.numpy())


def _refuse(values: Iterable[ir.Value]) -> None:
    problems = [Problem(_name(value), "input or output",
                        f"Core AI has no {value.dtype.name if value.dtype else 'such'} tensors")
                for value in values if value.dtype not in FLOATS | INTEGERS]
    if problems:
        raise UnsupportedModel(TABLE.target, problems)


def _entering(b: Builder, var: Var) -> Var:
    if var.dtype.kind != "f" or var.dtype == b.dtype:
        return var
    inside = b.to(var, b.dtype)
    if b.dtype is np.float16 and var.dtype == np.float32:
        b.singles[inside.name] = var
    return inside


def _leaving(b: Builder, value: ir.Value, operand: Operand) -> Var:
    return b.to(b.var(operand), _interface(value))
