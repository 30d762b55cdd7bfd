"""What report.html says of a bundle itself: samples with their answers, sizes by layer, and all targets on one page."""
from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli.badinput import network
from javascript import javascript, needs_chromium, needs_node, served
from small_graphs import feeds, residual

from edgeq import convert
from edgeq.errors import UsageError
from edgeq.report.samples import Sample, png, samples_html
from edgeq_runtime.postprocess import Classify, Detect, Detection, Scored
from edgeq_runtime.preprocess import Preprocess

Image = pytest.importorskip("PIL.Image", reason="Pillow reads what is drawn")
SHAPE = (1, 3, 9, 7)


def text(page: Path) -> str:
    """What a reader sees, without plots."""
    plain = re.sub(r"<(svg|style).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", plain)))


def pictures(page: str) -> list[Any]:
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_what_pillow_reads(channels: int) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (17, 12, channels), np.uint8)
    found = np.asarray(Image.open(io.BytesIO(png(pixels))))
    np.testing.assert_array_equal(found.reshape(pixels.shape), pixels)


COLOURS = ("red", "green", "blue")
BEFORE = Preprocess(resize=(8, 12), scale=1 / 255, order="BGR")


def colours() -> onnx.ModelProto:
    """Which colour a picture has most of, of channels that come blue first."""
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> net (float[1,3,8,12] image) => '
                                   "(float[1,3] y) { p = Conv (image, w) m = GlobalAveragePool (p) y = Flatten (m) }")
    made.graph.initializer.append(onnx.numpy_helper.from_array(
        8 * np.eye(3, dtype=np.float32)[::-1].reshape(3, 3, 1, 1), "w"))
    return made


def plain(red: int, green: int, blue: int) -> Any:
    return np.full((8, 12, 3), (red, green, blue), np.uint8)


def test_samples_go_in_and_answers_come_out(tmp_path: Path) -> None:
    """The pictures as they were, though the network takes them blue first."""
    images = [plain(200, 10, 30), plain(20, 190, 40), plain(3, 60, 180)]
    bundle = convert(colours(), target="onnxruntime", calibration=[{"image": BEFORE(each)} for each in images],
                     preprocess=BEFORE, postprocess=Classify(softmax=True, top=1), labels=COLOURS,
                     output=tmp_path / "b")
    page = bundle.path / "report.html"
    found = pictures(page.read_text())
    assert len(found) == len(images)
    assert all(any(np.array_equal(picture, image) for image in images) for picture in found)
    answers = re.findall(r"float bundle (\w+) [\d.]+ (\w+) [\d.]+ sample", text(page))
    for picture, line in zip(found, answers, strict=True):
        assert line == (COLOURS[picture[0, 0].argmax()],) * 2
    assert "3 of 3 answers are those of the float model" in text(page)


def test_what_changed_comes_first_and_boxes_are_drawn() -> None:
    def detected(*box: float) -> Detection:
        return Detection("<cat>", 0, .5, box)

    samples = [Sample(4, plain(1, 2, 3), (80, 120), [detected(10, 20, 30, 40)], [detected(11, 20, 30, 40)], True, 9.0),
               Sample(2, None, (1, 1), [Scored("ant", 3, .25)], [Scored("ant", 3, .26)], False, 30.0)]
    found = samples_html(samples, 2, "some inputs")
    assert "1 of 2 answers are those of the float model; those that changed come first" in found
    assert '<svg viewBox="0 0 120 80"' in found
    assert '<path class="float" d="M10.0,20.0H30.0V40.0H10.0z"/>' in found
    assert '<path class="bundle" d="M11.0,20.0H30.0V40.0H11.0z"/>' in found
    assert "<cat>" not in found
    assert re.findall(r"sample (\d): <b>(\w+)</b>", found) == [("4", "changed"), ("2", "same")]
    assert len(pictures(samples_html(samples, 0, ""))) == 0


BOXES = [[[0, 0, 6, 4, .9, .1], [6, 4, 12, 8, .1, .7]]]


