"""What --io asks for: a graph whose public tensors are integers, and what of the preprocessing goes into it."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.conversion.request import Request
from edgeq.errors import UsageError
from edgeq.graph import real_inputs
from edgeq.quant.calibrate import Calibrator, TensorStatistics
from edgeq.quant.integer_interface import Affine, Integer, integer_inputs, integer_outputs
from edgeq.quant.plan import QuantPlan
from edgeq.scheme import QuantParams
from edgeq_runtime.preprocess import Preprocess

_BRIGHTEST: Final = int(np.iinfo(np.uint8).max)


def with_interface(graph: ir.Model, request: Request) -> tuple[ir.Model, dict[str, QuantParams]]:
    """The graph that backends write, and the grids of what is an integer at its interface; the graph itself where
    nothing is.

    Raises:
        UsageError: an input or output lies on no 8-bit grid.
    """
    if request.io.is_float:
        return graph, {}
    graph, grids = graph.clone(), dict[str, QuantParams]()
    if request.io.inputs != "float":
        grids |= integer_inputs(graph.graph, _kind(request.io.inputs), pixels_of(request))
    if request.io.outputs != "float":
        grids |= integer_outputs(graph.graph, _kind(request.io.outputs))
    return graph, grids


def _kind(word: str) -> Integer:
    return "uint8" if word == "uint8" else "int8"


def pixels_of(request: Request) -> Affine | None:
    """What preprocessing makes of a pixel, where the bundle takes pixels as they are; else None.

    Raises:
        UsageError: a mean that no pixel has.
    """
    given = request.preprocess
    if request.io.inputs != "uint8" or not isinstance(given, Preprocess):
        return None
    std = np.array(given.std or (1.0,), np.float32)
    mean = np.array(given.mean or (0.0,), np.float32)
    zero = mean / np.float32(given.scale)
    if (zero < 0).any() or (zero > _BRIGHTEST).any() or given.scale <= 0 or (std < 0).any():
        raise UsageError(f"--io uint8: with a scale of {given.scale:g} the mean {_listed(mean)} lies at "
                         f"{_listed(zero)}, and pixels run from 0 to {_BRIGHTEST}: check --preprocess, or take "
                         "--io int8")
    return Affine(np.float32(given.scale) / std, -mean / std)


def _listed(numbers: NDArray[np.float32]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def with_pixel_grid(calibrator: Calibrator | Mapping[str, Calibrator], network: ir.Model, plan: QuantPlan,
                    request: Request) -> Calibrator | Mapping[str, Calibrator]:
    """The same, where all channels are normalized alike: the input's grid is that of the pixels, so that nothing has to
    make the one of the other.
    """
    pixels = pixels_of(request)
    floats = [value.name or "" for value in real_inputs(network.graph) if value.dtype == ir.DataType.FLOAT]
    if pixels is None or np.ptp(pixels.factor) or np.ptp(pixels.offset) or len(floats) != 1:
        return calibrator
    group = {name for name, leader in plan.groups.items() if leader == plan.groups.get(floats[0])}
    if len(group & set(plan.sources)) != 1:
        return calibrator
    low, high = float(pixels.offset.flat[0]), float((pixels.factor * _BRIGHTEST + pixels.offset).flat[0])

    def all_pixels(statistics: TensorStatistics, bits: int = 8, /) -> tuple[float, float]:
        return low, high

    chosen = {name: calibrator[name] if isinstance(calibrator, Mapping) else calibrator for name in plan.groups}
    return {**chosen, **dict.fromkeys(group, all_pixels)}
