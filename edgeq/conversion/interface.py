"""What --io asks for: a graph whose public tensors are integers, and what of the preprocessing goes into it."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.backend import About, EmitOptions, Normalization, target_named
from edgeq.conversion.request import Request
from edgeq.errors import UsageError
from edgeq.graph import real_inputs
from edgeq.quant.calibrate import Calibrator, TensorStatistics
from edgeq.quant.integer_interface import PIXELS, Affine, Integer, integer_inputs, integer_outputs, pixel_input
from edgeq.quant.plan import QuantPlan
from edgeq.scheme import QuantParams
from edgeq_runtime.postprocess import Detect
from edgeq_runtime.preprocess import Preprocess

_BRIGHTEST: Final = int(np.iinfo(np.uint8).max)


@dataclass(frozen=True, slots=True)
class Public:
    """graph: what a backend writes. grids: of what is an integer in it. options: for the backend. pixels: it does the
    arithmetic of the preprocessing itself.
    """

    graph: ir.Model
    grids: Mapping[str, QuantParams]
    options: EmitOptions
    pixels: bool = False


def public(graph: ir.Model, request: Request, target: str) -> Public:
    """What goes in and comes out, as the request and the target want it.

    Raises:
        UsageError: an input or output lies on no 8-bit grid, or is no image.
    """
    options = replace(request.emit, about=_about(graph.graph, request))
    if _takes_image(graph.graph, request, target):
        given, affine = request.preprocess, _affine(request)
        assert isinstance(given, Preprocess)
        graph = graph.clone()
        name, channels = pixel_input(graph.graph, real_inputs(graph.graph)[0], affine)
        order = "GRAY" if channels == 1 else given.order
        return Public(graph, {name: PIXELS}, replace(options, images={name: order}), pixels=True)
    if request.io.is_float:
        return Public(graph, {}, replace(options, normalized=_normalized(graph.graph, request, {}, None)))
    graph, grids, pixels = graph.clone(), dict[str, QuantParams](), pixels_of(request)
    if request.io.inputs != "float":
        grids |= integer_inputs(graph.graph, _kind(request.io.inputs), pixels)
    if request.io.outputs != "float":
        grids |= integer_outputs(graph.graph, _kind(request.io.outputs))
    normalized = _normalized(graph.graph, request, grids, pixels)
    return Public(graph, grids, replace(options, normalized=normalized), pixels is not None)


def _normalized(graph: ir.Graph, request: Request, grids: Mapping[str, QuantParams], pixels: Affine | None,
                ) -> dict[str, Normalization]:
    """The only input, where it holds an image: as preprocessing makes it, or pixels of a grid."""
    given, inputs = request.preprocess, real_inputs(graph)
    if not isinstance(given, Preprocess) or given.pixels or len(inputs) != 1 or inputs[0].shape is None:
        return {}
    channels = inputs[0].shape[-1 if request.channels_last else 1]
    order, name = "GRAY" if channels == 1 else given.order, inputs[0].name or ""
    if pixels is not None:
        grid = grids[name]
        return {name: Normalization((float(grid.zero_point),), (1 / float(grid.scale),), order)}
    mean, std = np.broadcast_arrays(*(np.array(numbers) / given.scale for numbers in (
        given.mean or (0.0,), given.std or (1.0,))))
    alike = 1 if not np.ptp(mean) and not np.ptp(std) else mean.size
    return {name: Normalization(tuple(map(float, mean[:alike])), tuple(map(float, std[:alike])), order)}


def _about(graph: ir.Graph, request: Request) -> About:
    """What the file says of itself; with labels, which output they name: one row of scores."""
    after, said = request.postprocess, request.about
    if not request.labels or isinstance(after, Detect):
        return said
    name = after.output if after is not None and after.output else graph.outputs[0].name or ""
    scores = next((value for value in graph.outputs if value.name == name), None)
    if scores is None or scores.shape is None or list(scores.shape) != [1, len(request.labels)]:
        return said
    producer = scores.producer()
    softmax = after.softmax if after is not None else producer is None or producer.op_type != "Softmax"
    return replace(said, labels=request.labels, scores=name, softmax=softmax)


def _takes_image(graph: ir.Graph, request: Request, target: str) -> bool:
    """Whether the target declares the only input as an image, which the preprocessing makes one.

    Raises:
        UsageError: it has neither one channel nor three, or is no batch of one.
    """
    if not isinstance(request.preprocess, Preprocess) or request.preprocess.pixels or request.channels_last:
        return False
    inputs = real_inputs(graph)
    if "image" not in target_named(target).interfaces or len(inputs) != 1 or inputs[0].dtype != ir.DataType.FLOAT:
        return False
    sizes = list(inputs[0].shape or ())
    if len(sizes) != 4 or sizes[0] != 1 or sizes[1] not in (1, 3):
        raise UsageError(f"--preprocess: {target} takes an image of one or three channels, and the input "
                         f"'{inputs[0].name}' is {'x'.join(map(str, sizes))}: leave --preprocess out, and prepare the "
                         "input yourself")
    return True


def _kind(word: str) -> Integer:
    return "uint8" if word == "uint8" else "int8"


def pixels_of(request: Request) -> Affine | None:
    """What preprocessing makes of a pixel, where the bundle takes pixels as they are; else None.

    Raises:
        UsageError: a mean that no pixel has.
    """
    if request.io.inputs != "uint8" or not isinstance(request.preprocess, Preprocess):
        return None
    given, affine = request.preprocess, _affine(request)
    zero = -affine.offset / affine.factor
    if not ((zero >= 0) & (zero <= _BRIGHTEST)).all() or not (affine.factor > 0).all():
        raise UsageError(f"--io uint8: with a scale of {given.scale:g} the mean {_listed(given.mean)} lies at "
                         f"{_listed(zero)}, and pixels run from 0 to {_BRIGHTEST}: check --preprocess, or take "
                         "--io int8")
    return affine


def taking_pixels(graph: ir.Graph, request: Request) -> bool:
    """Whether the bundle of some target takes an image as it is."""
    return pixels_of(request) is not None or any(_takes_image(graph, request, name) for name in request.target_names)


def _affine(request: Request) -> Affine:
    given = request.preprocess
    assert isinstance(given, Preprocess)
    std = np.array(given.std or (1.0,), np.float32)
    mean = np.array(given.mean or (0.0,), np.float32)
    return Affine(np.float32(given.scale) / std, -mean / std)


def _listed(numbers: Iterable[float]) -> str:
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
