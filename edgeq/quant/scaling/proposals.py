"""Which scales s [C] to try: what is in front is divided by them, the weights behind are multiplied. Pure numpy."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy

Scale: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """What is known of C channels. Everything [C] and not negative.

    before: largest weight that writes a channel, None behind a normalization. after: largest weight that reads it.
    peak, mean: largest and mean magnitude of its values, None without samples. gain: magnitude of the factor of the
    normalization that writes it, or None.
    """

    after: Scale
    before: Scale | None = None
    peak: Scale | None = None
    mean: Scale | None = None
    gain: Scale | None = None


def equalize(channels: Channels) -> list[Scale]:
    """Both layers' largest weights of a channel alike: s = sqrt(r1 / r2); and half way there.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721),
    eq. 11.
    """
    if channels.before is None:
        return []
    return [_ratio(channels.before, channels.after, power) for power in policy.EQUALIZE_POWERS.value]


def smooth(channels: Channels) -> list[Scale]:
    """From the activations' peaks into the weights: s = peak^a / r2^(1-a).

    Xiao et al. 2023, "SmoothQuant" (arXiv:2211.10438), eq. 4. The peaks are known on samples only.
    """
    if channels.peak is None:
        return []
    return [_ratio(channels.peak**alpha, channels.after**(1 - alpha), 1.0) for alpha in policy.SMOOTH_POWERS.value]


def awq(channels: Channels) -> list[Scale]:
    """More steps for weights that much enters: s = mean|x|^a, searched over a.

    Lin et al. 2024, "AWQ: Activation-aware Weight Quantization" (arXiv:2306.00978), eq. 4 and 5.
    """
    if channels.mean is None:
        return []
    return [_ratio(channels.mean, np.ones_like(channels.mean), power) for power in policy.AWQ_POWERS.value]


def fold_gains(channels: Channels) -> list[Scale]:
    """The factors of a normalization into the weights behind it, which undoes what a network learned to put there."""
    return [] if channels.gain is None else [_ratio(channels.gain, np.ones_like(channels.gain), 1.0)]


PROPOSALS: Final[Mapping[str, Callable[[Channels], list[Scale]]]] = MappingProxyType({
    "fold-gains": fold_gains,
    "equalize": equalize,
    "smooth": smooth,
    "awq": awq,
})

NEED_SAMPLES: Final = ("smooth", "awq")


def _ratio(above: Scale, below: Scale, power: float) -> Scale:
    """(above / below)^power, around 1; 1 for channels where either is 0, since nothing can be said of them."""
    alive = (above > 0) & (below > 0)
    logarithm = np.zeros(len(above), np.float64)
    logarithm[alive] = power * np.log(above[alive].astype(np.float64) / below[alive])
    if alive.any():
        logarithm[alive] -= logarithm[alive].mean()
    limit = np.log(policy.SCALING_LIMIT.value)
    return np.exp(np.clip(logarithm, -limit, limit)).astype(np.float32)
