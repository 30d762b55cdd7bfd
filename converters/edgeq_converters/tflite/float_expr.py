"""Arithmetic on float tensors written as arithmetic, for ops that are formulas of other kernels."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq_converters.tflite.builder import Builder
from edgeq_converters.tflite.program import Tensor

Term: TypeAlias = "Real | float | NDArray[np.float32]"


@dataclass(frozen=True, slots=True, eq=False)
class Real:
    """A float tensor. Each operation is one kernel call."""

    b: Builder
    tensor: Tensor

    def _other(self, other: Term) -> Tensor:
        if isinstance(other, Real):
            return other.tensor
        return self.b.constant(np.asarray(other, self.tensor.dtype))

    def _call(self, kernel: str, *others: Term) -> Real:
        tensors = [self.tensor, *map(self._other, others)]
        out = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
        return Real(self.b, self.b.call(kernel, tensors, out))

    def __add__(self, other: Term) -> Real:
        return self._call("ADD", other)

    def __sub__(self, other: Term) -> Real:
        return self._call("SUB", other)

    def __mul__(self, other: Term) -> Real:
        return self._call("MUL", other)

    def __truediv__(self, other: Term) -> Real:
        return self._call("DIV", other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> Real:
        return self.constant(other)._call("SUB", self)

    def __rtruediv__(self, other: float) -> Real:
        return self.constant(other)._call("DIV", self)

    def __neg__(self) -> Real:
        return self._call("NEG")

    def constant(self, number: float | NDArray[np.float32]) -> Real:
        return Real(self.b, self._other(number))

    def maximum(self, other: Term) -> Real:
        return self._call("MAXIMUM", other)

    def minimum(self, other: Term) -> Real:
        return self._call("MINIMUM", other)

    def run(self, kernel: str, *others: Term) -> Real:
        """Any kernel of broadcasting operands."""
        return self._call(kernel, *others)

    def compare(self, kernel: str, other: Term) -> Real:
        tensors = [self.tensor, self._other(other)]
        out = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
        return Real(self.b, self.b.call(kernel, tensors, out, dtype=np.bool_, to=None))

    def select(self, yes: Term, no: Term) -> Real:
        """self is a condition; at least one side must be a Real."""
        like = yes if isinstance(yes, Real) else no
        assert isinstance(like, Real)
        tensors = [self.tensor, like._other(yes), like._other(no)]
        out = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
        return Real(self.b, self.b.call("SELECT_V2", tensors, out))

    def reduce(self, kernel: str, axes: list[int]) -> Real:
        """MEAN, SUM, .. over tensor axes, which stay with size 1."""
        out = [1 if axis in axes else size for axis, size in enumerate(self.tensor.shape)]
        return Real(self.b, self.b.call(kernel, [self.tensor, self.b.ints(axes)], out, keepDims=True))
