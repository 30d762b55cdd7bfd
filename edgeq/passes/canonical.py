"""The passes and their order, as data."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from edgeq.passes.batch_norm import fold_batch_norm
from edgeq.passes.clean import remove_unused
from edgeq.passes.fold import fold_constants


@dataclass(frozen=True, slots=True)
class Pass:
    """One rewrite, in place -> how often it fired. ``why``: what its place in the order is for."""

    run: Callable[[ir.Model], int]
    why: str

    @property
    def name(self) -> str:
        return self.run.__name__


@dataclass(frozen=True, slots=True)
class Applied:
    """A pass that changed the graph, and how often."""

    name: str
    count: int


PASSES: Final[tuple[Pass, ...]] = (
    Pass(fold_constants, "first: every later pattern asks for constants"),
    Pass(fold_batch_norm, ""),
    Pass(remove_unused, "last: what the others left behind"),
)


def canonicalize(model: ir.Model) -> list[Applied]:
    """Run every pass in order, in place, until none fires -> what fired, in order of the table.

    The model has static shapes (see `fix_shapes`); every pass keeps them. Quantized weights, QuantizeLinear and
    DequantizeLinear are never touched, so that a quantized model keeps its integers.
    """
    counts = dict.fromkeys((step.name for step in PASSES), 0)
    while True:
        fired = [(step.name, step.run(model)) for step in PASSES]
        for name, count in fired:
            counts[name] += count
        if not any(count for _, count in fired):
            return [Applied(name, count) for name, count in counts.items() if count]
