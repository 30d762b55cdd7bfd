"""What a bundle declares around its network, put together: preprocessing, the network, postprocessing."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from . import postprocess
from .errors import InputError
from .integers import to_integers, to_reals
from .manifest import Manifest, TensorSpec
from .preprocess import Preprocess, from_dict
from .sound import LogMel, read_wav

if TYPE_CHECKING:
    from .runnable import Runnable

Before = Optional[Union[Preprocess, LogMel]]
After = Optional[Union[postprocess.Classify, postprocess.Detect]]


def steps(manifest: Manifest) -> Tuple[Before, After]:
    """The declared steps before and behind the network, None where the bundle declares none."""
    before, after = manifest.preprocessing, manifest.postprocessing
    return None if before is None else from_dict(before), None if after is None else postprocess.from_dict(after)


def predict(model: Runnable, source: Any) -> Any:
    """See Model.predict."""
    before, after = model.steps
    inputs = [spec for spec in model.inputs if spec.name not in model.manifest.state]
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise InputError(f"predict is for models with one input; this one has {names}: use run")
    spec = inputs[0]
    outputs = model.run({spec.name: source if before is None else as_taken(spec, before(source))})
    if after is None:
        return outputs
    size = np.shape(source)[:2] if isinstance(before, Preprocess) else None
    return interpreted(model.manifest, outputs, model.steps, size)


def as_taken(spec: TensorSpec, array: Any) -> Any:
    """What preprocessing made, as the model takes it: integers of the grid, where it takes those."""
    return array if array.dtype == spec.dtype else to_integers(spec, array)


def interpreted(manifest: Manifest, outputs: Mapping[str, Any], declared: Tuple[Before, After],
                size: Optional[Sequence[int]] = None) -> List[Any]:
    """A run's outputs as the declared postprocessing reads them; integers of a grid are the numbers that they stand
    for.

    declared: of `steps`. size: (height, width) of the image, in whose pixels boxes are then, or else in the model's.
    """
    before, after = declared
    numbers = {spec.name: to_reals(spec, outputs[spec.name]) for spec in manifest.outputs}
    found: List[Any] = [] if after is None else list(after(numbers, manifest.labels))
    if size is None or not found or not isinstance(before, Preprocess) or not isinstance(after, postprocess.Detect):
        return found
    boxes = before.to_image([detection.box for detection in found], size[0], size[1])
    return [replace(detection, box=tuple(map(float, box)), keypoints=_points_of_image(detection, before, size))
            for detection, box in zip(found, boxes, strict=True)]


def _points_of_image(detection: postprocess.Detection, before: Preprocess,
                     size: Sequence[int]) -> Tuple[Tuple[float, ...], ...]:
    points = detection.keypoints
    moved = before.to_image([(x, y, x, y) for x, y, _ in points], size[0], size[1]) if points else ()
    return tuple((float(x), float(y), score) for (x, y, _, _), (_, _, score) in zip(moved, points, strict=True))


def read_source(path: Union[str, Path], before: Before) -> Any:
    """An image file (with Pillow) or a .wav file -> the model's input, as the declared preprocessing makes it.

    Raises:
        InputError: it cannot be read, the bundle declares no preprocessing of its kind, or Pillow is missing.
    """
    kind = "sound" if str(path).lower().endswith(".wav") else "image"
    if not isinstance(before, LogMel if kind == "sound" else Preprocess):
        raise InputError(f"the bundle does not say how the {kind} {path} becomes an input; "
                         "convert it with --preprocess, or give an .npy file")
    if isinstance(before, LogMel):
        return before(*read_wav(path))
    try:
        from PIL import Image
    except ImportError:
        raise InputError("images are read by Pillow: pip install pillow") from None
    try:
        with Image.open(path) as image:
            return before(np.asarray(image.convert("RGB")))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from None


def named_file(text: str) -> Tuple[str, str]:
    """[NAME=]FILE -> both; a file's name may hold the sign too."""
    name, _, file = text.partition("=")
    return ("", text) if not file or Path(text).exists() else (name, file)


def image_size(path: Union[str, Path]) -> Optional[Tuple[int, int]]:
    """(height, width) of a file that `read_source` has read as an image; None of a sound or an array."""
    if str(path).lower().endswith((".wav", ".npy", ".npz")):
        return None
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width
