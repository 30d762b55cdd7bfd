"""If. Its bodies are lowered in place; a condition known at conversion leaves only the body taken."""
from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeq.errors import UnsupportedModel
from edgeq_converters.mil.builder import Builder, Operand, Var
from edgeq_converters.mil.table import op
from edgeq_converters.optable import CannotLower


@op("If")
def if_(b: Builder, condition: Operand, *, then_branch: ir.Graph, else_branch: ir.Graph) -> Any:
    node = b.node

    def lower_block(graph: ir.Graph) -> list[Var]:
        assert b.lower_block is not None
        try:
            return b.lower_block(graph)
        except UnsupportedModel as error:
            raise CannotLower("in its body: " + "; ".join(map(str, error.problems))) from None

    known = b.known(condition)
    if known is not None:
        return tuple(lower_block(then_branch if known.all() else else_branch))

    def body(graph: ir.Graph) -> Any:
        with b.inner_block():
            results = [_own(b, b.converted(var)) for var in lower_block(graph)]
        b.node = node
        return tuple(results) if len(results) > 1 else results[0]

    results = b.op("cond", pred=b.reshape(condition, ()), _true_fn=lambda: body(then_branch),
                   _false_fn=lambda: body(else_branch))
    return tuple(results) if isinstance(results, tuple | list) else results


def _own(b: Builder, var: Var) -> Var:
    """A value of the body itself: what it returns may be a constant or belong to the outer block."""
    return b.op("identity", x=var)
