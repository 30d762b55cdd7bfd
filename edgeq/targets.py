"""How a target says what it runs on quantized data, as rows of facts: they let the planner choose grids.

The rows themselves are those of the backends (`Backend.target`). An op without a row on a target runs in float there.
Each row links to the source that sets the limit.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from edgeq.errors import UsageError


@dataclass(frozen=True, slots=True)
class Free:
    """The kernel rescales: inputs and outputs have grids of their own."""


@dataclass(frozen=True, slots=True)
class Same:
    """The kernel moves or selects integers: all data inputs and outputs share one grid."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The kernel writes on one grid only: uint8 scale and zero point."""

    scale: float
    zero_point: int


Constraint: TypeAlias = Free | Same | Fixed


@dataclass(frozen=True, slots=True)
class Row:
    """How an op with integer inputs runs. source: where the engine says so.

    float_output: the kernel may write float from integer inputs (a MatMul in front of a float op). fused: ops whose
    result the kernel takes from their accumulators: it never exists as integers.
    """

    constraint: Constraint
    source: str
    float_output: bool = False
    fused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Target:
    """One engine.

    rows: ONNX op -> how it runs in INT8. needs: the extra that installs its converter, or ''. open_sizes: it runs
    tensors whose size the data decides, as what NonZero finds. symmetric: its activations lie on signed grids around 0,
    so that it shares no plan with the others. tables: its 4-bit weights may be indices into any 16 numbers.
    keeps_embeddings: why the tables that a Gather looks up stay float, or ''. interfaces: what inputs and outputs may
    be in place of floats, "image" for an input that is declared as one; no_integers: why not integers, and what helps.

    wide: the rows of activations of 16 bits beside weights of 8; none: it has no such kernels. wide_symmetric: these
    activations lie around 0. no_wide_4_bits: why not beside weights of 4 bits, or "". wide_bias_bits: of the biases
    that its kernels add to such products.
    """

    name: str
    engine: str
    summary: str
    weights: str
    activations: str
    needs: str
    rows: Mapping[str, Row]
    wide: Mapping[str, Row] = field(default_factory=dict)
    wide_symmetric: bool = False
    no_wide_4_bits: str = ""
    wide_bias_bits: int = 32
    open_sizes: bool = False
    symmetric: bool = False
    tables: bool = False
    keeps_embeddings: str = ""
    interfaces: frozenset[str] = frozenset()
    no_integers: str = "no integers go in or come out there; leave --io out"

    def at(self, bits: int) -> Target:
        """The same with the rows of activations of so many bits."""
        return replace(self, rows=self.wide, symmetric=self.wide_symmetric) if bits == 16 else self


FREE: Final = Free()
SAME: Final = Same()
# Every engine moves these integers without touching them.
MOVES: Final = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split",
                "Tile", "Expand", "MaxPool")


def row_table(*groups: Mapping[str, Row]) -> Mapping[str, Row]:
    return MappingProxyType({op: row for group in groups for op, row in group.items()})


def each(ops: tuple[str, ...], constraint: Constraint, source: str, *, float_output: bool = False) -> dict[str, Row]:
    """The same row for several ops."""
    return dict.fromkeys(ops, Row(constraint, source, float_output))


def are_symmetric(targets: Iterable[Target]) -> bool:
    """Whether the activations of targets that share a plan are symmetric.

    Raises:
        UsageError: some are and some are not, so that they cannot share one.
    """
    targets = list(targets)
    symmetric = [target.name for target in targets if target.symmetric]
    if len(symmetric) not in (0, len(targets)):
        raise UsageError(f"{' and '.join(symmetric)} has symmetric activations and shares no plan: "
                         "ask for it in a call of its own")
    return bool(symmetric)

