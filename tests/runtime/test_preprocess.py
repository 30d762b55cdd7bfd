"""The declared preprocessing computes what Pillow and torchvision compute."""
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgeq_runtime import BundleError, InputError
from edgeq_runtime.preprocess import PRESETS, Preprocess, from_dict, imagenet, resize

Image = pytest.importorskip("PIL.Image", reason="Pillow is the reference")


def picture(height: int, width: int, channels: int = 3) -> Any:
    """Noise over a gradient: every value and every edge occurs."""
    rng = np.random.default_rng(height * 1000 + width)
    noise = rng.integers(0, 256, (height, width, channels))
    return np.where(rng.random(noise.shape) < .5, noise, 255 * np.arange(width)[:, None] // width).astype(np.uint8)


@pytest.mark.parametrize(("source", "target"), [
    ((37, 53), (11, 17)), ((37, 53), (90, 71)), ((300, 401), (224, 224)), ((64, 48), (64, 24)), ((64, 48), (32, 48)),
    ((64, 48), (65, 47)), ((1, 1), (5, 3)), ((7, 9), (1, 1)), ((500, 3), (2, 200)), ((20, 20), (20, 20)),
])
def test_resizes_as_pillow_bit_for_bit(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = picture(*source)
    rows = Image.fromarray(image).resize((target[1], source[0]), Image.Resampling.BILINEAR)
    found = resize(image, *target)
    np.testing.assert_array_equal(found, rows.resize(target[::-1], Image.Resampling.BILINEAR))
    at_once = np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - at_once).max() <= 1  # Pillow 13 may take the columns first


@pytest.mark.parametrize(("source", "target"), [
    ((37, 53), (11, 17)), ((37, 53), (90, 71)), ((300, 401), (224, 224)), ((64, 48), (64, 24)), ((64, 48), (32, 48)),
    ((64, 48), (65, 47)), ((1, 1), (5, 3)), ((7, 9), (1, 1)), ((500, 3), (2, 200)), ((3, 2), (40, 50)),
])
def test_bicubic_is_pillows_bit_for_bit(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = picture(*source)
    rows = Image.fromarray(image).resize((target[1], source[0]), Image.Resampling.BICUBIC)
    found = resize(image, *target, "bicubic")
    np.testing.assert_array_equal(found, rows.resize(target[::-1], Image.Resampling.BICUBIC))
    once = Preprocess(resize=target, interpolation="bicubic")(image)
    np.testing.assert_array_equal(once, np.float32(found.transpose(2, 0, 1)[None]))


@pytest.mark.parametrize("size", [(300, 401), (401, 300), (256, 256), (333, 257)])
def test_imagenet_is_torchvisions_recipe(size: tuple[int, int]) -> None:
    image = picture(*size)
    height, width = size
    wide, high = (256 * width // height, 256) if height <= width else (256, 256 * height // width)
    resized = Image.fromarray(image).resize((wide, high), Image.Resampling.BILINEAR)
    left, top = round((wide - 224) / 2), round((high - 224) / 2)
    pixels = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float64) / 255
    expected = (pixels - [.485, .456, .406]) / [.229, .224, .225]
    found = imagenet()(image)
    assert found.shape == (1, 3, 224, 224)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(37, 53), (53, 37), (300, 401), (64, 64), (1, 90), (640, 3)])
@pytest.mark.parametrize("frame", [(64, 64), (33, 70)])
def test_letterbox_is_ultralytics_recipe(size: tuple[int, int], frame: tuple[int, int]) -> None:
    """The sizes and margins of its LetterBox, with Pillow's pixels: resized, and pasted onto a grey image."""
    image = picture(*size)
    factor = min(frame[0] / size[0], frame[1] / size[1])
    wide, high = max(round(size[1] * factor), 1), max(round(size[0] * factor), 1)
    left, top = round((frame[1] - wide) / 2 - 0.1), round((frame[0] - high) / 2 - 0.1)
    expected = Image.new("RGB", frame[::-1], (114, 114, 114))
    rows = Image.fromarray(image).resize((wide, size[0]), Image.Resampling.BILINEAR)
    expected.paste(rows.resize((wide, high), Image.Resampling.BILINEAR), (left, top))
    found = Preprocess(letterbox=frame, layout="NHWC")(image)
    np.testing.assert_array_equal(found[0], np.asarray(expected, np.float32))


