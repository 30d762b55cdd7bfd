"""What a plan says."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeq.graph import NodeNote
from edgeq.scheme import QuantType
from edgeq.targets import Fixed


@dataclass(frozen=True, slots=True)
class Precision:
    """What one layer gets instead of what the scheme and the planner's own rules would give it; None changes nothing.

    weight_bits: 16 stores them as float16, 32 as they are. integer_activations: False lets the layer compute in float
    from float inputs, whatever its weights are stored as. reason: for the report.
    """

    weight_bits: Literal[4, 8, 16, 32] | None = None
    integer_activations: bool | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Weight:
    """How one constant operand of a node that multiplies is stored.

    value: its initializer's name. bias: the initializer that is added to the product, or "". table_channels: as in
    QuantScheme. shares_embedding: an embedding holds the same numbers, so both are rounded alike and stored
    once.
    """

    node: str
    value: str
    type: QuantType
    bias: str = ""
    table_channels: int = 0
    shares_embedding: bool = False


@dataclass(frozen=True, slots=True)
class Bias:
    """An operand on the product grid of an activation and a weight. bits: 32, or 64, which no standard form has: it
    stays float then, and that grid holds it.
    """

    node: str
    value: str
    activation: str
    weight: str
    bits: Literal[32, 64] = 32


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """What `quantize` does to a model.

    activation: the type of every grid. groups: planned value -> leader of the values that share its grid. sources: the
    values to observe, which together cover every group. fixed: leader -> the grid that an engine prescribes. rounded:
    planned values whose every reader sees the rounded value (the kernel stores integers). readers: (node, input
    index) that read the rounded value where others read the float one. half: weights that are stored as float16.
    """

    activation: QuantType | None
    groups: Mapping[str, str]
    sources: tuple[str, ...]
    fixed: Mapping[str, Fixed]
    rounded: frozenset[str]
    readers: frozenset[tuple[str, int]]
    weights: tuple[Weight, ...]
    biases: tuple[Bias, ...]
    kept: tuple[NodeNote, ...]
    half: tuple[str, ...] = ()
