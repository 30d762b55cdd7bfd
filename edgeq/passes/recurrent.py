"""Recurrent layers in the one layout that engines take."""
from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeq.graph import attribute, dims
from edgeq.passes.rewrite import nodes_of

_SEQUENCE, _STATES = (1, 0, 2), (1, 0, 2)
_OUTPUT = (2, 0, 1, 3)  # Y: [steps, directions, batch, hidden] -> [batch, steps, directions, hidden]


def steps_first(model: ir.Model) -> int:
    """LSTM, GRU and RNN with the batch in front (layout 1) get Transposes around them -> how many.

        x[batch,steps,n] -> LSTM(layout 1) -> y     =>     x -> Transpose -> LSTM -> Transpose -> y

    https://onnx.ai/onnx/operators/onnx__LSTM.html; onnxruntime refuses layout 1.
    """
    return sum(_turn(node) for node in nodes_of(model, "LSTM", "GRU", "RNN"))


def _turn(node: ir.Node) -> bool:
    if attribute(node, "layout", 0) != 1 or dims(node.inputs[0]) is None or node.graph is None:
        return False
    node.attributes.pop("layout")
    for index, perm in ((0, _SEQUENCE), (5, _STATES), (6, _STATES)):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is not None:
            before = ir.node("Transpose", [value], attributes={"perm": perm}, name=f"{node.name}_{index}_turned")
            _describe(before.outputs[0], f"{before.name}", value, perm)
            node.graph.insert_before(node, before)
            node.replace_input_with(index, before.outputs[0])
    for output, back in zip(node.outputs, (_OUTPUT, _STATES, _STATES), strict=False):
        if output.uses() or output.is_graph_output():
            _turn_back(node, output, back)
    return True


def _turn_back(node: ir.Node, output: ir.Value, perm: Sequence[int]) -> None:
    after = ir.node("Transpose", [output], attributes={"perm": perm}, name=f"{node.name}_{output.name}_turned")
    new = after.outputs[0]
    new.shape, new.type = output.shape, output.type
    name, output.name = output.name, f"{output.name}_steps_first"
    new.name = name
    if output.shape is not None:
        output.shape = ir.Shape([output.shape[list(perm).index(k)] for k in range(len(perm))])
    output.replace_all_uses_with(new, replace_graph_outputs=True)
    after.replace_input_with(0, output)
    assert node.graph is not None
    node.graph.insert_after(node, after)


def _describe(value: ir.Value, name: str, source: ir.Value, perm: Sequence[int]) -> None:
    value.name, value.type = name, source.type
    if source.shape is not None:
        value.shape = ir.Shape([source.shape[k] for k in perm])
