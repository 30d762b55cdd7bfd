"""Inputs for a check when the user gave none. Never used for calibration: ranges come from real data or not at all."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgeq.quant.samples import InputSpec
from edgeq.verify.reference import Arrays

SAMPLES = 4


def generated_feeds(specs: Mapping[str, InputSpec]) -> Iterator[Arrays]:
    """Standard normal numbers for float inputs, 0 and 1 for integers (legal as token, index and flag), from a fixed
    seed.
    """
    generator = np.random.default_rng(0)
    for _ in range(SAMPLES):
        feed = {}
        for name, spec in specs.items():
            shape = [d if isinstance(d, int) else 1 for d in spec.shape]
            dtype = np.dtype(spec.dtype)
            numbers = generator.normal(size=shape) if dtype.kind == "f" else generator.integers(0, 2, size=shape)
            feed[name] = numbers.astype(dtype)
        yield feed
