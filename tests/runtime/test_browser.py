"""runtime/js in a headless Chromium, with onnxruntime-web and LiteRT.js, beside the Python runtime."""
from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from javascript import MODULES, PACKAGE, ROOT, javascript, needs_chromium, needs_node, served

import edgeq_runtime
from edgeq import convert

DIGITS = ROOT / "samples/digits"

pytestmark = [pytest.mark.full, needs_node, needs_chromium]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for target, io_type in BUNDLES:
        convert(DIGITS / "digits.onnx", target=target, bits=8, calibration=DIGITS / "calibration.npz", io=io_type,
                postprocess={"kind": "classify", "softmax": True}, output=folder / f"{target}.{io_type}.edgeq")
    return folder


BUNDLES = [("onnxruntime", "float"), ("onnxruntime", "int8"), ("tflite", "float"), ("tflite", "uint8"),
           ("tflite", "int8")]


@pytest.fixture(scope="module")
def site(bundles: Path) -> Iterator[str]:
    with served({"/js/": PACKAGE, "/bundles/": bundles}) as address:
        yield address


# given: source, samples
RUN = """
const model = await runtime.load(given.source, {ort, litert}), [input] = model.inputs, [output] = model.outputs;
const outputs = [], times = [];
for (const image of given.samples) {
  const found = await model.run({[input.name]: runtime.to_integers(input, Float32Array.from(image))});
  outputs.push(found[output.name].data);
}
return {self_test: await model.self_test(), outputs, best: await model.predict(
  runtime.to_integers(input, Float32Array.from(given.samples[0]))), engine: model.engine};
"""


@pytest.mark.parametrize(("target", "io_type"), BUNDLES[:-1])
def test_both_engines_compute_what_python_computes(bundles: Path, site: str, tmp_path: Path, target: str,
                                                   io_type: str) -> None:
    samples = np.load(DIGITS / "test.npz")["image"][:50, None]
    name = f"{target}.{io_type}.edgeq"
    answer = javascript(tmp_path, RUN, {"source": f"/bundles/{name}", "samples": samples.reshape(50, -1)},
                        address=f"{site}/js/test.html")
    assert "found" in answer, answer
    found = answer["found"]
    assert found["self_test"]["ok"], found["self_test"]
    assert found["engine"] == {"onnxruntime": "onnxruntime-web 1.30.0", "tflite": "LiteRT.js"}[target]
    with edgeq_runtime.load(bundles / name) as model:
        spec, = model.inputs
        feeds = [edgeq_runtime.to_integers(spec, each) for each in samples]
        expected = [model.run({"image": feed})["logits"].reshape(-1) for feed in feeds]
        best = model.predict(feeds[0])
    np.testing.assert_array_equal(found["outputs"], expected)
    assert [(line["label"], line["index"]) for line in found["best"]] == [(line.label, line.index) for line in best]


def test_a_dtype_that_litert_does_not_move_is_refused(bundles: Path, site: str, tmp_path: Path) -> None:
    found = javascript(tmp_path, "await runtime.load('/bundles/tflite.int8.edgeq', {litert})",
                       address=f"{site}/js/test.html")
    assert (found["error"], found["message"]) == (
        "EngineError", "LiteRT.js knows no int8, the dtype of 'image': convert with --io uint8 or --io float")


PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>'
LOAD = "return (await (await runtime.load(given, {ort})).self_test()).ok"


def test_an_engine_without_its_wasm(bundles: Path, tmp_path: Path) -> None:
    script = Path("onnxruntime-web/dist/ort.wasm.bundle.min.mjs")
    (tmp_path / script).parent.mkdir(parents=True)
    (tmp_path / script).write_bytes((MODULES / script).read_bytes())
    with served({"/js/": PACKAGE, "/js/node_modules/onnxruntime-web/": tmp_path / "onnxruntime-web",
                 "/bundles/": bundles}) as address:
        found = javascript(tmp_path, LOAD, "/bundles/onnxruntime.float.edgeq", address=f"{address}/js/test.html")
    assert found["error"] == "EngineError"
    assert "Does the server give out its .wasm files, beside its script or where" in found["message"]


