"""Cosines and sines of rotary positions, with every scaling of their frequencies."""
from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq.frontends.decoder.spec import Linear, Llama3, LongRope, Rotary, Yarn

Array: TypeAlias = NDArray[np.float32]


def tables(rotary: Rotary, positions: int) -> tuple[Array, Array]:
    """-> cos, sin [positions, size/2] in float32, of the positions 0, 1, ...; angles in float64."""
    frequencies, factor = scaled_frequencies(rotary, positions)
    angles = np.arange(positions)[:, None] * frequencies[None, :]
    return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)


def scaled_frequencies(rotary: Rotary, positions: int) -> tuple[NDArray[np.float64], float]:
    """-> angle per position [size/2], and what cosines and sines are multiplied with.

    positions: the context that the model will run with: LongRope has one set of frequencies up to its trained context
    and another one beyond.
    """
    plain = rotary.base ** (-np.arange(0, rotary.size, 2) / rotary.size)
    match rotary.scaling:
        case None:
            return plain, 1.0
        case Linear(factor):
            return plain / factor, 1.0
        case Llama3() as scaling:
            return _llama3(plain, scaling), 1.0
        case Yarn() as scaling:
            attention = 0.1 * math.log(scaling.factor) + 1.0 if scaling.attention is None else scaling.attention
            return _yarn(plain, rotary, scaling), attention
        case LongRope(short, long, original, attention):
            return plain / np.asarray(long if positions > original else short), attention


def _llama3(plain: NDArray[np.float64], scaling: Llama3) -> NDArray[np.float64]:
    """https://github.com/meta-llama/llama-models/blob/main/models/llama3/model.py (apply_scaling)"""
    turns = scaling.original * plain / (2 * math.pi)  # within the trained context
    blend = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return np.asarray(blend * plain + (1 - blend) * plain / scaling.factor)


def _yarn(plain: NDArray[np.float64], rotary: Rotary, scaling: Yarn) -> NDArray[np.float64]:
    """Section 3.2 of arXiv:2309.00071: dimensions that turn often keep their frequency, slow ones are interpolated."""
    def dimension(turns: float) -> float:
        return rotary.size * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(rotary.base))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), rotary.size - 1)
    ramp = np.clip((np.arange(rotary.size // 2) - low) / max(high - low, 0.001), 0, 1)
    return np.asarray(plain / scaling.factor * ramp + plain * (1 - ramp))
