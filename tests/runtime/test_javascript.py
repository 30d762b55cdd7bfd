"""runtime/js in node with onnxruntime-web, beside the Python runtime: the same bundle, samples and messages."""
from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from javascript import MODULES, PACKAGE, ROOT, javascript, needs_node, served

import edgeq_runtime
from edgeq import convert
from edgeq_runtime.postprocess import PRESETS, Classify, Detect
from edgeq_runtime.preprocess import Preprocess
from edgeq_runtime.sound import LogMel

DIGITS = ROOT / "samples/digits"
# Lengths around a block of 64 bytes and the 9 that end the text.
TEXTS = ["a" * length for length in (0, 1, 55, 56, 63, 64, 119, 1000)]

pytestmark = [pytest.mark.full, needs_node]


@pytest.fixture(scope="module")
def samples() -> Any:
    return np.load(DIGITS / "calibration.npz")["image"][:20, None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DIGITS / "digits.onnx", target="onnxruntime", bits=8, calibration=DIGITS / "calibration.npz",
                   postprocess={"kind": "classify", "softmax": True, "top": 3},
                   labels=[f"digit {k}" for k in range(10)],
                   output=tmp_path_factory.mktemp("bundles") / "digits.edgeq").path


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "digits.edgeq"))


# given: source, plain_http, samples
RUN = """
if (given.plain_http) Object.defineProperty(globalThis, "crypto", {value: {}});
const model = await runtime.load(given.source, {ort}), inputs = given.samples.map((each) => Float32Array.from(each));
const outputs = [];
for (const image of inputs) outputs.push((await model.run({image})).logits.data);
return {self_test: await model.self_test(), engine: model.engine, outputs,
  best: inputs.length ? await model.predict(inputs[0]) : null};
"""


def run(bundle: Path, samples: Any = (), source: str = "", **words: Any) -> dict[str, Any]:
    """source: where to read the bundle from, where that is not its folder."""
    found: dict[str, Any] = javascript(bundle.parent, RUN, {
        "source": source or str(bundle), "samples": [each.reshape(-1) for each in samples], **words})
    return found.get("found") or found


@pytest.mark.parametrize("plain_http", [False, True])
def test_it_computes_what_python_computes(bundle: Path, samples: Any, plain_http: bool) -> None:
    found = run(bundle, samples, plain_http=plain_http)
    assert found.get("error") is None, found
    assert found["self_test"]["ok"]
    assert found["engine"] == "onnxruntime-web 1.30.0"
    with edgeq_runtime.load(bundle) as model:
        expected = [model.run({"image": each})["logits"].reshape(-1) for each in samples]
        best = model.predict(samples[0])
    np.testing.assert_array_equal(found["outputs"], expected)
    same(found["best"], best)


def same(found: list[dict[str, Any]], expected: list[Any]) -> None:
    """The two runtimes' answers, with the same names; exp differs in the last digit of a float64."""
    assert len(found) == len(expected)
    for got, wanted in zip(found, map(asdict, expected), strict=True):
        assert set(got) - {"box", "keypoints"} == set(wanted) - {"box", "keypoints"}
        assert (got["label"], got["index"]) == (wanted["label"], wanted["index"])
        for name in ("score", "box", "keypoints"):
            np.testing.assert_allclose(got.get(name, ()), wanted.get(name, ()), rtol=1e-12)


def test_sha256_where_the_browser_has_none(tmp_path: Path) -> None:
    found = javascript(tmp_path, "return given.map((text) => parts.plainSha256(new TextEncoder().encode(text)))", TEXTS)
    assert [bytes(each) for each in found["found"]] == [hashlib.sha256(text.encode()).digest() for text in TEXTS]


