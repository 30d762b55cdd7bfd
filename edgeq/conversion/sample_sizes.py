"""What the user's data tell of the sizes that a model leaves open."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeq import policy
from edgeq.conversion.request import FloatOutputs, Request
from edgeq.errors import CalibrationError
from edgeq.quant.feeds import Feed, InputSpec
from edgeq.quant.samples import ARRAYS, Samples, open_samples
from edgeq.state import state_of
from edgeq.verification.evaluate import evaluation_samples
from edgeq_runtime.dimensions import Choice, Dimension, Free, Range


@dataclass(slots=True)
class SampleSizes:
    """Sizes of dimensions for `edgeq.passes.interface.bind_inputs`.

    what: the data, as a sentence calls them. open: opens them, as inputs of unknown sizes take them. is_uniform: all
    samples have the shape of the first. told: by input, the shape that followed, as --input would spell it.
    """

    what: str
    open: Callable[[Mapping[str, InputSpec]], Iterable[Feed]]
    is_uniform: bool
    told: dict[str, str] = field(default_factory=dict)

    def __call__(self, inputs: Mapping[ir.Value, tuple[Dimension, ...]]) -> dict[str, int | Free]:
        """inputs: their shapes, where a name alone is a size that nobody knows -> the sizes, by name.

        A first axis counts samples, which are fed one by one; only where the data do not fit that, they tell it too.

        Raises:
            CalibrationError: samples have another rank or type, or other sizes where they are known.
        """
        batches = {shape[0]: 1 for shape in inputs.values() if shape and isinstance(shape[0], str)}
        try:
            found = self._sizes({value: tuple(batches.get(d, d) if isinstance(d, str) else d for d in shape)
                                 for value, shape in inputs.items()})
        except CalibrationError:
            if not batches:
                raise
            found = self._sizes(inputs)
        known: dict[str, int | Free] = batches | found
        self.told |= {str(value.name): _spelled(known.get(d, d) if isinstance(d, str) else d for d in shape)
                      for value, shape in inputs.items() if any(isinstance(d, str) and d in found for d in shape)}
        return known

    def _sizes(self, inputs: Mapping[ir.Value, tuple[Dimension, ...]]) -> dict[str, int | Free]:
        specs = {str(value.name): InputSpec(value.dtype.numpy().name, shape, state_of(value))
                 for value, shape in inputs.items() if value.dtype is not None}
        seen: dict[str, set[int]] = {}
        for feed in islice(self.open(specs), 1 if self.is_uniform else None):
            for name, spec in specs.items():
                for size, dimension in zip(feed[name].shape, spec.shape, strict=True) if name in feed else ():
                    if isinstance(dimension, str):
                        seen.setdefault(dimension, set()).add(size)
        return {name: _dimension(name, sorted(sizes)) for name, sizes in seen.items() if min(sizes) > 0}

    def to_json(self) -> dict[str, Any] | None:
        """None where nothing was asked of the samples."""
        return {"what": self.what, "inputs": self.told} if self.told else None


def sample_sizes(request: Request) -> SampleSizes | None:
    """Those of the calibration, else of the evaluation; None where there is neither."""
    data, what = request.calibration, "calibration"
    opened: Callable[..., Samples] = open_samples
    if data is None and isinstance(request.measure, FloatOutputs):
        data, what, opened = request.measure.data, "evaluation", evaluation_samples
    if data is not None:
        return SampleSizes(f"the {what} samples", lambda specs: opened(
            data, specs, limit=request.sample_limit, preprocess=request.preprocess), _is_uniform(data))
    if request.measure is None or isinstance(request.measure, FloatOutputs) or request.measure.metric is None:
        return None
    labelled = request.measure
    return SampleSizes("the evaluation samples", lambda specs: labelled.feeds(specs, preprocess=request.preprocess),
                       _is_uniform(labelled.data))


def _is_uniform(data: Any) -> bool:
    """Whether samples are the rows of one array."""
    return isinstance(data, Mapping) or hasattr(data, "shape") or (
        isinstance(data, str | Path) and Path(data).suffix.lower() in ARRAYS)


def _spelled(shape: Iterable[Dimension]) -> str:
    """As `edgeq.dimensions.parse_shape` reads it."""
    axes = [str(d).removeprefix("=") for d in shape]
    return ("," if any("x" in axis for axis in axes) else "x").join(axes)


def _dimension(name: str, sizes: list[int]) -> int | Free:
    """One size is the size; several are the ends of a range, or enumerated where a range would hold what the network
    may not take.
    """
    if len(sizes) == 1:
        return sizes[0]
    # Networks that halve an image several times take multiples of the stride and no size between.
    if len(sizes) <= policy.ENUMERATED_SIZES.value and math.gcd(*sizes) % policy.ENUMERATED_STRIDE.value == 0:
        return Choice(name, tuple(sizes))
    return Range(name, sizes[0], sizes[-1])
