"""The dispatcher: a handler's signature is its contract, and nothing is ignored by accident."""
from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from edgeq.errors import UnsupportedModel
from edgeq_converters.optable import CannotLower, OpTable, Unreached, explicit_attributes, lower_all


def node(op_type: str, inputs: int = 1, **attributes: Any) -> ir.Node:
    values = [ir.Value(name=f"x{i}") for i in range(inputs)]
    return ir.node(op_type, values, attributes, name=f"the {op_type}", version=21)


@pytest.fixture
def table() -> OpTable[str]:
    op: OpTable[str] = OpTable("a toaster")

    @op("LeakyRelu", "Elu")
    def leaky(builder: str, value: Any, *, alpha: float = 0.01) -> Any:
        return builder, value, alpha

    @op("Clip")
    def clip(builder: str, value: Any, low: Any = None, high: Any = None) -> Any:
        return builder, value, low, high

    return op


def test_inputs_by_position_attributes_by_name(table: OpTable[str]) -> None:
    assert table.lower(node("LeakyRelu", alpha=0.5), "builder", ["x"]) == ("builder", "x", 0.5)
    assert table.lower(node("Clip", 3), "builder", ["x", None, 6]) == ("builder", "x", None, 6)


def test_attributes_that_say_what_the_schema_assumes_are_dropped() -> None:
    conv = node("Conv", 2, auto_pad="NOTSET", group=1, strides=[2, 1])
    assert explicit_attributes(conv) == {"strides": (2, 1)}


def test_attributes_of_unknown_ops_are_all_explicit() -> None:
    own = ir.node("Linear", [], {"keep": 1}, domain="edgeq", version=1)
    assert explicit_attributes(own) == {"keep": 1}


@pytest.mark.parametrize(("bad", "inputs", "reason"), [
    (node("Relu"), ["x"], "no such operator on a toaster"),
    (node("LeakyRelu", slope=2), ["x"], "slope=2 has no equivalent on a toaster"),
    (node("LeakyRelu", 2), ["x", "y"], "too many positional"),
    (node("LeakyRelu", 0), [], "missing"),
])
def test_refusals(table: OpTable[str], bad: ir.Node, inputs: list[str], reason: str) -> None:
    with pytest.raises(CannotLower, match=reason):
        table.lower(bad, "builder", inputs)


def test_one_handler_for_each_op(table: OpTable[str]) -> None:
    with pytest.raises(ValueError, match="Elu has two handlers"):
        table("Elu")(lambda builder, value: value)


def test_all_failures_are_reported_together_with_their_remedy() -> None:
    def lower(bad: ir.Node) -> None:
        if bad.op_type == "Neg":
            raise CannotLower("no minus here", "use Sub")
        if bad.op_type == "Abs":
            raise Unreached
        if bad.op_type == "Erf":
            raise CannotLower("too smooth")

    with pytest.raises(UnsupportedModel) as error:
        lower_all([node("Neg"), node("Relu"), node("Abs"), node("Erf")], lower, "a toaster")
    assert str(error.value) == ("2 nodes cannot run on a toaster:\n"
                                "  - Neg 'the Neg': no minus here (use Sub)\n"
                                "  - Erf 'the Erf': too smooth")


def test_nothing_to_report_is_no_error() -> None:
    lower_all([node("Relu")], lambda bad: None, "a toaster")
