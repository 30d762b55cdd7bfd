"""The TFLite graph in the making: tensors and operators, before they become a flatbuffer."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.scheme import QuantParams
from edgeq_converters.tflite.layout import Layout


@dataclass(eq=False, slots=True)
class Tensor:
    """One tensor of the file. shape: as stored. data: reals, or the stored integers (int8 for 4-bit weights too).
    free: axes whose size each run decides. variable: it starts as zeros, and keeps what an operator writes into it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grid: QuantParams | None = None
    data: NDArray[Any] | None = None
    free: tuple[int, ...] = ()
    variable: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(eq=False, slots=True)
class Operator:
    """One call of a builtin. options: fields of its options table that differ from the schema's default. node: label
    and operator of the ONNX node that it was made for."""

    kernel: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    node: tuple[str, str] | None = None


@dataclass(eq=False, slots=True)
class Value:
    """A value of the ONNX graph and every tensor that holds it so far.

    shape, dtype: in ONNX terms. grid: signed, or None where it is float. data: a constant's (integers where it has a
    grid). tensors: by layout, on the grid; reals: by layout, dequantized.
    scrambled: (tensor [M,F], order [F]) of a flattened value whose column j is ONNX column order[j]; only
    FULLY_CONNECTED reads it, with its weights permuted. pending: makes the first entry of `tensors`, once somebody
    needs it. half: a constant whose numbers are stored as float16.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grid: QuantParams | None = None
    data: NDArray[Any] | None = None
    tensors: dict[Layout, Tensor] = field(default_factory=dict)
    reals: dict[Layout, Tensor] = field(default_factory=dict)
    scrambled: tuple[Callable[[], Tensor], NDArray[np.intp]] | None = None
    pending: Callable[[], tuple[Layout, Tensor]] | None = None
    half: bool = False
    shared: bool = False  # more than one reader, or a graph output: its producer must keep its result as it is

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(slots=True)
class Program:
    """Operators in running order; inputs and outputs by public name."""

    operators: list[Operator] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def prune(self) -> None:
        """Drop the operators whose results nobody reads."""
        needed: set[int] = {id(tensor) for tensor in self.outputs.values()}
        kept = []
        for operator in reversed(self.operators):
            if any(id(tensor) in needed for tensor in operator.outputs):
                kept.append(operator)
                needed |= {id(tensor) for tensor in operator.inputs if tensor is not None}
        self.operators = kept[::-1]

    def tensors(self) -> list[Tensor]:
        """Every tensor in use, each once, inputs first."""
        found: dict[int, Tensor] = {}
        for tensor in self.inputs.values():
            found.setdefault(id(tensor), tensor)
        for operator in self.operators:
            for used in (*operator.inputs, *operator.outputs):
                if used is not None:
                    found.setdefault(id(used), used)
        for tensor in self.outputs.values():
            found.setdefault(id(tensor), tensor)
        return list(found.values())


Options = Mapping[str, Any]
