"""Boxes as files: a JSON file as the COCO data set has it, of images, annotations and categories
(https://cocodataset.org/#format-data).
"""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EvaluationError
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import IMAGES, Preprocess, Samples, open_files
from edgeq.verification.labelled_files import Classes, place_of
from edgeq_runtime.postprocess import Detect
from edgeq_runtime.preprocess import Preprocess as ImageSteps


@dataclass(frozen=True, slots=True)
class Picture:
    """size: height, width. boxes: x, y, width, height of each in pixels; categories: its name."""

    file: Path
    size: tuple[int, int]
    boxes: tuple[tuple[float, ...], ...]
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelledBoxes:
    """name: as messages call them. pictures: in an order that their content has no part in."""

    name: str
    pictures: tuple[Picture, ...]

    def open(self, specs: Mapping[str, InputSpec], *, limit: int | None = None, preprocess: Preprocess | None = None,
             ) -> Samples:
        """The feeds. Raises as edgeq.quant.samples.open_samples."""
        return open_files([one.file for one in self.pictures], self.name, specs, limit=limit, preprocess=preprocess)

    def targets(self, labels: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
        """Of each picture [m, 5]: x1, y1, x2, y2 in its pixels, and the place of the category's name in `labels`.

        Raises:
            EvaluationError: there are no labels, or a category is none of them.
        """
        if not labels:
            raise EvaluationError(f"{self.name}: which score is of which category, --labels says: convert with it")
        classes = Classes.of_names(labels, is_number_taken=False)
        return tuple(np.array([(x, y, x + width, y + height, classes.place(category, self.name)) for
                               (x, y, width, height), category in zip(one.boxes, one.categories, strict=True)],
                              np.float64).reshape(-1, 5) for one in self.pictures)

    def decoder(self, before: Any, after: Any) -> Callable[[int, Mapping[str, Any]], NDArray[np.float64]]:
        """What makes of a picture's number and the outputs the detections [n, 6], as edgeq.metrics.map50 takes them.

        Raises:
            EvaluationError: `before` is no preprocessing of images, or `after` none of boxes.
        """
        if not isinstance(before, ImageSteps) or not isinstance(after, Detect):
            raise EvaluationError(f"{self.name}: boxes need --preprocess of an image and --postprocess of kind detect, "
                                  "which the model is converted with")

        def decoded(number: int, outputs: Mapping[str, Any]) -> NDArray[np.float64]:
            found = after(outputs)
            self._check_size(self.pictures[number])
            boxes = before.to_image(np.array([one.box for one in found]).reshape(-1, 4), *self.pictures[number].size)
            rest = np.array([(one.score, one.index) for one in found], np.float64).reshape(-1, 2)
            return np.hstack([boxes, rest])

        return decoded

    def _check_size(self, picture: Picture) -> None:
        from PIL import Image

        with Image.open(picture.file) as image:
            found = image.size[::-1]
        if found != picture.size:
            raise EvaluationError(f"{self.name}: '{picture.file}' has the height and width {found}, and {picture.size} "
                                  "is said of it")


def labelled_boxes(data: Any) -> LabelledBoxes | None:
    """What a path names; None where it is no .json file.

    Raises:
        EvaluationError: it is not as COCO's are, or an image is missing.
    """
    path = Path(data) if isinstance(data, str | Path) else None
    if path is None or path.suffix.lower() != ".json" or not path.is_file():
        return None
    name = f"the evaluation file '{path}'"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        categories = {one["id"]: str(one["name"]) for one in held["categories"]}
        found: dict[Any, list[tuple[tuple[float, ...], str]]] = {one["id"]: [] for one in held["images"]}
        for one in held["annotations"]:
            x, y, width, height = map(float, one["bbox"])
            if not one.get("iscrowd"):  # a region of many, which is no box to find
                found[one["image_id"]].append(((x, y, width, height), categories[one["category_id"]]))
        pictures = [_picture(path.parent, one, found[one["id"]], name) for one in held["images"]]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EvaluationError(f"{name} cannot be read as COCO's: {error}") from error
    except KeyError as error:
        raise EvaluationError(f"{name} is not as COCO's are: {error} is missing in it") from error
    return LabelledBoxes(name, tuple(sorted(pictures, key=lambda one: place_of(one.file, path.parent))))


def _picture(root: Path, image: Mapping[str, Any], boxes: Sequence[tuple[tuple[float, ...], str]], name: str,
             ) -> Picture:
    file = root / image["file_name"]
    if not file.is_file() or file.suffix.lower() not in IMAGES:
        raise EvaluationError(f"{name}: there is no image '{file}'; file_name is relative to the JSON")
    return Picture(file, (int(image["height"]), int(image["width"])), tuple(box for box, _ in boxes),
                   tuple(category for _, category in boxes))
