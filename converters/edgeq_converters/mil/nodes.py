"""Nodes of a folded graph (see edgeq_converters.prepare), one after the other, each with its handler."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import onnx_ir as ir

from edgeq.graph import quant
from edgeq.ops import RANDOM
from edgeq.passes.fold import evaluate
from edgeq_converters.mil.builder import Builder, Constant, Operand, Var
from edgeq_converters.optable import CannotLower, OpTable, Unreached, lower_all

B = TypeVar("B", bound=Builder)


class Lowering(ABC, Generic[B]):
    """The values of a graph in the making.

    table: the handlers. values: of every ONNX value that is reached, what holds it in the program.
    """

    def __init__(self, builder: B, table: OpTable[Any], values: dict[ir.Value, Operand]):
        self.builder, self.table, self.values = builder, table, values
        builder.lower_block = self.body

    @abstractmethod
    def checked(self, value: ir.Value, result: Operand) -> Operand:
        """The result of a node, rounded to its grid, when it has the type and shape that ONNX says.

        Raises:
            CannotLower: the engine has no such tensors.
        """

    def results(self, node: ir.Node, inputs: Sequence[Operand]) -> Any:
        """What the handler of a node gives."""
        return self.table.lower(node, self.builder, inputs)

    def nodes(self, graph: ir.Graph) -> None:
        """Raises UnsupportedModel: lists every node that the engine does not have."""
        for value in graph.initializers.values():
            if value.const_value is not None and value not in self.values:
                self.values[value] = Constant(value.const_value.numpy(), quant(value))
        lower_all(graph, self._node, self.table.target)

    def body(self, graph: ir.Graph) -> list[Var]:
        """A body of If or Loop -> its outputs."""
        self.nodes(graph)
        if any(value not in self.values for value in graph.outputs):
            raise Unreached
        return [self.builder.var(self.values[value]) for value in graph.outputs]

    def _node(self, node: ir.Node) -> None:
        values, b = self.values, self.builder
        if any(value is not None and value not in values for value in node.inputs):
            self.table.handler(node)  # which may fail on its own account
            raise Unreached
        b.node = node
        with b.computing_in(np.float32 if node in b.in_float32 else b.program_dtype):
            inputs = [None if value is None else b.converted(values[value]) for value in node.inputs]
            results: Any = _folded(node, inputs)
            if results is None:
                results = self.results(node, inputs)
            results = results if isinstance(results, tuple | list) else (results,)
            for value, result in zip(node.outputs, results, strict=False):
                if result is not None:
                    values[value] = self.checked(value, result)
        missing = [value.name for value in node.outputs if value not in values and (list(value.uses())
                                                                                 or value.is_graph_output())]
        if missing:
            raise CannotLower(f"output {', '.join(map(str, missing))} has no equivalent")


def _folded(node: ir.Node, inputs: Sequence[Operand]) -> list[Constant] | None:
    """The outputs of a node all of whose inputs are known; None where that is not so, or onnxruntime has no kernel."""
    if node.op_type in RANDOM or node.domain not in ("", "ai.onnx"):
        return None
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return None
    if not all(given is None or isinstance(given, Constant) for given in inputs):
        return None
    results = evaluate(node, {value.name or "": given.real for value, given in zip(node.inputs, inputs, strict=True)
                              if value is not None})
    return None if results is None else [Constant(result) for result in results]
