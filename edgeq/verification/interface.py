"""Between the float model's arrays and those of a bundle whose inputs and outputs are integers."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeq.inference.session import Arrays
from edgeq_runtime.integers import to_integers, to_reals
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.predict import steps
from edgeq_runtime.preprocess import Preprocess


def as_taken(manifest: Manifest, feed: Arrays) -> dict[str, Any]:
    """A feed of the float model, in the bundle's layout -> what the bundle takes; integers count as that already."""
    before = steps(manifest)[0]
    found: dict[str, Any] = dict(feed)
    for spec in manifest.inputs:
        array = found.get(spec.name)
        if spec.scale is None or array is None or np.asarray(array).dtype.kind != "f":
            continue
        is_pixels = isinstance(before, Preprocess) and before.pixels
        found[spec.name] = before.to_pixels(array) if is_pixels else to_integers(spec, array)  # type: ignore[union-attr]
    return found


def as_given(manifest: Manifest, taken: Arrays) -> dict[str, Any]:
    """The inverse: what a bundle takes -> a feed of the float model."""
    before = steps(manifest)[0]
    pixels = isinstance(before, Preprocess) and before.pixels
    return {spec.name: before.of_pixels(taken[spec.name]) if pixels and spec.scale is not None  # type: ignore[union-attr]
            else to_reals(spec, taken[spec.name]) for spec in manifest.inputs}


def as_float(manifest: Manifest, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle gives -> the real numbers that the float model gives."""
    specs = {spec.name: spec for spec in manifest.outputs}
    return {name: to_reals(specs[name], array) for name, array in outputs.items()}
