"""What a classifier answers shows whether its pictures come as it knows them."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_graphs import network
from zoo_models import needs_zoo, zoo

import edgeq
from edgeq.frontends import load_model
from edgeq.passes import canonicalize
from edgeq.quant.calibrate.response import response_warnings

Image = NDArray[np.float32]


def tinted(count: int = 24) -> list[Image]:
    """[1,3,8,8], pixels from 0 to 1 with a black and a white one, each picture with more of one colour."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        image = random.uniform(0, .3, (1, 3, 8, 8))
        image[:, number % 3] += .3
        image[..., 0, 0], image[..., 7, 7] = 0, 1
        found.append(image.astype(np.float32))
    return found


# Which colour there is most of, for pixels from 0 to 255.
COLOURS = network("g (float[1,3,8,8] x) => (float[1,3] y) { m = GlobalAveragePool (x)  f = Flatten (m) "
                  "y = MatMul (f, w) }", w=(np.eye(3) / 9).astype(np.float32))


@pytest.mark.parametrize(("form", "words"), [
    (lambda image: image, "holds pixels from 0 to 1: given pixels from 0 to 255"),
    (lambda image: 2 * image - 1, "holds pixels from -1 to 1: given pixels from 0 to 255"),
    (lambda image: 255 * image, ""),
])
def test_the_wrong_scale_is_named(form: Callable[[Image], Image], words: str) -> None:
    found = response_warnings(COLOURS, [{"x": form(image)} for image in tinted()])
    assert len(found) == bool(words)
    assert words in "".join(found)


def test_nothing_is_said_of_few_pictures_or_other_networks() -> None:
    assert response_warnings(COLOURS, [{"x": image} for image in tinted(8)]) == []
    images = network("g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu (x) }")
    assert response_warnings(images, [{"x": image} for image in tinted()]) == []


MEAN, DEVIATION = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((.485, .456, .406), (.229, .224, .225)))
WRONG: dict[str, tuple[str, int, Callable[[Image], Image], str]] = {
    "0 to 1": ("cifar10_resnet20", 24, lambda x: x * DEVIATION + MEAN, "holds pixels from 0 to 1: given pixels with"),
    "normalized": ("cifar10_resnet20", 100, lambda x: x, ""),
    "BGR": ("imagenet_squeezenet11", 20, lambda x: x[:, ::-1], "its channels in the wrong order"),
    "RGB": ("imagenet_squeezenet11", 20, lambda x: x, ""),
}


@needs_zoo
@pytest.mark.parametrize("case", WRONG)
def test_real_classifiers_tell(case: str) -> None:
    item, count, change, words = WRONG[case]
    name = zoo().input_name(item)
    feeds = [{name: np.ascontiguousarray(change(feed[name]))} for feed in zoo().feeds(item, "calib", count)]
    model = load_model(zoo().model(item), inputs={name: feeds[0][name].shape})
    canonicalize(model)
    found = response_warnings(model, feeds)
    assert len(found) == bool(words), found
    assert words in "".join(found)


def test_a_conversion_says_all_of_it(tmp_path: Path) -> None:
    labelled: list[Any] = [({"x": 255 * image}, number % 3) for number, image in enumerate(tinted(12))]
    bundle = edgeq.convert(COLOURS, target="onnxruntime", calibration=[{"x": image} for image in tinted()],
                           preprocess={"kind": "image"}, eval=labelled, metric="top1", output=tmp_path / "b")
    said = bundle.report["calibration"]["warnings"]
    assert [any(words in warning for warning in said) for words in (
        "given pixels from 0 to 255, the model tells the samples apart", "of what --eval puts into input 'x'",
        "alone, where the declared preprocessing makes 0 to 255")] == [True] * 3, said
