"""A graph run by the table of torch forms, any value of it given from outside."""
from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from edgeq.errors import Problem, UnsupportedModel
from edgeq.graph import bodies, is_constant, label
from edgeq.recovery.forms import FORMS, Tensor
from edgeq.recovery.windows import NoForm


@dataclass(frozen=True, slots=True)
class TorchNetwork:
    """nodes: in order. constants: every initializer, by name."""

    nodes: tuple[ir.Node, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: ir.Model) -> TorchNetwork:
        """Raises UnsupportedModel: operators without a torch form, every one of them."""
        graph = model.graph
        problems = [Problem(label(node), node.op_type, reason, "convert without --recover")
                    for node in graph for reason in _reasons(node)]
        if problems:
            raise UnsupportedModel("torch, which --recover learns with", problems)
        constants = {name: as_tensor(value) for name, value in graph.initializers.items() if is_constant(value)}
        return cls(tuple(graph), tuple(value.name or "" for value in graph.outputs), constants)

    def run(self, feed: Mapping[str, Any], given: Mapping[str, Tensor]) -> list[Tensor]:
        """The graph's outputs. given: values that are not computed, or take the place of constants.

        Raises:
            UnsupportedModel: a node in a form that the table has not.
        """
        known: dict[str, Tensor] = {**self.constants, **given}
        known |= {name: torch.from_numpy(array) for name, array in feed.items()}
        for node in self.nodes:
            if all(value.name in known for value in node.outputs):
                continue
            inputs = [None if value is None else known[value.name or ""] for value in node.inputs]
            try:
                found = FORMS[node.op_type](*inputs, **_attributes(node))
            except NoForm as reason:
                raise UnsupportedModel("torch, which --recover learns with", [
                    Problem(label(node), node.op_type, f"no torch form with {reason}", "convert without --recover"),
                ]) from None
            results: Sequence[Tensor] = found if isinstance(found, list | tuple) else [found]
            known.update({value.name or "": result for value, result in zip(node.outputs, results, strict=False)})
        return [known[name] for name in self.outputs]


def as_tensor(value: ir.Value) -> Tensor:
    """The data of a constant; of 4 bits as int8 or uint8."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    if value.dtype in (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2):
        array = array.astype("int8" if value.dtype.is_signed() else "uint8")
    if array.dtype.name in ("uint16", "uint32", "uint64"):
        array = array.astype("int64")
    return torch.from_numpy(array.copy())


def _reasons(node: ir.Node) -> Iterator[str]:
    form = FORMS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if form is None or bodies(node):
        yield "no torch form is known of it"
        return
    known = _keywords(node.op_type)
    yield from (f"no torch form with {name}" for name in node.attributes if name not in known)


def _keywords(op_type: str) -> frozenset[str]:
    """What attributes a form names; none: of functions that say nothing of theirs, of ops that have no attributes."""
    try:
        parameters = inspect.signature(FORMS[op_type]).parameters.values()
    except ValueError:  # written in C
        return frozenset()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


def _attributes(node: ir.Node) -> dict[str, Any]:
    found = {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type == "QuantizeLinear":
        kind = node.outputs[0].dtype or (node.inputs[2].dtype if len(node.inputs) > 2 and node.inputs[2] else None)
        if kind is not None:
            found |= {"bits": int(kind.itemsize * 8), "signed": kind.is_signed()}
    if node.op_type == "Split" and len(node.inputs) < 2:
        found.setdefault("num_outputs", len(node.outputs))
    return found
