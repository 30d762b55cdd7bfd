"""AdaRound: which way to round, learned by gradient descent on the layer's error. Pure numpy."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Array = NDArray[np.float32]


def adaround(target: Array, hessian: Array, scale: Array, qmax: int, *,
             iterations: int = policy.ADAROUND_ITERATIONS.value, rate: float = policy.ADAROUND_RATE.value) -> Array:
    """target, scale [G,R,n], hessian [G,n,n] -> integers [G,R,n] in [-qmax, qmax], each target rounded up or down.

    min over h in [0,1] of E(floor(target/scale) + h) + push * sum(1 - |2h - 1|^beta), with h a stretched sigmoid of
    free variables and beta falling; Adam. Nagel et al. 2020, arXiv:2004.10568, eq. 21 to 25, on the moments of the
    inputs instead of the inputs. Where its result is worse than rounding to the nearest, a row keeps that.
    """
    floor = np.floor(target / scale)
    nearest = np.clip(np.rint(target / scale), -qmax, qmax)
    base = _error(nearest * scale - target, hessian)
    unit = np.maximum(base, 1e-30)[:, :, None]  # rows of all sizes learn alike
    (low, high), (soft_power, hard_power) = policy.ADAROUND_STRETCH.value, policy.ADAROUND_BETA.value
    warm = policy.ADAROUND_WARM.value
    fraction = np.clip((target / scale - floor - low) / (high - low), 1e-4, 1 - 1e-4)
    free = np.log(fraction / (1 - fraction)).astype(np.float32)
    first, second = np.zeros_like(free), np.zeros_like(free)
    for turn in range(1, iterations + 1):
        sigmoid = 1 / (1 + np.exp(-free))
        soft = np.clip(sigmoid * (high - low) + low, 0, 1)
        slope = np.where((soft > 0) & (soft < 1), sigmoid * (1 - sigmoid) * (high - low), 0)
        integers = floor + soft
        off = np.clip(integers, -qmax, qmax) * scale - target
        gradient = 2 * (off @ hessian) * scale / unit * (np.abs(integers) <= qmax)
        share = turn / iterations
        if share > warm:
            fall = 0.5 * (1 + np.cos(np.pi * (share - warm) / (1 - warm)))
            beta = hard_power + (soft_power - hard_power) * fall
            centred = 2 * soft - 1
            gradient = gradient - policy.ADAROUND_PUSH.value * 2 * beta * np.sign(centred) * np.abs(centred)**(beta - 1)
        gradient = gradient * slope
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        free = free - rate * (first / (1 - 0.9**turn)) / (np.sqrt(second / (1 - 0.999**turn)) + 1e-8)
    found = np.clip(floor + (1 / (1 + np.exp(-free)) * (high - low) + low >= 0.5), -qmax, qmax)
    better = _error(found * scale - target, hessian) < base
    return np.asarray(np.where(better[:, :, None], found, nearest), np.float32)


def _error(off: Array, hessian: Array) -> NDArray[np.float64]:
    """off [G,R,n] -> [G,R]."""
    return np.asarray(np.einsum("grn,grn->gr", off @ hessian, off, dtype=np.float64))
