"""Which values lie on integer grids, which share one, and which ops stay float and why: decided before any data is
seen.

units (what one kernel computes) -> integers (which of them run on integers) -> weights, and grids of activations.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from edgeq.graph import label
from edgeq.quant.plan.grids import Grids
from edgeq.quant.plan.integers import IntegerNodes
from edgeq.quant.plan.types import Bias, Kept, Precision, QuantPlan, Weight
from edgeq.quant.plan.units import Units
from edgeq.quant.plan.weights import plan_biases, plan_weights, weighted_layers
from edgeq.scheme import QuantScheme
from edgeq.targets import Target

__all__ = ["Bias", "Kept", "Precision", "QuantPlan", "Weight", "make_plan"]

_NO_LAYERS: Mapping[str, Precision] = MappingProxyType({})


def make_plan(model: ir.Model, targets: Sequence[Target], scheme: QuantScheme, *, keep_float: Iterable[str] = (),
              layers: Mapping[str, Precision] = _NO_LAYERS) -> QuantPlan:
    """Plan `scheme` for all `targets` at once, under the union of their constraints, so that they share every grid.

    keep_float: regular expressions; a node whose name (or first output's name) matches one stays float altogether.
    layers: name of a node (or its first output) -> what it gets instead of `scheme`.
    """
    keep = [re.compile(pattern) for pattern in keep_float]
    units = Units(model.graph, targets)
    weights, half = ((), ()) if scheme.weight is None else plan_weights(
        units, weighted_layers(units, keep), scheme.weight, layers)
    if scheme.activation is None:
        return QuantPlan(None, {}, (), {}, frozenset(), frozenset(), weights, (), (), half)
    integers = IntegerNodes(units, keep, layers)
    grids = Grids(integers)
    kept = tuple(Kept(label(node), node.op_type, reason) for node, reason in integers.kept.items())
    return QuantPlan(scheme.activation, grids.groups(), grids.sources(), grids.fixed, frozenset(grids.rounded),
                     frozenset(grids.readers), weights, plan_biases(units, integers.nodes, weights), kept, half)
