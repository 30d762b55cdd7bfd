"""The interpreter's table of ops. The signature of a handler is MIL's: its inputs by name, with MIL's default values.

Handlers compute in numpy, floats as float32; the interpreter gives the result the declared type. Two names are no
inputs of MIL and are filled by the interpreter where a handler asks for them: ``opset`` (5 for iOS 15 to 9 for iOS
26; some ops changed their meaning) and ``scope`` (the running program, for control flow and state).
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Function = Callable[..., Any]
PROVIDED = frozenset({"opset", "scope"})


class CannotRun(Exception):
    """Raised by a handler: this form of the op is not known here. The text is shown to the user."""


@dataclass(frozen=True, slots=True)
class Handler:
    """``exact``: the outputs hold only numbers that the inputs hold, so there is nothing to round."""

    function: Function
    exact: bool
    inputs: frozenset[str]
    required: frozenset[str]
    provided: frozenset[str]


class OpTable:
    """Handlers by MIL op type."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def __call__(self, *op_types: str, exact: bool = False) -> Callable[[Function], Function]:
        """Register a handler for one or several op types."""

        def register(function: Function) -> Function:
            self.add(_describe(function, exact), *op_types)
            return function

        return register

    def add(self, handler: Handler, *op_types: str) -> None:
        for op_type in op_types:
            if op_type in self._handlers:
                raise ValueError(f"{op_type} has two handlers")
            self._handlers[op_type] = handler

    def get(self, op_type: str) -> Handler | None:
        return self._handlers.get(op_type)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    @classmethod
    def union(cls, *tables: OpTable) -> OpTable:
        """One table of all the handlers of several."""
        result = cls()
        for table in tables:
            for op_type, handler in table._handlers.items():
                result.add(handler, op_type)
        return result


def _describe(function: Function, exact: bool) -> Handler:
    parameters = inspect.signature(function).parameters
    names = frozenset(parameters)
    required = frozenset(name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty)
    return Handler(function, exact, names - PROVIDED, required - PROVIDED, names & PROVIDED)