@pytest.mark.parametrize(("moved", "changed"), [(0.0, False), (1.0, False), (5.0, True)])
def test_a_box_that_moved_away_is_another_answer(moved: float, changed: bool) -> None:
    from edgeq.conversion.answers import _agree

    after, boxes = Detect("y", min_score=.3), np.array(BOXES)
    other = boxes + np.array([moved, 0, moved, 0, 0, 0])
    assert _agree(after({"y": boxes}), after({"y": other})) is not changed
    assert not _agree(after({"y": boxes}), after({"y": boxes[:, :1]}))


def test_sizes_by_layer_are_those_of_the_weights(tmp_path: Path) -> None:
    """Conv [6,3,3,3] and Gemm [6,5] in 8 bits, scales and biases beside them; the largest first."""
    onnx.save(network(), tmp_path / "net.onnx")
    bundle = convert(tmp_path / "net.onnx", target="onnxruntime", activations="float", output=tmp_path / "b")
    found = text(bundle.path / "report.html").partition("Size by layer")[2]
    first, second = 162 + 6 * 4 + 6 + 6 * 4, 30 + 5 * 4 + 5 + 5 * 4  # weights, scales, zero points, biases
    assert re.search(rf"Conv \S+ int8 {first} B .*Gemm \S+ int8 {second} B", found), found[:400]


def test_a_page_says_whose_it_is_and_how_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    bundle = convert(residual(), target="onnxruntime", product="doorbell", version="1.4.2", calibration=feeds(SHAPE),
                     latency=True, output=tmp_path / "b")
    found = text(bundle.path / "report.html")
    assert "doorbell 1.4.2, written by edgeq" in found
    assert "on 2023-11-14" in found
    assert "in x float32 1 x 3 x 9 x 7" in found
    assert "model.run({'x': array})" in found
    measured = json.loads((bundle.path / "report.json").read_text())["latency"]
    assert f"{measured['p50_ms']:.3g} ms for one call" in found
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH is 'yesterday': give seconds since 1970"):
        convert(residual(), target="onnxruntime", output=tmp_path / "c")


def test_no_page_where_none_is_wanted(tmp_path: Path) -> None:
    bundles = convert(residual(), target=["onnxruntime", "tflite"], report=False, output=tmp_path / "out")
    assert not list(tmp_path.rglob("*.html"))
    assert all(bundle.self_test().ok for bundle in bundles)


def test_one_page_over_all_targets(tmp_path: Path) -> None:
    bundles = convert(residual(), target=["onnxruntime", "tflite"], calibration=feeds(SHAPE), output=tmp_path)
    page = tmp_path / "model.report.html"
    links = re.findall(r'href="([^":]+)"', page.read_text())
    assert [(tmp_path / link).resolve() for link in links] == [bundle.path / "report.html" for bundle in bundles]
    for bundle in bundles:
        row = bundle.report["verification"]["against_float"][0]
        assert re.search(rf"{bundle.manifest.target} Good {row['sqnr_db']:.1f} dB .*[\d.]+ k?B", text(page))


@pytest.mark.full
@needs_node
@needs_chromium
def test_on_a_phone_and_in_the_dark(tmp_path: Path) -> None:
    """Nothing makes the page wider than the screen: what is wide scrolls by itself."""
    images = [plain(200, 10, 30), plain(20, 190, 40)] * 4
    convert(colours(), target=["onnxruntime", "tflite"], calibration=[{"image": BEFORE(each)} for each in images],
            preprocess=BEFORE, output=tmp_path)
    with served({"/": tmp_path}) as address:
        for page in ("model.report.html", "model.tflite.edgeq/report.html"):
            for width, scheme in ((390, "dark"), (1100, "light")):
                answer = javascript(tmp_path, "", address=f"{address}/{page}", steps=SEEN, context={
                    "viewport": {"width": width, "height": 800}, "colorScheme": scheme})
                wide, red = answer["found"]
                assert wide == width
                assert (red < 60) is (scheme == "dark")
                assert answer["complaints"] == []


SEEN = """return await page.evaluate(() => [document.documentElement.scrollWidth,
    Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])]);"""
