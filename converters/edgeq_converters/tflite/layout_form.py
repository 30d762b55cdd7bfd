"""How a node runs, as far as layouts go."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edgeq_converters.tflite.layout import Layout

Reads: TypeAlias = tuple[tuple[int, Layout], ...]  # (input, layout in which it is read)


@dataclass(frozen=True, slots=True)
class Form:
    """works: the layout that the node's handler asks the builder for. makes: that of each output."""

    works: Layout
    reads: Reads
    makes: tuple[Layout, ...]
