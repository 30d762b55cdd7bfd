"""A backend's table of op handlers: ``(builder, *inputs, **attributes) -> output or tuple of outputs``.

The signature of a handler is its contract: inputs are positional in ONNX order (None where an optional one is absent),
attributes are keyword-only with the defaults of the ONNX schema. An attribute that a handler does not name is one
that the backend cannot express: it is refused with op, node and attribute, so nothing is ignored by accident.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import onnx
import onnx_ir as ir

from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import OPSET, label

B = TypeVar("B")
Handler = Callable[..., Any]


class CannotLower(Exception):
    """Raised by a handler: this form of the op has no equivalent here. The text is shown to the user."""

    def __init__(self, reason: str, remedy: str = ""):
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class OpTable(Generic[B]):
    """The handlers of one backend. Tables belong to a backend, never to the process. shared: to begin with."""

    def __init__(self, target: str, shared: Mapping[str, Handler] | None = None):
        self.target = target
        self.handlers: dict[str, Handler] = dict(shared or {})

    def __call__(self, *op_types: str) -> Callable[[Handler], Handler]:
        """Register a handler for one or several ONNX op types."""

        def register(handler: Handler) -> Handler:
            for op_type in op_types:
                if op_type in self.handlers:
                    raise ValueError(f"{op_type} has two handlers in {self.target}")
                self.handlers[op_type] = handler
            return handler

        return register

    def handler(self, node: ir.Node) -> Handler:
        """The handler of a node, as far as that can be judged without its inputs.

        Raises:
            CannotLower: no handler, or an attribute that the handler does not name.
        """
        handler = self.handlers.get(node.op_type)
        if handler is None:
            raise CannotLower(f"no such operator on {self.target}")
        parameters = inspect.signature(handler).parameters
        for name, value in explicit_attributes(node).items():
            if name not in parameters:
                raise CannotLower(f"attribute {name}={value} has no equivalent on {self.target}")
        return handler

    def lower(self, node: ir.Node, builder: B, inputs: Sequence[Any]) -> Any:
        """Lower one node -> what its handler returns.

        Raises:
            CannotLower: see `handler`, or the handler's own reason.
        """
        handler = self.handler(node)
        try:
            call = inspect.signature(handler).bind(builder, *inputs, **explicit_attributes(node))
        except TypeError as error:
            raise CannotLower(f"{error}") from None
        return handler(*call.args, **call.kwargs)


def explicit_attributes(node: ir.Node) -> dict[str, Any]:
    """The node's attributes that differ from what the ONNX schema assumes anyway."""
    defaults = _schema_defaults(node.op_type, node.domain, node.version or OPSET)
    given = {name: attr.value for name, attr in node.attributes.items()}
    return {name: value for name, value in given.items() if name not in defaults or defaults[name] != value}


@lru_cache(maxsize=1024)
def _schema_defaults(op_type: str, domain: str, version: int) -> dict[str, Any]:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:  # edgeq's own ops of the folded graph
        return {}
    defaults = {a.name: onnx.helper.get_attribute_value(a.default_value)
                for a in schema.attributes.values() if a.default_value.name}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in defaults.items()}


# Raised where inputs contradict each other in what ONNX does not look at, such as the shape of an LSTM's weights.
_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def lower_all(nodes: Iterable[ir.Node], lower_one: Callable[[ir.Node], None], target: str) -> None:
    """Lower every node; report all failures together.

    `lower_one` must leave something readable for a failed node's outputs, or raise CannotLower again for the nodes
    behind it; those that fail only because an input is missing ask `OpTable.handler` and then raise `Unreached`,
    which is not reported.
    """
    problems, cause = [], None
    for node in nodes:
        try:
            lower_one(node)
        except Unreached:
            continue
        except CannotLower as error:
            problems.append(Problem(label(node), node.op_type, error.reason, error.remedy))
        except _MISFITS as error:
            problems.append(Problem(label(node), node.op_type, f"its inputs do not fit together, or edgeq has an error "
                                    f"here ({type(error).__name__}: {error})", "--debug shows where"))
            cause = error
    if problems:
        raise UnsupportedModel(target, problems) from cause


class Unreached(Exception):
    """A node behind one that could not be lowered: nothing of its own to report."""
