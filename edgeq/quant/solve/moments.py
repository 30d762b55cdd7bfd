"""What a layer's inputs have in common, gathered sample by sample."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array = NDArray[np.float32]


@dataclass(eq=False)
class Moments:
    """Running sums over columns x [G,n,N] that enter a layer of the quantized model, and z that enter the float one.

    gram: sum of x x^T [G,n,n]. cross_gram: sum of z x^T [G,n,n]. quantized, exact: sum of x and of z [G,n].
    """

    gram: Array
    cross_gram: Array
    quantized: NDArray[np.float64]
    exact: NDArray[np.float64]
    count: int = 0

    @classmethod
    def empty(cls, groups: int, size: int) -> Moments:
        """Of layers with `groups` groups and `size` inputs to each output."""
        return cls(np.zeros((groups, size, size), np.float32), np.zeros((groups, size, size), np.float32),
                   np.zeros((groups, size)), np.zeros((groups, size)))

    def add(self, quantized: Array, exact: Array) -> None:
        """Count columns [G,n,N] of the same positions in both models; the same array twice where they are equal."""
        transposed = np.swapaxes(quantized, 1, 2)
        gram = quantized @ transposed
        self.gram += gram
        self.cross_gram += gram if exact is quantized else exact @ transposed
        self.quantized += quantized.sum(2, dtype=np.float64)
        self.exact += exact.sum(2, dtype=np.float64)
        self.count += quantized.shape[2]

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of columns."""
        return Moments(self.gram + other.gram, self.cross_gram + other.cross_gram, self.quantized + other.quantized,
                       self.exact + other.exact, self.count + other.count)


@dataclass(frozen=True, slots=True, eq=False)
class Objective:
    """min over q of sum over rows (q - target)^T hessian (q - target): what is left to choose for one layer.

    hessian: half of the second derivative, which is the damped Gram matrix of the inputs, so positive definite [G,n,n].
    target: real weights [G,R,n] that would undo what the quantized prefix did to the inputs.
    """

    hessian: Array
    target: Array

    def error(self, weight: Array) -> NDArray[np.float64]:
        """weight [G,R,n] -> its squared output error [G,R]."""
        off = weight - self.target
        return np.asarray(np.einsum("grn,grn->gr", off @ self.hessian, off, dtype=np.float64))


def objective(weight: Array, moments: Moments, *, free_bias: bool, correction: float = math.inf,
              damping: float = policy.DAMPING.value) -> Objective:
    """The least squares problem that weight [G,R,n] poses, given what enters it.

    free_bias: the layer has a bias, which will take up the mean of the error, so that only the rest counts.
    correction: aim at the float layer's output on the float inputs, from the quantized ones. The target minimizes
        E|W z - q x|^2 + correction |W - q|^2, so it is W (E[z x^T] + correction) (E[x x^T] + correction)^-1: GPTAQ (Li
        et al. 2025, arXiv:2504.02692) in closed form. The fewer the samples, the larger should it be; inf: aim at W.
    damping: of the moments. Both in units of the mean diagonal. It makes singular moments, of dead inputs or few
        samples, positive definite.
    """
    count = max(moments.count, 1)
    gram: Array = moments.gram / np.float32(count)
    cross_gram: Array = moments.cross_gram / np.float32(count)
    if free_bias:
        mean, exact = (moments.quantized / count).astype(np.float32), (moments.exact / count).astype(np.float32)
        gram = gram - mean[:, :, None] * mean[:, None, :]
        cross_gram = cross_gram - exact[:, :, None] * mean[:, None, :]
    size = gram.shape[1]
    level = np.trace(gram, axis1=1, axis2=2) / size
    level = np.where(level > 0, level, 1 / damping).astype(np.float32)[:, None, None]
    eye = np.eye(size, dtype=np.float32)
    damped = gram + damping * level * eye
    if math.isinf(correction):
        return Objective(damped, weight)
    steep = (gram + correction * level * eye).astype(np.float64)
    moved = np.linalg.solve(steep, np.swapaxes(weight @ (cross_gram - gram), 1, 2))
    return Objective(damped, weight + np.swapaxes(moved, 1, 2).astype(np.float32))


def mean_error(weight: Array, quantized: Array, moments: Moments) -> Array:
    """What the mean output [G,R] of quantized weights lacks beside the float layer's: the correction of its bias."""
    count = max(moments.count, 1)
    missing = np.einsum("grn,gn->gr", weight, moments.exact) - np.einsum("grn,gn->gr", quantized, moments.quantized)
    return np.asarray(missing / count, np.float32)


def output_error(weight: Array, quantized: Array, shift: Array | None, moments: Moments) -> NDArray[np.float64]:
    """Mean squared output error [G,R] of quantized weights with `shift` added to the bias, up to a constant.

    With d = q - W:  E|W z - q x|^2 = d E[x x^T] d^T + 2 W E[(x - z) x^T] d^T + E|W (z - x)|^2; the last is constant.
    """
    count = max(moments.count, 1)
    off = quantized - weight
    inside = off @ moments.gram + 2 * (weight @ (moments.gram - moments.cross_gram))
    error = np.einsum("grn,grn->gr", inside, off, dtype=np.float64) / count
    if shift is not None:
        error += shift * (shift - 2.0 * mean_error(weight, quantized, moments))
    return np.asarray(error, np.float64)
