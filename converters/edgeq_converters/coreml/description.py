"""What Xcode and Swift read of a package: images, a classifier's labels, author and licence.

https://apple.github.io/coremltools/docs-guides/source/image-inputs.html and classifiers.html
"""
from __future__ import annotations

from collections import Counter
from typing import Any, Final

from edgeq.backend import About, EmitOptions
from edgeq_converters.coreml.lowering import Lowered

LABEL: Final = "classLabel"
CLASSES: Final = frozenset({LABEL, f"{LABEL}_probs"})  # as coremltools names them
_COLOURS: Final = {"RGB": "RGB", "BGR": "BGR", "GRAY": "GRAYSCALE"}


def classifier(lowered: Lowered, about: About) -> dict[str, Any]:
    """What coremltools is told of a classifier, whose probabilities are added to the program; nothing without labels.

    The scores stay an output of their own, which the bundle is verified by.
    """
    if not about.scores:
        return {}
    import coremltools as ct
    from coremltools.converters.mil import Builder

    function = lowered.program.functions["main"]
    name = lowered.names.get(about.scores, about.scores)
    scores = next(var for var in function.outputs if var.name == name)
    with function:
        made = Builder.softmax(x=scores, axis=-1, name=f"{LABEL}_input") if about.softmax else Builder.identity(
            x=scores, name=f"{LABEL}_input")
    function.set_outputs([made, *function.outputs])
    return {"classifier_config": ct.ClassifierConfig(_unique(about.labels), LABEL, f"{LABEL}_input")}


def _unique(labels: tuple[str, ...]) -> list[str]:
    """The probabilities are a dictionary, and two classes of ImageNet are called crane."""
    twice = {label for label, count in Counter(labels).items() if count > 1}
    return [f"{label} ({index})" if label in twice else label for index, label in enumerate(labels)]


def describe(description: Any, lowered: Lowered, options: EmitOptions) -> None:
    """description: the protobuf's ModelDescription, changed in place."""
    about, metadata = options.about, description.metadata
    metadata.author, metadata.license, metadata.versionString = about.author, about.licence, about.version
    metadata.shortDescription = about.description
    names = {lowered.names.get(name, name): order for name, order in options.images.items()}
    for feature in description.input:
        if feature.name in names:
            _make_image(feature.type, names[feature.name])
            feature.shortDescription = "the image as it is: its pixels are normalized inside"


def _make_image(kind: Any, order: str) -> None:
    """A multi-array [1,C,H,W] becomes an image, with the sizes that it may have."""
    array = type(kind.multiArrayType)()
    array.CopyFrom(kind.multiArrayType)
    image = kind.imageType
    image.height, image.width = (int(size) for size in list(array.shape)[2:])
    image.colorSpace = getattr(image, _COLOURS[order])
    if array.HasField("enumeratedShapes"):
        for shape in array.enumeratedShapes.shapes:
            image.enumeratedSizes.sizes.add(height=int(shape.shape[2]), width=int(shape.shape[3]))
    elif array.HasField("shapeRange"):
        for target, limits in zip((image.imageSizeRange.heightRange, image.imageSizeRange.widthRange),
                                  list(array.shapeRange.sizeRanges)[2:], strict=True):
            target.lowerBound, target.upperBound = limits.lowerBound, limits.upperBound
