"""Inputs for a check: those that cover the sizes of free dimensions, and those for when the user gave none."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.dimensions import Sizes, extremes
from edgeq.inference.reference import Arrays
from edgeq.quant.feeds import InputSpec, begun, given
from edgeq_runtime.dimensions import Dimension, Free


def generated_feeds(specs: Mapping[str, InputSpec], *, integers: tuple[int, int] = (0, 1)) -> Iterator[Arrays]:
    """Standard normal numbers for float inputs, numbers between the two `integers` for integers (0 and 1 are legal as
    token, index and flag), their digits for text; from a fixed seed. Free dimensions have all their `extremes`. A state
    is left to the step before.

    Never used for calibration: ranges come from real data or not at all.
    """
    generator = np.random.default_rng(0)
    for number, sizes in enumerate(list(extremes(_free(specs))) or [{}] * policy.GENERATED_SAMPLES.value):
        feed = {}
        for name, spec in given(specs, ()).items():
            shape = _shape(spec, sizes)
            dtype = np.dtype(spec.dtype)
            if dtype.kind == "f":
                feed[name] = generator.normal(size=shape).astype(dtype)
            else:
                numbers = generator.integers(integers[0], integers[1] + 1, size=shape)
                feed[name] = numbers.astype(str).astype(object) if dtype.kind == "O" else numbers.astype(dtype)
        yield feed if number else begun(feed, specs)


def cover_sizes(feeds: Sequence[Arrays], specs: Mapping[str, InputSpec]) -> list[Arrays]:
    """The samples, and the first one cut or repeated along the free axes to the `extremes` that none of them has."""
    covered = list(feeds)
    for sizes in extremes(_free(specs)):
        wanted = {name: _shape(spec, sizes) for name, spec in specs.items()}
        if not any(all(feed[name].shape == shape for name, shape in wanted.items()) for feed in covered):
            covered.append({name: _resized(feeds[0][name], shape) for name, shape in wanted.items()})
    return covered


def _free(specs: Mapping[str, InputSpec]) -> dict[str, Free]:
    return {d.name: d for spec in specs.values() for d in spec.shape if not isinstance(d, int | str)}


def _shape(spec: InputSpec, sizes: Sizes) -> tuple[int, ...]:
    def size(dimension: Dimension) -> int:
        if isinstance(dimension, int):
            return dimension
        return sizes.get(dimension if isinstance(dimension, str) else dimension.name, 1)

    return tuple(map(size, spec.shape))


def _resized(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    for axis, size in enumerate(shape):
        array = np.take(array, np.arange(size) % array.shape[axis], axis)
    return array
