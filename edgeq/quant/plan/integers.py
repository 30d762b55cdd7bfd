"""Which nodes compute on integers, and why the others stay float."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq import policy
from edgeq.graph import attribute, constant, consumers, is_constant, is_finite, label
from edgeq.ops import CONVOLUTIONS
from edgeq.quant.plan.spectral import spectral_layers
from edgeq.quant.plan.types import Precision
from edgeq.quant.plan.units import Units, data_inputs, holds_weights, is_float, weights_of

KEPT_BY_USER: Final = "kept float by --keep-float"
_SPECTRAL: Final = "the magnitude of a spectrum: what is quiet in it would vanish on an 8-bit grid"


class IntegerNodes:
    """nodes: the heads of units that compute on integers. kept: node that stays float though an engine could run it ->
    why. integer_outputs: the model's outputs are integers, so that what makes them may be.
    """

    def __init__(self, units: Units, keep: Sequence[re.Pattern[str]], layers: Mapping[str, Precision], *,
                 integer_outputs: bool = False):
        self.units, self.integer_outputs = units, integer_outputs
        self.nodes: set[ir.Node] = set()
        self.kept: dict[ir.Node, str] = {}
        spectral = spectral_layers(units.graph)
        for node in units.heads():
            if units.has_row(node) and is_float(node.outputs[0]):
                reason = self._asked_for(node, keep, layers) or _reason_to_keep(node) or (
                    _SPECTRAL if node in spectral else "")
                if reason:
                    self.kept[node] = reason
                else:
                    self.nodes.add(node)
        if not integer_outputs:
            self._keep_tails()
        self._demote_isolated()
        for node, head in units.absorbed.items():
            if head in self.kept:
                self.kept[node] = self.kept[head]

    def is_read(self, value: ir.Value) -> bool:
        """True when integers are what some reader of a value wants."""
        return (self.integer_outputs and value.is_graph_output()) or any(
            self.units.head(reader) in self.nodes and self.units.head(reader) is reader
            and self.fused_input(reader) is not value for reader in consumers(value))

    def fused_input(self, node: ir.Node) -> ir.Value | None:
        """As Units.fused_input, of an accumulator of integers."""
        value = self.units.fused_input(node)
        return value if value is not None and value.producer() in self.nodes else None

    def _asked_for(self, node: ir.Node, keep: Sequence[re.Pattern[str]], layers: Mapping[str, Precision]) -> str:
        if is_kept(node, self.units, keep):
            return KEPT_BY_USER
        precision = layers.get(label(node), Precision())
        wide = precision.weight_bits in (16, 32)  # no engine multiplies integers by these
        return precision.reason or "asked for" if wide or precision.integer_activations is False else ""

    def _keep_tails(self) -> None:
        """From the graph outputs back to the last multiply-accumulate ops: scores, boxes and pixels need more than 8
        bits.
        """
        tail = self.units.tail()
        for node in self.units.graph:
            if node in tail and node in self.nodes:
                self._keep(node, "behind the last weights: its values are the model's answer")

    def _demote_isolated(self) -> None:
        """A cheap op gains nothing from integers when its inputs arrive in float or nobody reads its integers."""
        changed = True
        while changed:
            changed = False
            for node in self.units.graph:
                if node not in self.nodes or holds_weights(node, 1):
                    continue
                if self.fused_input(node) is None and not all(self._arrives(value) for value in data_inputs(node)):
                    self._keep(node, "an input arrives in float")
                elif not self.is_read(self.units.output(node)):
                    self._keep(node, "only float ops read its result")
                else:
                    continue
                changed = True

    def _arrives(self, value: ir.Value) -> bool:
        producer = value.producer()
        return is_constant(value) or producer is None or self.units.head(producer) in self.nodes

    def _keep(self, node: ir.Node, reason: str) -> None:
        self.nodes.discard(node)
        self.kept[node] = reason


def is_kept(node: ir.Node, units: Units, keep: Sequence[re.Pattern[str]]) -> bool:
    """True when the user wants a unit in float, by the name of its head or of its bias Add."""
    members = [node, units.bias_add.get(node, node)]
    return any(pattern.search(label(member)) for pattern in keep for member in members)


def _reason_to_keep(node: ir.Node) -> str:
    for value in node.inputs:
        data = constant(value)
        if data is None or data.dtype.kind != "f" or not data.size:
            continue
        if np.min(data) <= -policy.MASK_MAGNITUDE.value:
            return "adds an attention mask, which no 8-bit grid can hold beside the scores"
        if node.op_type == "Pad" and np.max(data) >= policy.MASK_MAGNITUDE.value:
            return "puts a number beside its data that no 8-bit grid can hold with it"
    if any(is_constant(value) and not is_finite(value) for value in weights_of(node)):
        return "its weights hold infinity, or nothing"
    if node.op_type == "MatMul" and is_constant(node.inputs[0]):
        return "its left operand is a constant"
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
                                   or attribute(node, "transA", 0)):
        return "integer kernels know no alpha, beta or transA"
    if node.op_type in CONVOLUTIONS and not is_constant(node.inputs[1]):
        return "its weights are computed"
    if node.op_type == "HardSigmoid" and min(attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)) <= 0:
        return "the steps of a grid stand for its factors, and they are not positive"
    if node.op_type == "Resize" and attribute(node, "mode", "nearest") == "cubic":
        return "cubic interpolation leaves the range of its input"
    return ""