@pytest.mark.parametrize("size", [(37, 53), (53, 37), (300, 401)])
def test_corner_letterbox_is_yoloxs_recipe(size: tuple[int, int]) -> None:
    """Sizes rounded down and the image at the top left, as YOLOX's preproc; Pillow's pixels."""
    image, frame = picture(*size), (64, 70)
    ratio = min(frame[0] / size[0], frame[1] / size[1])
    high, wide = int(size[0] * ratio), int(size[1] * ratio)
    expected = np.full((*frame, 3), 114, np.float32)
    rows = Image.fromarray(image).resize((wide, size[0]), Image.Resampling.BILINEAR)
    expected[:high, :wide] = np.asarray(rows.resize((wide, high), Image.Resampling.BILINEAR))
    found = Preprocess(letterbox=frame, align="corner", order="BGR", layout="NHWC")(image)
    np.testing.assert_array_equal(found[0], expected[..., ::-1])


def test_pad_is_a_pixel_before_everything_else() -> None:
    found = Preprocess(letterbox=(2, 6), pad=200, scale=1 / 255, mean=(.5, .4, .3), order="BGR")(picture(4, 4))
    np.testing.assert_allclose(found[0, :, 0, 0], 200 / 255 - np.array([.5, .4, .3]), rtol=0, atol=1e-6)


def test_bgr_mean_and_layout() -> None:
    image = picture(5, 4)
    found = Preprocess(order="BGR", mean=(104, 117, 123), layout="NHWC")(image)
    np.testing.assert_array_equal(found, image[None, :, :, ::-1].astype(np.float32) - np.float32([104, 117, 123]))


def test_a_grey_image_has_one_channel() -> None:
    image = picture(8, 6, 1)[..., 0]
    found = Preprocess(resize=(4, 3), scale=1 / 255, mean=(.5,), std=(.5,))(image)
    expected = np.asarray(Image.fromarray(image).resize((3, 4), Image.Resampling.BILINEAR), np.float32) / 255 * 2 - 1
    np.testing.assert_allclose(found[0, 0], expected, rtol=0, atol=1e-6)


def test_survives_the_manifest() -> None:
    for given in (*(make() for make in PRESETS.values()), Preprocess(letterbox=(2, 3), pad=0, layout="NHWC")):
        assert from_dict(json.loads(json.dumps(given.to_dict()))) == given


def test_a_runtime_without_letterbox_reads_what_does_not_use_it() -> None:
    assert Preprocess(resize=(2, 3)).to_dict() == {"kind": "image", "resize": (2, 3)}


@pytest.mark.parametrize(("data", "message"), [
    ({"rotate": 90}, "unknown key 'rotate'"),
    ({"order": "RBG"}, "order is RGB or BGR"),
    ({"layout": 3}, "layout should be a string, got 3"),
    ({"interpolation": "lanczos"}, "interpolation is bilinear or bicubic"),
    ({"crop": [224]}, r"'crop' are \(height, width\)"),
    ({"crop": [0, 1]}, "sizes are positive"),
    ({"crop": [1.5, 1]}, r"crop\[0\] should be an integer"),
    ({"resize": [1, 1], "resize_shorter": 1}, "exclude each other"),
    ({"letterbox": [1, 1], "resize": [1, 1]}, "exclude each other"),
    ({"letterbox": [1, 1], "crop": [1, 1]}, "'letterbox' keeps the whole image, so it excludes 'crop'"),
    ({"letterbox": [64]}, r"'letterbox' and 'crop' are \(height, width\)"),
    ({"letterbox": [64, 64], "pad": 256}, "pad is 0 to 255"),
    ({"mean": ["a"]}, r"mean\[0\] should be a number"),
    ({"std": [0.0]}, "no std is 0"),
])
def test_refuses_a_declaration(data: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Preprocess.from_dict(data)


@pytest.mark.parametrize(("image", "message"), [
    (np.zeros((4, 4, 3), np.float32), "uint8 array"),
    (np.zeros((1, 4, 4, 3), np.uint8), "uint8 array"),
    (np.zeros((0, 4, 3), np.uint8), "uint8 array"),
    (np.zeros((4, 4, 4), np.uint8), "4 channels, the preprocessing is for 3"),
    (np.zeros((4, 9, 3), np.uint8), "4 x 9 pixels is smaller than the crop of 5 x 5"),
])
def test_refuses_an_image(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess(crop=(5, 5), mean=(1, 2, 3))(image)
