"""samples/web in a headless Chromium: digits drawn with the mouse, and a photograph."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from javascript import MODULES, PACKAGE, ROOT, javascript, needs_chromium, needs_node, served
from zoo_models import needs_zoo, zoo

import edgeq_runtime
from edgeq import convert
from edgeq.cli import main
from edgeq_runtime.postprocess import Classify
from edgeq_runtime.preprocess import Preprocess

WEB = ROOT / "samples/web"

pytestmark = [pytest.mark.full, needs_node, needs_chromium]

# Strokes through points, of a drawing that is 1 wide and high.
DRAWN: dict[str, list[list[tuple[float, float]]]] = {
    "0": [[(.5, .1), (.3, .2), (.25, .5), (.3, .8), (.5, .9), (.7, .8), (.75, .5), (.7, .2), (.5, .1)]],
    "1": [[(.35, .3), (.55, .1), (.55, .9)]],
    "2": [[(.25, .3), (.35, .13), (.6, .13), (.72, .3), (.6, .5), (.25, .88), (.78, .88)]],
    "3": [[(.25, .15), (.55, .1), (.72, .28), (.45, .47), (.75, .65), (.6, .88), (.25, .88)]],
    "4": [[(.5, .1), (.22, .6), (.8, .6)], [(.62, .4), (.62, .92)]],
    "5": [[(.72, .1), (.32, .1), (.3, .45), (.6, .42), (.74, .62), (.62, .88), (.27, .88)]],
    "6": [[(.6, .1), (.35, .4), (.28, .7), (.45, .9), (.68, .8), (.62, .58), (.32, .62)]],
    "7": [[(.25, .12), (.75, .12), (.45, .9)], [(.3, .5), (.7, .5)]],
    "8": [[(.7, .2), (.5, .08), (.32, .2), (.5, .45), (.72, .7), (.5, .92), (.3, .72), (.5, .45), (.7, .2)]],
    "9": [[(.7, .3), (.5, .45), (.3, .3), (.5, .1), (.7, .25), (.66, .9)]],
}

DRAW = """
const answers = [], idle = page.locator("#digit .answers:not([aria-busy=true])");
const box = await page.locator(".pad").boundingBox();
for (const engine of ["onnxruntime", "tflite"]) {
  await page.check(`[value=${engine}]`);
  await page.locator("#digit").getByText(given.engines[engine] + "; self-test: pass").waitFor();
  for (const strokes of given.drawn) {
    await page.click(".clear");
    for (const points of strokes) {
      for (const [k, [x, y]] of points.entries()) {
        await page.mouse.move(box.x + x * box.width, box.y + y * box.height, {steps: k ? 4 : 1});
        if (!k) await page.mouse.down();
      }
      await page.mouse.up();
      await idle.waitFor();
    }
    answers.push(await page.locator("#digit .answers li span").first().textContent());
  }
}
return answers;
"""
OPEN = """
await page.setInputFiles("#photo input", given);
const line = page.locator("#photo .answers li");
await line.first().waitFor();
return await line.allTextContents();
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page with the packages beside it, as `npm install` puts them there, and the folder of its bundles."""
    bundles = tmp_path_factory.mktemp("bundles")
    done = CliRunner().invoke(main, [
        "convert", str(ROOT / "samples/digits/digits.onnx"), "--target", "onnxruntime", "--target", "tflite",
        "--calibration", str(ROOT / "samples/digits/calibration.npz"), "--postprocess", "classify", "-o", str(bundles)])
    assert done.exit_code == 0, done.output
    with served({"/": WEB, "/bundles/": bundles, "/node_modules/": MODULES,
                 "/node_modules/edgeq-runtime/": PACKAGE}) as address:
        yield f"{address}/index.html", bundles


def test_digits_drawn_with_the_mouse(site: tuple[str, Path], tmp_path: Path) -> None:
    answer = javascript(tmp_path, "", {"drawn": list(DRAWN.values()), "engines": {
        "onnxruntime": "onnxruntime-web 1.30.0", "tflite": "LiteRT.js"}}, address=site[0], steps=DRAW)
    assert "".join(answer["found"]) == 2 * "".join(DRAWN)


def test_without_its_bundle_the_photograph_says_what_to_do(site: tuple[str, Path], tmp_path: Path) -> None:
    text = javascript(tmp_path, "", address=site[0], steps="""const said = page.locator("#photo .bad");
        await said.waitFor(); return await said.textContent();""")["found"]
    assert "the server answers 404" in text
    assert "The README beside this page says how to make this bundle." in text


@needs_zoo
def test_a_photograph(site: tuple[str, Path], tmp_path: Path) -> None:
    """The five classes and their percentages are those of the Python runtime, of a file that Pillow reads."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is the reference")
    models = zoo().root
    bundle = convert(models / "imagenet_squeezenet11/model.onnx", target="onnxruntime",
                     inputs={"input": (1, 3, 224, 224)},
                     preprocess=Preprocess(resize_shorter=256, crop=(224, 224), mean=(123., 117., 104.)),
                     postprocess=Classify(softmax=True), output=site[1] / "photo.edgeq")
    photo = next((models / "imagenet500/images").glob("*goldfish*"))
    with edgeq_runtime.load(bundle.path) as model:
        expected = model.predict(np.asarray(image.open(photo).convert("RGB")))
    assert expected[0].index == 1  # a goldfish
    answer = javascript(tmp_path, "", str(photo), address=site[0], steps=OPEN)
    assert answer["found"] == [f"{one.label}{100 * one.score:.1f} %" for one in expected]
