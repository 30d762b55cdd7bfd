"""What a bundle answers beside the float model, sample by sample, for people who look at pictures."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.inference.session import Arrays
from edgeq.metrics import iou
from edgeq.report.samples import Sample
from edgeq.verification.compare import compare
from edgeq.verification.references import References
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.postprocess import Classify, Detection, Scored
from edgeq_runtime.predict import steps
from edgeq_runtime.preprocess import Preprocess, fitted, resize

SIDE: Final = 120  # pixels of a picture's longer side in the page
SAME_BOX: Final = 0.5  # intersection over union, a hit in PASCAL VOC


def compared_answers(manifest: Manifest, references: References, outputs: Sequence[Arrays]) -> tuple[Sample, ...]:
    """Every real sample whose outputs can be read, those whose answer changed first, then the least alike.

    outputs: of the bundle, as real numbers.
    """
    before, declared = steps(manifest)
    after = declared or _scores(manifest, outputs)
    if not references.real or after is None:
        return ()
    found = []
    for number, (feed, real, got) in enumerate(zip(references.feeds, references.float, outputs, strict=True)):
        picture, size = _picture(manifest, feed, before if isinstance(before, Preprocess) else None)
        answers = after(real, manifest.labels), after(got, manifest.labels)
        found.append(Sample(number, picture, size, *answers, not _agree(*answers),
                            min(one.sqnr_db for one in compare([real], [got], references.row_sets, references.parts))))
    return tuple(sorted(found, key=lambda sample: (not sample.changed, sample.sqnr_db)))


def _scores(manifest: Manifest, outputs: Sequence[Arrays]) -> Classify | None:
    """How an output without a declared meaning is read: one vector of numbers has a best one."""
    shapes = [np.shape(found[manifest.outputs[0].name]) for found in outputs]
    is_vector = all(len(shape) in (1, 2) and shape[-1] > 1 and shape[:-1] in ((), (1,)) for shape in shapes)
    return Classify(top=1) if is_vector else None


def _agree(real: Sequence[Scored], got: Sequence[Scored]) -> bool:
    """What people would call the same answer: the best class, or boxes of the same classes that lie on each other."""
    first = [one.index for one in real[:1]] == [one.index for one in got[:1]]
    if not any(isinstance(one, Detection) for one in (*real, *got)):
        return first
    left = [one for one in got if isinstance(one, Detection)]
    for one in real:
        alike = [other for other in left if isinstance(one, Detection) and other.index == one.index
                 and iou(np.array(one.box), np.array([other.box]))[0] >= SAME_BOX]
        if not alike:
            return False
        left.remove(alike[0])
    return not left


def _picture(manifest: Manifest, feed: Arrays, before: Preprocess | None,
             ) -> tuple[NDArray[np.uint8] | None, tuple[int, int]]:
    """The only input as people see it, and its height and width; None where it is no picture."""
    spec, *others = manifest.inputs
    layout = before.layout if before is not None else spec.layout
    array: Any = feed.get(spec.name)
    if others or array is None or np.ndim(array) != 4 or len(array) != 1 or layout not in ("NCHW", "NHWC"):
        return None, (1, 1)
    values = array if before is None or array.dtype == np.uint8 else before.to_pixels(array)
    image = np.asarray(values[0].transpose(1, 2, 0) if layout == "NCHW" else values[0])
    if image.shape[2] not in (1, 3):
        return None, (1, 1)
    pixels = _stretched(image) if image.dtype != np.uint8 else image
    if before is not None and before.order == "BGR":
        pixels = pixels[..., ::-1]
    height, width = pixels.shape[:2]
    if max(height, width) > SIDE:
        pixels = resize(pixels, *fitted(height, width, SIDE, SIDE, "center"))
    return np.ascontiguousarray(pixels), (height, width)


def _stretched(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers of an unknown range -> 0 to 255."""
    low, high = float(image.min()), float(image.max())
    return np.rint((image - low) * (255 / (high - low or 1.0))).astype(np.uint8)