OVERHEAD = """
const model = await runtime.load(given.source, {ort}), [spec] = model.inputs, image = new Float32Array(64);
const {readFile} = await import("node:fs/promises");
const bare = await ort.InferenceSession.create(await readFile(`${given.source}/${model.manifest.entry}`));
const timed = async (call) => {
  const start = performance.now();
  await call();
  return performance.now() - start;
};
const times = [[], []], median = (list) => list.sort((a, b) => a - b)[list.length >> 1];
// By turns, and the median: other work on the machine lengthens single calls of either.
for (let k = 0; k < 500; k++) {
  times[0].push(await timed(() => bare.run({[spec.name]: new ort.Tensor("float32", image, spec.shape)})));
  times[1].push(await timed(() => model.run({image})));
}
return median(times[1]) - median(times[0]);
"""


def test_a_call_costs_less_than_a_fifth_of_a_millisecond_over_the_bare_engine(bundle: Path, tmp_path: Path) -> None:
    assert javascript(tmp_path, OVERHEAD, {"source": str(bundle)})["found"] < .2


# -- what is refused ---------------------------------------------------------------------------------------------------

def change(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)


def manifest(bundle: Path, **words: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **words}))


DAMAGES: dict[str, tuple[Any, str, str]] = {
    "a changed byte": (lambda b: change(b, "model.onnx"), "BundleError",
                       "'model.onnx' was changed (its sha256 differs); copy the bundle again"),
    "a missing file": (lambda b: (b / "model.onnx").unlink(), "BundleError", "model.onnx: ENOENT; copy the bundle"),
    "cut short": (lambda b: (b / "model.onnx").write_bytes(b"x"), "BundleError", "has 1 bytes instead of"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "BundleError", "manifest.json: ENOENT"),
    "a page instead": (lambda b: (b / "manifest.json").write_text("<!DOCTYPE html>"), "BundleError",
                       "is this the address of a bundle's folder?"),
    "newer": (lambda b: manifest(b, format=99), "BundleError", "the bundle has format 99"),
    "a language model": (lambda b: manifest(b, format=4, language={"context": 8}), "BundleError", "a language model"),
    "another engine": (lambda b: manifest(b, engine="coreml"), "EngineError", "--target onnxruntime or --target tfl"),
    "the other engine": (lambda b: manifest(b, engine="tflite"), "EngineError",
                         "load(source, {litert}) wants the module @litertjs/core"),
    "a newer engine": (lambda b: manifest(b, engine_version=">=99.0"), "EngineError", "the bundle needs >=99.0"),
    "a library": (lambda b: manifest(b, options={"session_options": {"session.custom_ops": "1"}}), "BundleError",
                  "not one that this runtime passes on"),
    "outside": (lambda b: manifest(b, files=[{"path": "../x", "bytes": 1, "sha256": ""}]), "BundleError",
                "does not stay inside the bundle"),
    "a newer step": (lambda b: manifest(b, preprocessing={"kind": "image", "gamma": 2}), "BundleError",
                     "preprocessing: unknown key 'gamma': update edgeq-runtime"),
    "a step of nonsense": (lambda b: manifest(b, preprocessing={"kind": "image", "resize": "big"}), "BundleError",
                           'resize cannot be "big"'),
    "an unknown step": (lambda b: manifest(b, postprocessing={"kind": "segment"}), "BundleError", "no kind 'segment'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bundle_that_does_not_fit_is_refused(bundle: Path, damage: str) -> None:
    break_it, kind, text = DAMAGES[damage]
    break_it(bundle)
    found = run(bundle, plain_http=damage == "a changed byte")
    assert (found.get("error"), text in found.get("message", "")) == (kind, True), found


def with_external_data(bundle: Path) -> None:
    """The weights in a file of their own, as the converter writes those of large models."""
    model = onnx.load(bundle / "model.onnx")
    onnx.save(model, bundle / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=100)
    listed = [bundle / name for name in ("model.onnx", "model.data", "selftest.npz")]
    manifest(bundle, files=[{"path": path.name, "bytes": path.stat().st_size,
                             "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in listed])


def test_external_data(made: Path, bundle: Path, samples: Any) -> None:
    with_external_data(bundle)
    assert run(bundle, samples[:1])["self_test"]["ok"]
    both = "return (await Promise.all(given.map((source) => runtime.load(source, {ort})))).length"
    assert javascript(bundle.parent, both, [str(made), str(bundle)]).get("found") == 2  # at once, as a page does
    (bundle / "model.data").unlink()
    assert "model.data: ENOENT; copy the bundle again" in run(bundle)["message"]
    manifest(bundle, files=json.loads((bundle / "manifest.json").read_text())["files"][::2])
    assert "the bundle needs 'model.data', which its manifest does not list" in run(bundle)["message"]


def test_a_browser_without_simd(bundle: Path) -> None:
    found = javascript(bundle.parent, f"WebAssembly.validate = () => false;{RUN}", {"source": str(bundle)})
    assert (found["error"], found["message"]) == (
        "EngineError", "no WebAssembly SIMD, which onnxruntime-web needs: update the browser")


def test_it_reads_over_http(bundle: Path, samples: Any) -> None:
    with served({"/": bundle.parent}) as address:
        assert run(bundle, samples[:1], f"{address}/digits.edgeq")["self_test"]["ok"]
        assert "the server answers 404; is the whole bundle" in run(bundle, source=f"{address}/no.edgeq")["message"]
    assert "(CORS" in run(bundle, source="http://127.0.0.1:9/digits.edgeq")["message"]


def test_outputs_that_are_too_far_off_fail_the_self_test(bundle: Path, samples: Any) -> None:
    path = bundle / "selftest.npz"
    with np.load(path) as archive:
        arrays = {key: archive[key] + 1 if key == "output/0/logits" else archive[key] for key in archive.files}
    np.savez_compressed(path, **arrays)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    for file in files:
        if file["path"] == path.name:
            file |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest(bundle, files=files)
    found = run(bundle, samples[:1])["self_test"]
    with edgeq_runtime.load(bundle) as model:
        wanted = model.self_test().to_dict()
    assert found["status"] == wanted["status"] == "fail"
    assert set(found) - {"ok"} == set(wanted)
    assert set(found["difference"]) == set(wanted["difference"])
    assert (found["difference"]["output"], found["difference"]["case"]) == ("logits", 0)


def test_an_input_that_does_not_fit_is_refused(bundle: Path, samples: Any) -> None:
    found = run(bundle, [samples[0].reshape(-1)[:60]])
    assert found["error"] == "InputError"
    assert "'image' has 60 numbers" in found["message"]


STREAM = """
const model = await runtime.load(given.source, {ort}), run = async (words) => (await model.run(words)).y.data;
const found = [];
for (const x of given.steps) found.push(await run({x: Float32Array.from(x)}));
const [first] = given.steps.map((x) => Float32Array.from(x)), tested = await model.self_test();
found.push(await run({x: first}), await run({x: first, s: new Float32Array(2)}));
return [found, tested.ok];
"""


def test_a_stream_keeps_its_state_as_in_python(tmp_path: Path) -> None:
    """The self-test begins the stream anew, and a state that is given counts."""
    net = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> net (float[1,2] x, float[1,2] s) => '
                                  "(float[1,2] y, float[1,2] t) { t = Add (x, s) y = Mul (t, t) }")
    steps = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    bundle = convert(net, target="onnxruntime", bits=32, state="s=t", output=tmp_path / "b").path
    found, tested = javascript(tmp_path, STREAM, {"source": str(bundle), "steps": steps.reshape(3, 2)})["found"]
    with edgeq_runtime.load(bundle) as model:
        expected = [model.run({"x": step})["y"][0].tolist() for step in steps]
    assert tested
    assert found == [*expected, expected[0], expected[0]]


# -- the steps before and behind the network ---------------------------------------------------------------------------

def picture(height: int, width: int) -> Any:
    rng = np.random.default_rng(height * 1000 + width)
    noise = rng.integers(0, 256, (height, width, 3))
    return np.where(rng.random(noise.shape) < .5, noise, 255 * np.arange(width)[:, None] // width).astype(np.uint8)


IMAGENET = Preprocess(resize_shorter=61, crop=(48, 53), scale=1 / 255, mean=(.485, .456, .406), std=(.229, .224, .225))
STEPS = [
    IMAGENET, replace(IMAGENET, order="BGR", layout="NHWC"), replace(IMAGENET, interpolation="bicubic"),
    Preprocess(resize=(90, 71), scale=1 / 127.5, mean=(1.0,)), Preprocess(resize=(11, 17), pixels=True),
    Preprocess(letterbox=(64, 64), scale=1 / 255), Preprocess(letterbox=(33, 64), align="corner", order="BGR"),
    Preprocess(letterbox=(65, 64), pad=7, interpolation="bicubic"), Preprocess(),
]
APPLY = """
return given.steps.map((step) => given.images.map(({data, dims}) => {
  const made = new parts.Preprocess(step), found = made.apply({data: Uint8Array.from(data), dims});
  return [found.data, found.dims, made.to_image([3, 20], dims[0], dims[1])];
}));
"""


def test_images_become_the_same_numbers(tmp_path: Path) -> None:
    images = [picture(73, 101), picture(101, 73), picture(64, 64), picture(311, 67)]
    found = javascript(tmp_path, APPLY, {"steps": [step.to_dict() for step in STEPS], "images": [
        {"data": image.reshape(-1), "dims": image.shape} for image in images]})["found"]
    for step, results in zip(STEPS, found, strict=True):
        for image, (data, dims, point) in zip(images, results, strict=True):
            expected = step(image)
            np.testing.assert_array_equal(np.array(data, expected.dtype).reshape(dims), expected)
            assert point == list(step.to_image([(3, 20, 3, 20)], *image.shape[:2])[0, :2])


def test_resizing_is_pillows(tmp_path: Path) -> None:
    image, given = pytest.importorskip("PIL.Image", reason="Pillow is the reference"), picture(120, 161)
    for name in ("bilinear", "bicubic"):
        found = javascript(tmp_path, APPLY, {
            "steps": [{"resize": [57, 200], "interpolation": name, "layout": "NHWC"}],
            "images": [{"data": given.reshape(-1), "dims": given.shape}]})["found"][0][0][0]
        filter_ = getattr(image.Resampling, name.upper())  # one axis each: Pillow 13 may take the columns first
        wanted = image.fromarray(given).resize((200, 120), filter_).resize((200, 57), filter_)
        np.testing.assert_array_equal(np.reshape(found, (57, 200, 3)), wanted)


SPEECH = LogMel(16000, window=400, hop=160, fft=512, mels=13)
SOUNDS = [SPEECH, replace(SPEECH, fft=400, hop=133, scale="slaney", norm="slaney", log="db"),
          replace(SPEECH, center=False, layout="NCTM", samples=2000, power=1.0, log="log10", mean=-3.0, std=2.0),
          replace(SPEECH, fft=486, samples=900, low_hz=20.0, high_hz=7600.0, floor=0.0, offset=1e-6)]


def test_sounds_become_the_same_numbers(tmp_path: Path) -> None:
    time = np.arange(1703) / 16000
    sound = (.5 * np.sin(2 * np.pi * 440 * time) + np.random.default_rng(7).normal(0, .01, 1703)).astype(np.float32)
    found = javascript(tmp_path, """return given.steps.map((step) => {
      const {data, dims} = new parts.LogMel(step).apply(Float32Array.from(given.sound));
      return [data, dims];
    });""", {"steps": [step.to_dict() for step in SOUNDS], "sound": sound})["found"]
    for step, (data, dims) in zip(SOUNDS, found, strict=True):
        expected = step(sound)
        np.testing.assert_allclose(np.reshape(data, dims), expected, rtol=1e-6, atol=1e-6)


def crowd(count: int, columns: int, seed: int) -> Any:
    """[count, 4 + columns]: boxes that overlap a lot, then scores."""
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 60, (count, 2)), rng.integers(5, 50, (count, 2))
    return np.hstack([corner, corner + size, rng.permutation(count * columns).reshape(count, columns) /
                      (count * columns)])


ROWS = crowd(150, 5, 3)
ANCHORS = tuple(map(tuple, np.random.default_rng(5).uniform(.1, .9, (150, 4)).tolist()))
POSE = np.hstack([ROWS[:, :6], np.random.default_rng(8).uniform(0, 60, (150, 9))])
ENDS = np.hstack([ROWS[:, :5], np.floor(6 * ROWS[:, 5:6])])
DETECTIONS: list[tuple[Any, dict[str, Any]]] = [
    (Classify(softmax=True, top=4), {"y": ROWS[:1, 4:]}), (Classify(top=9, min_score=.3), {"y": ROWS[:1, 4:]}),
    *((Detect(form=form, max_iou=.3), {"y": ROWS[None]}) for form in ("xyxy", "yxyx", "xywh", "cxcywh", "cycxhw")),
    (Detect(agnostic=True, min_score=.5), {"y": ROWS}), (PRESETS["yolov5"](), {"y": ROWS[None]}),
    (PRESETS["yolov8"](), {"y": ROWS.T[None]}), (PRESETS["yolo26"](), {"y": ENDS[None]}),
    (Detect(form="cxcywh", classes=2, keypoints=3, size=(40, 80)), {"y": POSE}),
    (Detect("b", "s", form="cycxhw", anchors=ANCHORS, sigmoid=True, background=True, size=(32, 64)),
     {"s": 6 * ROWS[None, :, 4:] - 3, "b": .02 * ROWS[None, :, :4]}),
    (Detect(objectness=True, max_detections=7, max_iou=1.0), {"y": ROWS}), (Detect(min_score=2.0), {"y": ROWS}),
]


def test_outputs_become_the_same_answers(tmp_path: Path) -> None:
    labels = ["ant", "bee", "cat"]
    found = javascript(tmp_path, """return given.steps.map(({kind, step, outputs}) =>
      new parts[kind](step).apply(Object.fromEntries(Object.entries(outputs).map(([name, {data, dims}]) =>
        [name, {data: Float64Array.from(data), dims}])), given.labels));""", {"labels": labels, "steps": [
            {"kind": type(step).__name__, "step": step.to_dict(), "outputs": {
                name: {"data": array.reshape(-1), "dims": array.shape} for name, array in outputs.items()}}
            for step, outputs in DETECTIONS]})["found"]
    for (step, outputs), answers in zip(DETECTIONS, found, strict=True):
        same(answers, step(outputs, labels))
    assert [bool(answers) for answers in found].count(False) == 1  # the last


# -- the package -------------------------------------------------------------------------------------------------------

def test_the_types_are_those_of_the_code(tmp_path: Path) -> None:
    """tsc reads the declarations in a program that uses all of them, and compares the names with the module's."""
    (tmp_path / "use.mts").write_text(f"""
import * as edgeq from "{PACKAGE}/edgeq_runtime.js";
import type {{Detection}} from "{PACKAGE}/edgeq_runtime.js";
const model: edgeq.Model = await edgeq.load("bundle", {{ort: {{}}, verify: false}});
const {{y}} = await model.run({{x: new Float32Array(4)}});
const [first]: Detection[] = await model.predict(new ImageData(3, 2));
const reals: ArrayLike<number> | ArrayLike<bigint> = edgeq.to_reals(model.outputs[0], y.data as Int8Array);
const said: string = (await model.self_test()).status + first.box[0] + first.label + reals.length;
// @ts-expect-error: no such word
await model.forward(said);
""")
    done = subprocess.run([MODULES / ".bin/tsc", "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022",
                           "--lib", "es2022,dom", tmp_path / "use.mts"], text=True, capture_output=True, check=False,
                          cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    names = javascript(tmp_path, "return Object.keys(runtime)")["found"]
    assert all(f" {name}" in (PACKAGE / "edgeq_runtime.d.ts").read_text() for name in names)


def test_it_is_small() -> None:
    """As a bundler puts it into a page."""
    done = subprocess.run([MODULES / ".bin/esbuild", PACKAGE / "edgeq_runtime.js", "--bundle", "--minify",
                           "--format=esm", "--external:node:*"], capture_output=True, check=True)
    assert len(gzip.compress(done.stdout)) < 15_000
