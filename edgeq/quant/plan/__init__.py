"""Which values lie on integer grids, which share one, and which ops stay float and why: decided before any data is
seen.

units (what one kernel computes) -> integers (which of them run on integers) -> weights, and grids of activations.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

import onnx_ir as ir

from edgeq.errors import UsageError
from edgeq.graph import NodeNote, label
from edgeq.quant.plan.grids import Grids
from edgeq.quant.plan.integers import IntegerNodes
from edgeq.quant.plan.types import Bias, Precision, QuantPlan, Weight
from edgeq.quant.plan.units import Units, embedding_of, weights_of
from edgeq.quant.plan.weights import kept_embeddings, plan_biases, plan_weights, weighted_layers
from edgeq.scheme import QuantScheme
from edgeq.targets import Target

__all__ = ["Bias", "Precision", "QuantPlan", "Weight", "make_plan"]

_NEAR: Final = 3
_NO_LAYERS: Final[Mapping[str, Precision]] = MappingProxyType({})


def make_plan(model: ir.Model, targets: Sequence[Target], scheme: QuantScheme, *, keep_float: Iterable[str] = (),
              layers: Mapping[str, Precision] = _NO_LAYERS) -> QuantPlan:
    """Plan `scheme` for all `targets` at once, under the union of their constraints, so that they share every grid.

    keep_float: names of nodes, of what they compute or of their weights, as reports print them, or regular expressions
    that find a node's name; such a node stays float altogether.
    layers: name of a node (or its first output) -> what it gets instead of `scheme`.

    Raises:
        UsageError: one finds no layer; names those that come close. Or it is neither a name nor a regular expression.
    """
    units = Units(model.graph, [target.at(scheme.activation_bits) for target in targets])
    keep = [_pattern(text, units) for text in keep_float]
    integers = (IntegerNodes(units, keep, layers, integer_outputs=scheme.integer_outputs)
                if scheme.activation is not None else None)
    on_integers = integers.nodes if integers is not None else set()
    weights, half = ((), ()) if scheme.weight is None else plan_weights(
        units, weighted_layers(units, keep, on_integers), scheme.weight, layers, scheme.table_channels, on_integers)
    reasons = (integers.kept if integers is not None else {}) | kept_embeddings(units, on_integers)
    stored = {weight.node for weight in weights}
    kept = tuple(NodeNote.of(node, reason) for node, reason in reasons.items()
                 if label(node) not in stored or embedding_of(node) is None)  # one that is stored looks up integers
    if scheme.activation is None or integers is None:
        return QuantPlan(None, {}, (), {}, frozenset(), frozenset(), weights, (), kept, half)
    wide = scheme.activation_bits == 16 and all(target.wide_bias_bits == 64 for target in targets)
    biases = plan_biases(units, integers.nodes, weights, 64 if wide else 32)
    grids = Grids(integers, integer_inputs=scheme.integer_inputs)
    return QuantPlan(scheme.activation, grids.groups(), grids.sources(), grids.fixed, frozenset(grids.rounded),
                     frozenset(grids.readers), weights, biases, kept, half)


def _names(node: ir.Node) -> set[str | None]:
    """What reports call a layer."""
    return {label(node), *(value.name for value in node.outputs), *(value.name for value in weights_of(node))}


def _pattern(text: str, units: Units) -> re.Pattern[str]:
    exact = [label(node) for node in units.graph if text in _names(node)]
    if exact:
        return re.compile("|".join(f"^{re.escape(name)}$" for name in exact))
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--keep-float '{text}' is not a regular expression: {error}") from None
    names = [label(node) for node in units.graph if units.has_row(node) or weights_of(node)]
    if names and not any(pattern.search(name) for name in names):
        bare = re.sub(r"[^\w/]", "", text)
        near = ", ".join(f"'{name}'" for name in get_close_matches(bare, names, n=_NEAR, cutoff=0))
        raise UsageError(f"--keep-float {text}: no layer has such a name; near it: {near}")
    return pattern
