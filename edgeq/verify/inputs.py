"""Inputs for a check when the user gave none. Never used for calibration: ranges come from real data or not at all."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgeq.quant.samples import InputSpec
from edgeq.verify.reference import Arrays

SAMPLES = 4


def generated_feeds(specs: Mapping[str, InputSpec], *, integers: tuple[int, int] = (0, 1)) -> Iterator[Arrays]:
    """Standard normal numbers for float inputs, numbers between the two `integers` for integers (0 and 1 are legal as
    token, index and flag), their digits for text; from a fixed seed.
    """
    generator = np.random.default_rng(0)
    for _ in range(SAMPLES):
        feed = {}
        for name, spec in specs.items():
            shape = [d if isinstance(d, int) else 1 for d in spec.shape]
            dtype = np.dtype(spec.dtype)
            if dtype.kind == "f":
                feed[name] = generator.normal(size=shape).astype(dtype)
            else:
                numbers = generator.integers(integers[0], integers[1] + 1, size=shape)
                feed[name] = numbers.astype(str).astype(object) if dtype.kind == "O" else numbers.astype(dtype)
        yield feed