def test_what_a_browser_does_not_allow(bundles: Path, site: str, tmp_path: Path) -> None:
    """A bundle of another origin, a page on plain http (no WebCrypto), and a page that was opened as a file."""
    page = f"{site}/js/test.html"
    with served({"/": bundles}) as elsewhere:
        blocked = javascript(tmp_path, LOAD, f"{elsewhere}/onnxruntime.float.edgeq", address=page)
        (bundles / "picture.svg").write_text(PICTURE)
        tainted = javascript(tmp_path, """const image = new Image(); image.src = given; await image.decode();
            await runtime.pixels(image)""", f"{elsewhere}/picture.svg", address=page)
    assert blocked["error"] == "BundleError"
    assert "does it allow this page to read from it (CORS: Access-Control-Allow-Origin)?" in blocked["message"]
    assert tainted["error"] == "InputError"
    assert 'Load it with crossorigin="anonymous" from a server that allows it' in tainted["message"]
    broken = javascript(tmp_path, "await runtime.pixels(new Blob(['nothing']))", address=page)
    assert (broken["error"], broken["message"][:21]) == ("InputError", "cannot read the image")
    absent = javascript(tmp_path, LOAD, "/bundles/no.edgeq", address=page)
    assert "the server answers 404; is the whole bundle there?" in absent["message"]
    plain = javascript(tmp_path, f"if (crypto.subtle) throw new Error('a safe page'); {LOAD}",
                       "/bundles/onnxruntime.float.edgeq", address=page.replace("127.0.0.1", "edgeq.test"),
                       arguments=["--host-resolver-rules=MAP edgeq.test 127.0.0.1"])
    assert plain.get("found") is True, plain
    file = javascript(tmp_path, "await runtime.load('file:///nowhere', {ort})", address=page)
    assert "browsers let no page read files; serve the folder" in file["message"]


# Bytes as text, which is faster than a list of a million numbers.
PIXELS = """
const {data, dims} = await runtime.pixels(await (await fetch("/photo")).blob()), text = [];
for (let k = 0; k < data.length; k += 8192) text.push(String.fromCharCode(...data.subarray(k, k + 8192)));
return [btoa(text.join("")), dims];
"""


@pytest.mark.parametrize(("kind", "words"), [("png", {}), ("jpeg", {"quality": 90}), ("jpeg", {"subsampling": 0})])
def test_an_image_file_becomes_the_pixels_that_pillow_reads(tmp_path: Path, kind: str, words: dict[str, int]) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is the reference")
    data = pytest.importorskip("sklearn.datasets", reason="a photograph").load_sample_image("china.jpg")
    image.fromarray(data).save(tmp_path / "photo", kind, **words)
    with served({"/js/": PACKAGE, "/": tmp_path}) as address:
        found, dims = javascript(tmp_path, PIXELS, address=f"{address}/js/test.html")["found"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(found), np.uint8).reshape(dims),
                                  image.open(tmp_path / "photo").convert("RGB"))


# By turns, fifty calls at a time, because a page's clock is coarse; the medians.
OVERHEAD = """
const model = await runtime.load(given.source, {ort, litert}), image = new Float32Array(64), dims = [1, 1, 8, 8];
const file = new Uint8Array(await (await fetch(`${given.source}/${model.manifest.entry}`)).arrayBuffer());
const session = given.litert ? await litert.loadAndCompile(file, {accelerator: "wasm"})
  : await ort.InferenceSession.create(file);
const bare = async () => {
  if (!given.litert) return (await session.run({image: new ort.Tensor("float32", image, dims)})).logits.data;
  const tensor = new litert.Tensor(image, dims), {logits} = await session.run({image: tensor});
  const data = await logits.data();
  tensor.delete();
  logits.delete();
  return data;
};
const times = [[], []], calls = [bare, () => model.run({image})], median = (list) => list.sort((a, b) => a - b)[10];
for (let k = 0; k < 42; k++) {
  const start = performance.now();
  for (let call = 0; call < 50; call++) await calls[k % 2]();
  times[k % 2].push((performance.now() - start) / 50);
}
return [median(times[0]), median(times[1])];
"""


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_a_call_costs_less_than_a_fifth_of_a_millisecond_over_the_bare_engine(site: str, tmp_path: Path,
                                                                             target: str) -> None:
    given = {"source": f"/bundles/{target}.float.edgeq", "litert": target == "tflite"}
    bare, ours = javascript(tmp_path, OVERHEAD, given, address=f"{site}/js/test.html")["found"]
    assert ours - bare < .2
