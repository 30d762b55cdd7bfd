"""emit: the QDQ graph in, model.tflite out."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions
from edgeq.dimensions import free_dimensions, witnesses
from edgeq.errors import MissingExtra, Problem, UnsupportedModel
from edgeq.graph import NodeNote, constant, label, quant, real_inputs, shape
from edgeq.ops import MOVING
from edgeq.passes.dynamic import is_dynamic, without_dynamic_rounding
from edgeq.quant.qdq import without_rounding
from edgeq.scheme import QuantParams
from edgeq_converters.optable import CannotLower, OpTable, Unreached, lower_all
from edgeq_converters.prepare import lower_form, specialized_form
from edgeq_converters.tflite import flatbuffer, metadata
from edgeq_converters.tflite.branches import compute_both_branches
from edgeq_converters.tflite.builder import Builder, NeedsFloat, has_kernels, held_grid, stored_dtype
from edgeq_converters.tflite.integer import float_reason
from edgeq_converters.tflite.interface import keep_grids, mark_grids, real_interface
from edgeq_converters.tflite.kernels import version
from edgeq_converters.tflite.layout import identity
from edgeq_converters.tflite.layout_assignment import assign_layouts
from edgeq_converters.tflite.layout_form import Form
from edgeq_converters.tflite.narrow_types import carrier, is_narrow
from edgeq_converters.tflite.ops import table
from edgeq_converters.tflite.program import Program, Tensor, Value
from edgeq_converters.tflite.resizable import resizable
from edgeq_converters.tflite.validate import validate

ENTRY: Final = "model.tflite"
# The first release whose kernels were run against every row of kernels.py; older ones lack the newer versions of
# QUANTIZE, FULLY_CONNECTED (10 to 14) and DEQUANTIZE. Files that stay below those versions run on tflite-runtime 2.14
# too.
ENGINE_VERSION: Final = ">=2.1"
NEW_VERSIONS: Final = {"FULLY_CONNECTED": 9, "CONV_2D": 7, "DEQUANTIZE": 5, "QUANTIZE": 3, "TRANSPOSE": 6, "CAST": 5}

# Ops that take numbers as they are stored; for all others, types without kernels are widened first.
CARRIED: Final = MOVING | {"Cast", "CastLike", "Concat", "Where", "Shape", "Size"}

# What the bundle says to tflite-runtime, whose last release is 2.14: a range that no release meets turns it away.
OLD_RUNTIME, NO_OLD_RUNTIME = ">=2.14", ">2.14"


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    """Write `folder`/model.tflite. The model's inputs and outputs keep their names, shapes, types and ONNX layout.

    Raises:
        UnsupportedModel: nodes that LiteRT cannot run, all of them.
        MissingExtra: ai-edge-litert is not installed.
    """
    if find_spec("ai_edge_litert") is None:
        raise MissingExtra("TFLite conversion", "tflite")
    path = folder / ENTRY
    try:
        program, float_nodes = _program(model, path)
        said = metadata.metadata(program.inputs, program.outputs, options)
        validate(flatbuffer.write(program, path, said=said))
        metadata.add_labels(path, options)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    variables = {"variables": True} if any(tensor.variable for tensor in program.tensors()) else {}
    old = OLD_RUNTIME if runs_on_old_runtime(program) else NO_OLD_RUNTIME
    return Artifact(ENTRY, "tflite", ENGINE_VERSION, options={"tflite_runtime": old, **variables},
                    float_nodes=tuple(float_nodes))


def _program(model: ir.Model, path: Path) -> tuple[Program, list[NodeNote]]:
    """With free dimensions: what the programs for a few sizes have in common, in the layouts that suit the largest."""
    dynamic = is_dynamic(model.graph)
    # Values on grids without kernels are float here, but they clip.
    model = without_rounding(without_dynamic_rounding(model), where=lambda grid: not has_kernels(grid))
    model, grids = real_interface(model)

    def form(given: ir.Model) -> ir.Model:
        found = lower_form(keep_grids(compute_both_branches(given)), table().handlers, limits_in_integers=True)
        mark_grids(found.graph, grids)
        return found

    free = free_dimensions(model)
    if not free:
        return lower(form(model), dynamic=dynamic, grids=grids)
    seen = witnesses(free)
    graphs = [form(specialized_form(model, sizes)) for sizes in seen]
    layouts = assign_layouts(graphs[0].graph)
    lowered = [lower(graph, layouts, dynamic=dynamic, resizable=True, grids=grids) for graph in graphs]
    validate(flatbuffer.write(lowered[0][0], path))  # while every shape in it is a number
    return resizable([program for program, _ in lowered], free), lowered[0][1]


def runs_on_old_runtime(program: Program) -> bool:
    """Whether tflite-runtime 2.14, the last with wheels for 32-bit ARM, has every version that the file asks for."""
    return all(version(operator) <= NEW_VERSIONS.get(operator.kernel, 99) for operator in program.operators)


def lower(model: ir.Model, layouts: Mapping[str, Form] | None = None, *, dynamic: bool = False,
          resizable: bool = False, grids: Mapping[str, QuantParams] = {}) -> tuple[Program, list[NodeNote]]:
    """The folded graph -> (TFLite operators, the float fallbacks of a graph that is otherwise quantized).

    layouts: as `assign_layouts` chooses them, by default for this graph. dynamic, resizable: see Builder. grids: of the
    inputs and outputs that are integers in the file, as they are stored there.
    """
    forms = assign_layouts(model.graph) if layouts is None else layouts
    return _Lowering(model.graph, table(), Builder(forms, dynamic, resizable), grids).run()


class _Lowering:
    def __init__(self, graph: ir.Graph, ops: OpTable[Builder], builder: Builder, grids: Mapping[str, QuantParams]):
        self.graph, self.ops, self.builder, self.grids = graph, ops, builder, grids
        self.values: dict[ir.Value, Value] = {}
        self.wide: dict[int, Value] = {}
        self.float_fallbacks: list[NodeNote] = []
        self.quantized = any(quant(value) is not None for node in graph for value in node.outputs)

    def run(self) -> tuple[Program, list[NodeNote]]:
        program = self.builder.program
        for value in real_inputs(self.graph):
            program.inputs[value.name or ""] = self._public_input(value)
        lower_all(self.graph, self._lower_one, self.ops.target)
        for value in self.graph.outputs:
            held, grid = self._output(value), self.grids.get(value.name or "")
            tensor = self.builder.read(held, identity(held.rank), integer=grid is not None)
            tensor = tensor if grid is None else self.builder.stored_as(tensor, grid)
            if tensor.data is not None or any(tensor is other
                                              for other in (*program.inputs.values(), *program.outputs.values())):
                tensor = self.builder.call("RESHAPE", [tensor, self.builder.ints(tensor.shape)], tensor.shape,
                                           newShape=list(tensor.shape))
            tensor.name = value.name or tensor.name
            program.outputs[value.name or ""] = tensor
        program.prune()
        return program, self.float_fallbacks

    def _output(self, value: ir.Value) -> Value:
        try:
            return self._read(value)
        except Unreached:
            node = value.producer()
            assert node is not None
            problem = Problem(label(node), node.op_type, f"its output '{value.name}' is not available here")
            raise UnsupportedModel(self.ops.target, [problem]) from None

    def _public_input(self, value: ir.Value) -> Tensor:
        assert value.dtype is not None
        if np.dtype(value.dtype.numpy()).name not in flatbuffer.PLAIN_TYPES:
            problem = Problem(value.name or "", "input", f"tensors of {value.dtype.name} do not exist here")
            raise UnsupportedModel(self.ops.target, [problem])
        grid = self.grids.get(value.name or "")
        dtype = np.dtype(value.dtype.numpy())
        tensor = Tensor(value.name or "", shape(value), dtype if grid is None else stored_dtype(grid), grid)
        held = tensor if grid is None else self.builder.stored_as(tensor, grid.as_signed())
        self.values[value] = Value(value.name or "", tensor.shape, dtype, held.grid, shared=True,
                                   tensors={identity(tensor.rank): held})
        return tensor

    def _read(self, value: ir.Value) -> Value:
        if value not in self.values:
            data = constant(value)
            if data is None:
                raise Unreached
            grid = held_grid(value)
            if grid is not None:
                unsigned = quant(value).type  # type: ignore[union-attr]
                data = data.astype(np.int32) - (0 if unsigned.signed else 2 ** (unsigned.bits - 1))
                data = data.astype({16: np.int16, 32: np.int32}.get(unsigned.bits, np.int8))
            elif is_narrow(value.dtype):
                assert value.dtype is not None
                data = data.astype(carrier(value.dtype))
            dtype = np.dtype(np.float32) if grid is not None else data.dtype
            self.values[value] = Value(value.name or "", tuple(data.shape), dtype, grid, data, shared=True)
        return self.values[value]

    def _lower_one(self, node: ir.Node) -> None:
        strange = {str(value.dtype) for value in node.outputs
                   if value.dtype is not None and value.dtype.numpy().name not in flatbuffer.PLAIN_TYPES}
        if strange and not (node.op_type in CARRIED and all(is_narrow(value.dtype) for value in node.outputs)):
            raise CannotLower(f"tensors of {', '.join(sorted(strange))} do not exist here")
        try:
            inputs = [None if value is None else self._read(value) for value in node.inputs]
        except Unreached:
            self.ops.handler(node)  # which may fail on its own account
            raise
        self.builder.begin(node, integer=False)
        if node.op_type not in CARRIED:
            inputs = [self._widened(value) for value in inputs]
        reason = float_reason(node, inputs)
        if reason is None:
            try:
                self._run(node, inputs, integer=True)
                return
            except NeedsFloat as error:
                reason = str(error)
        try:
            self._run(node, inputs, integer=False)
        except NeedsFloat as error:  # from a handler that has no float form either
            raise CannotLower(str(error)) from None
        if self.quantized and _computes(node, inputs):
            self.float_fallbacks.append(NodeNote.of(node, reason))

    def _widened(self, value: Value | None) -> Value | None:
        """Halves and doubles are computed with in float32."""
        if value is None or value.dtype not in (np.float16, np.float64) or value.grid is not None:
            return value
        if id(value) not in self.wide:
            single = np.dtype(np.float32)
            if value.data is not None:
                made = Value(value.name, value.shape, single, data=value.data.astype(single))
            else:
                layout = self.builder.held_layout(value)
                tensor = self.builder.cast(self.builder.read(value, layout), single)
                made = Value(value.name, value.shape, single, tensors={layout: tensor}, shared=True)
            self.wide[id(value)] = made
        return self.wide[id(value)]

    def _run(self, node: ir.Node, inputs: Sequence[Value | None], integer: bool) -> None:
        self.builder.begin(node, integer)
        made = self.ops.lower(node, self.builder, inputs)
        results = made if isinstance(made, tuple) else (made,)
        for output, value in zip(node.outputs, results, strict=False):
            if value is not None:
                self.values[output] = value


def _computes(node: ir.Node, inputs: Sequence[Value | None]) -> bool:
    """True for a node that does float arithmetic at run time; moving data and shape arithmetic is no float fallback."""
    if node.op_type in MOVING | {"Cast"}:
        return False
    real = any(value is not None and value.data is None and value.dtype.kind == "f" for value in inputs)
    return real and any(value.dtype == ir.DataType.FLOAT for value in node.outputs)

