"""edgeq in Python: words, bytes and refusals as on the command line, and data in the forms that people hold it."""
from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli.badinput import network, samples
from click.testing import CliRunner
from numpy.typing import NDArray

import edgeq
from edgeq import api
from edgeq.bundle.folder import open_bundle
from edgeq.cli import main
from edgeq.errors import CalibrationError, EdgeqError, EvaluationError, ModelError, UsageError
from edgeq.verification import verify_bundle
from edgeq_runtime.preprocess import imagenet

VERBS = {"convert": "convert", "inspect": "inspect", "analyze": "analyze", "estimate": "estimate", "verify": "verify",
         "eval": "evaluate", "sweep": "sweep"}
# A torch module is given in Python alone, and the command line draws a bar.
PYTHON = {"example_inputs", "progress"}
TERMINAL = {"--json", "--debug", "--help"}
SHAPE = {"--input image:1x3x8x8": ("inputs", {"image": (1, 3, 8, 8)})}
TRUST = {"--trust": ("trust", True)}
# Every option of every verb, and the keyword that it is.
WORDS: dict[str, dict[str, tuple[str, Any]]] = {
    "convert": {
        "--target tflite --target coreml": ("target", ["tflite", "coreml"]), "--device pi4": ("device", "pi4"),
        "--bits 4": ("bits", 4), "--calibration data.npz": ("calibration", "data.npz"), "--samples 3": ("samples", 3),
        "--activations float": ("activations", "float"), "--weights block:32": ("weights", "block:32"),
        "--method gptq": ("method", "gptq"), "--calibrator mse": ("calibrator", "mse"),
        "--calibration-cache c": ("calibration_cache", Path("c")),
        "--keep-float a.* --keep-float b": ("keep_float", ("a.*", "b")), **SHAPE,
        "--state a=b --state c=d": ("state", ("a=b", "c=d")),
        "--preprocess imagenet": ("preprocess", "imagenet"), "--postprocess classify": ("postprocess", "classify"),
        "--labels data.npz": ("labels", Path("data.npz")), "--layout nhwc": ("layout", "nhwc"),
        "--io uint8,float": ("io", "uint8,float"), "--full-integer": ("full_integer", True),
        "--prefer speed": ("prefer", "speed"), "--measure": ("measure", True), "--board pi": ("board", "pi"),
        "--eval data.npz": ("eval", "data.npz"), "--metric top1": ("metric", "top1"),
        "--max-drop 1%": ("max_drop", "1%"), "--min-metric 90": ("min_metric", 90.0),
        "--max-bytes 6kB": ("max_bytes", "6kB"), "--min-db 30": ("min_db", 30.0), "--min-os 17": ("min_os", 17),
        "--compute gpu": ("compute", "gpu"),
        "--gguf-type Q4_0": ("gguf_type", "Q4_0"), "--gguf-file m.gguf": ("gguf_file", Path("m.gguf")),
        "--bits-per-weight 4.5": ("bits_per_weight", 4.5), "--resume": ("resume", True),
        "--adapter .": ("adapter", Path()), "--requantize": ("requantize", True),
        "--recover data.npz": ("recover", "data.npz"), "--recover-weights": ("recover_weights", True),
        "--keep-qdq q.onnx": ("keep_qdq", Path("q.onnx")), "--strict": ("strict", True),
        "--about data.npz": ("about", Path("data.npz")),
        "--product doorbell": ("product", "doorbell"), "--version 1.4.2": ("version", "1.4.2"), **TRUST,
        "--no-verify": ("verify", False), "--latency": ("latency", True), "--no-report": ("report", False),
        "--force": ("force", True), "--dry-run": ("dry_run", True),
        "--output b": ("output", Path("b"))},
    "inspect": {**SHAPE, **TRUST, "--compute ane": ("compute", "ane")},
    "analyze": {
        "--calibration data.npz": ("calibration", "data.npz"), "--samples 3": ("samples", 3), "--bits 4": ("bits", 4),
        "--weights block:32": ("weights", "block:32"), "--target tflite": ("target", ("tflite",)), **SHAPE,
        "--preprocess imagenet": ("preprocess", "imagenet"), "--eval data.npz": ("eval", "data.npz"),
        "--metric top1": ("metric", "top1"), "--top 2": ("top", 2), **TRUST},
    "estimate": {**SHAPE, **TRUST, "--context 512": ("context", 512)},
    "verify": {"--reference net.onnx": ("reference", "net.onnx"), "--data data.npz": ("data", "data.npz"),
               "--samples 3": ("samples", 3), "--layers": ("layers", True), **TRUST},
    "eval": {"--data data.npz": ("data", "data.npz"), "--metric top1": ("metric", "top1"),
             "--reference net.onnx": ("reference", "net.onnx"), "--samples 3": ("samples", 3),
             "--perplexity a.txt": ("perplexity", "a.txt"), "--kl-against lm": ("kl_against", "lm"),
             "--tasks t.jsonl": ("tasks", "t.jsonl"),
             "--max-drop 1%": ("max_drop", "1%"), "--min-metric 90": ("min_metric", 90.0), **TRUST},
}
WORDS["sweep"] = {"--scheduler tcp://h:1": ("scheduler", "tcp://h:1"), "--workers 3": ("workers", 3),
                  "--output b": ("output", Path("b"))}
NEEDED = {"analyze": ["--calibration", "data.npz"]}
QUICK: dict[str, Any] = {"target": "onnxruntime", "method": "nearest", "calibrator": "minmax", "verify": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.onnx, its bundle, and data.npz, whose labels are the float model's answers, but for one."""
    import onnxruntime

    place = tmp_path_factory.mktemp("made")
    onnx.save(network(), place / "net.onnx")
    session = onnxruntime.InferenceSession(str(place / "net.onnx"), providers=["CPUExecutionProvider"])
    labels = [int(session.run(None, {"image": row[None]})[0].argmax()) for row in samples(6)]
    np.savez(place / "data.npz", image=samples(6), labels=[(labels[0] + 1) % 5, *labels[1:]])
    edgeq.convert(place / "net.onnx", target="onnxruntime", calibration=place / "data.npz",
                  output=place / "net.onnxruntime.edgeq")
    return place


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with net.onnx and data.npz."""
    for name in ("net.onnx", "data.npz"):
        shutil.copy(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def artifact(bundle: edgeq.Bundle) -> bytes:
    return (bundle.path / "model.onnx").read_bytes()


# -- the words ---------------------------------------------------------------------------------------------------------

def keywords_of(command: str, *options: str) -> dict[str, Any]:
    """What a command calls its function with."""
    seen: dict[str, Any] = {}

    def capture(*arguments: Any, **words: Any) -> None:
        seen.update(words)
        raise UsageError("seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, VERBS[command], capture)
        result = CliRunner().invoke(main, [command, "net.onnx", *NEEDED.get(command, []), *options])
    assert result.stderr == "error: seen\n", result.output
    return seen


@pytest.mark.parametrize("command", VERBS)
def test_every_option_is_a_keyword_with_the_same_default(folder: Path, command: str) -> None:
    keywords = inspect.signature(getattr(edgeq, VERBS[command])).parameters
    defaults = keywords_of(command)
    assert set(list(keywords)[1:]) - PYTHON <= defaults.keys() <= keywords.keys()
    for name in defaults.keys() - PYTHON:
        assert keywords[name].default is inspect.Parameter.empty or (
            defaults[name] or None) == (keywords[name].default or None), name
    options = {max(p.opts, key=len) for p in main.commands[command].params if p.param_type_name == "option"}
    options = {"--no-verify" if name == "--verify" else name for name in options} - TERMINAL
    assert {text.split()[0] for text in WORDS[command]} == options
    for text, (name, value) in WORDS[command].items():
        changed = {key: said for key, said in keywords_of(command, *text.split()).items()
                   if key not in PYTHON and said != defaults[key]}
        assert changed == ({name: value} if value != defaults[name] else {}), text


@pytest.mark.parametrize("verb", VERBS.values())
def test_help_explains_every_keyword(verb: str) -> None:
    found = getattr(edgeq, verb)
    explained = found.__doc__.partition("Args:")[2].partition("Returns:")[0]
    assert [name for name in inspect.signature(found).parameters if name not in explained] == []
    assert "Raises:" in found.__doc__
    assert "edgeq." in found.__doc__.partition("Args:")[0]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(inspect.signature(found).parameters.values())[1:])


def test_the_types_of_overloads_and_the_defaults_are_those_of_convert() -> None:
    from edgeq.conversion.options import Options, Words
    from edgeq.progress import silent

    keywords = inspect.signature(edgeq.convert).parameters
    own = {"model", "target", "output"}
    assert keywords.keys() - own == Words.__annotations__.keys() == Options.__dataclass_fields__.keys()
    for name, field in Options.__dataclass_fields__.items():
        assert field.default == (keywords[name].default if name != "progress" else silent), name


def test_the_names_of_the_package_are_the_functions() -> None:
    """Also where parts of edgeq are imported first, whose packages Python sets as attributes of `edgeq`."""
    import edgeq.verification.verify_bundle

    assert set(VERBS.values()) < set(dir(edgeq))
    assert all(getattr(edgeq, verb) is getattr(api, verb) for verb in VERBS.values())


# -- the same as the command line --------------------------------------------------------------------------------------

def test_python_and_the_command_line_write_the_same_bytes(folder: Path) -> None:
    said = CliRunner().invoke(main, ["convert", "net.onnx", "--target", "onnxruntime", "--bits", "4", "--calibration",
                                     "data.npz", "--layout", "nhwc", "--keep-float", "last", "--no-verify", "-o", "b"])
    assert said.exit_code == 0, said.output
    bundle = edgeq.convert("net.onnx", target="onnxruntime", bits=4, calibration="data.npz", layout="NHWC",
                           keep_float="last", verify=False, output="a")
    assert artifact(bundle) == (folder / "b/model.onnx").read_bytes()
    assert bundle.manifest.inputs[0].layout == "NHWC"
    assert {row["node"] for row in bundle.report["quantization"]["kept_float"]} >= {"last"}


def test_a_list_of_targets_gives_a_list(folder: Path) -> None:
    words = QUICK | {"calibration": "data.npz"}
    found = edgeq.convert("net.onnx", **words | {"target": ["tflite", "onnxruntime"]})
    assert [bundle.manifest.target for bundle in found] == ["tflite", "onnxruntime"]
    assert [bundle.path for bundle in found] == [Path("net.tflite.edgeq"), Path("net.onnxruntime.edgeq")]
    (one,) = edgeq.convert("net.onnx", **words | {"target": ["onnxruntime"], "output": "one"})
    assert artifact(one) == artifact(edgeq.convert("net.onnx", **words, output="two"))


def test_a_dry_run_leaves_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    bundle = edgeq.convert("net.onnx", target="onnxruntime", dry_run=True)
    assert bundle.report["verification"]["samples"] > 0
    assert bundle.artifact_bytes > 0
    assert not bundle.path.exists()
    assert sorted(folder.iterdir()) == before


def test_the_module_runs(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "edgeq", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgeq {edgeq.__version__}\n"


# -- data --------------------------------------------------------------------------------------------------------------

def tensors(count: int = 6) -> Any:
    return pytest.importorskip("torch").from_numpy(samples(count))


def loader(batch: int) -> Any:
    """As people train: pairs of images and labels, in batches."""
    data = pytest.importorskip("torch.utils.data")
    return data.DataLoader(data.TensorDataset(tensors(), tensors()[:, 0, 0, 0]), batch_size=batch)


FORMS: dict[str, Callable[[], Any]] = {
    "an array": lambda: samples(6),
    "a tensor with a gradient": lambda: tensors().requires_grad_(),
    "a dict of arrays": lambda: {"image": samples(6), "labels": np.arange(6)},
    "a list of arrays": lambda: [row[None] for row in samples(6)],
    "arrays without the batch axis": lambda: list(samples(6)),
    "a generator of dicts": lambda: ({"image": row[None]} for row in samples(6)),
    "dicts without the batch axis": lambda: [{"image": row} for row in tensors()],
    "batches": lambda: [samples(6)[:4], samples(6)[4:]],
    "a loader of pairs": lambda: loader(1),
    "a loader of batches": lambda: loader(4),
}


@pytest.mark.parametrize("form", FORMS)
def test_samples_of_every_form_are_the_same_samples(folder: Path, form: str) -> None:
    from edgeq.quant.feeds import InputSpec
    from edgeq.quant.samples import open_samples

    specs = {"image": InputSpec("float32", (1, 3, 8, 8))}
    given = open_samples(FORMS[form](), specs)
    assert given.count == 6
    assert given.digest() == given.digest() == open_samples(folder / "data.npz", specs).digest()


def test_tuples_go_to_the_inputs_in_order() -> None:
    from edgeq.quant.feeds import InputSpec
    from edgeq.quant.samples import open_samples

    specs = {"b": InputSpec("float32", (1, 2)), "a": InputSpec("int64", ())}
    (feed,) = open_samples([(np.ones(2, np.float32), np.array(3), np.array("a label"))], specs)
    assert {name: array.shape for name, array in feed.items()} == {"b": (1, 2), "a": ()}
    for given, message in [([np.ones((1, 2), np.float32)], "sample 0 holds 1 arrays; the model takes 'b'"),
                           (np.ones((4, 2), np.float32), "dicts of input name -> array")]:
        with pytest.raises(CalibrationError, match=message):
            list(open_samples(given, specs))


def test_a_torch_module_is_exported_as_it_evaluates(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout())
    net[1].eval()
    before = [part.training for part in net.modules()]
    bundle = edgeq.convert(net, target="onnxruntime", bits=32, example_inputs=samples(1), output="b")
    assert [part.training for part in net.modules()] == before
    with torch.no_grad():
        expected = net.eval()(tensors(1)).numpy()
    (output,) = bundle.run(tensors(1)).values()
    np.testing.assert_allclose(output, expected, atol=1e-5)
    assert bundle.verify(reference=net, example_inputs=samples(1)).against_float[0].sqnr_db > 100
    with pytest.raises(UsageError, match="add example_inputs="):
        edgeq.convert(net, target="onnxruntime")


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], type[EdgeqError], str]] = [
    ({"bits": 7}, UsageError, "--bits 7: use 4, 8, 16 or 32"),
    ({"bits": 8.0}, UsageError, "--bits 8.0"),
    ({"bits": True}, UsageError, "--bits True"),
    ({"activations": 8}, UsageError, "--activations 8 needs real samples"),
    ({"activations": 12}, UsageError, "--activations 12: use auto, 8, 16 or float"),
    ({"layout": "nchw"}, UsageError, "--layout nchw: use keep or nhwc"),
    ({"weights": "block"}, UsageError, "--weights block: use per-channel"),
    ({"weights": 32}, UsageError, "--weights 32: give text"),
    ({"calibrator": "max"}, UsageError, "--calibrator max: use minmax, percentile"),
    ({"method": "gptqq"}, UsageError, "--method gptqq: there is no 'gptqq'"),
    ({"method": None}, UsageError, "--method None"),
    ({"keep_float": "("}, UsageError, r"--keep-float '\(' is not a regular expression"),
    ({"keep_float": "frist"}, UsageError, "--keep-float frist: no layer"),
    ({"keep_float": 3}, UsageError, "--keep-float 3: give one name or a list"),
    ({"target": "tpu"}, UsageError, "no target tpu; there are coreai, coreml, gguf"),
    ({"target": None}, UsageError, "name what to convert for"),
    ({"target": []}, UsageError, "name what to convert for"),
    ({"target": 5}, UsageError, "--target 5"),
    ({"device": "pi9"}, UsageError, "there is no device 'pi9'"),
    ({"samples": 0}, UsageError, "--samples 0: give a whole number, at least 1"),
    ({"samples": 2.5}, UsageError, r"--samples 2\.5"),
    ({"inputs": (1, 3, 8, 8)}, UsageError, "--input .*input names with their shapes"),
    ({"inputs": {"image": (1, 3, 8, -8)}}, UsageError, "--input image.*-8 is no size"),
    ({"inputs": {"image": 224}}, UsageError, "--input image:224"),
    ({"preprocess": "imagnet"}, UsageError, "--preprocess imagnet: neither a file nor one of the presets imagenet"),
    ({"preprocess": {"resise": [8, 8]}}, UsageError, "--preprocess .*resise"),
    ({"preprocess": 1 / 255}, UsageError, "--preprocess .*give a preset"),
    ({"postprocess": "boxes"}, UsageError, "--postprocess boxes"),
    ({"labels": "labels.txt"}, UsageError, "--labels labels.txt: No such file"),
    ({"labels": ["ant", "bee"]}, UsageError, "--labels: 2 names"),
    ({"labels": [1, 2, 3, 4, 5]}, UsageError, "--labels 1: give text"),
    ({"metric": "top1"}, UsageError, "--metric top1 needs labelled data: add --eval DATA"),
    ({"metric": 5, "eval": "data.npz"}, UsageError, "no metric '5'"),
    ({"eval": "data.npz"}, UsageError, "--eval needs --metric"),
    ({"max_drop": 1.0}, UsageError, "add --eval DATA with --metric"),
    ({"max_drop": "little", "eval": "data.npz", "metric": "top1"}, UsageError, "--max-drop little"),
    ({"max_bytes": -1, "eval": "data.npz", "metric": "top1"}, UsageError, "--max-bytes -1"),
    ({"min_metric": "90"}, UsageError, "--min-metric 90: give a number"),
    ({"min_os": 15}, UsageError, "--min-os 15: there is 16, 17, 18, 26, 27"),
    ({"compute": "npu"}, UsageError, "--compute npu: use ane, gpu, cpu or all"),
    ({"verify": "no"}, UsageError, "--verify is on or off"),
    ({"dry_run": True, "keep_qdq": "q.onnx"}, UsageError, "--dry-run writes nothing"),
    ({"calibration": 5}, CalibrationError, "calibration data: of type int"),
    ({"calibration": []}, CalibrationError, "holds no samples"),
    ({"calibration": samples()[..., :4]}, CalibrationError, r"float32\[3,8,4\]|float32\[1,3,8,4\]"),
    ({"calibration": {"picture": samples()}}, CalibrationError, "holds 'picture'; the model takes 'image'"),
    ({"calibration": "nothing.npz"}, CalibrationError, "'nothing.npz' does not exist"),
    ({"example_inputs": samples()}, UsageError, "example inputs are for a torch module"),
]


@pytest.mark.parametrize(("words", "error", "message"), REFUSED, ids=str)
def test_convert_refuses(folder: Path, words: dict[str, Any], error: type[EdgeqError], message: str) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=message):
        edgeq.convert("net.onnx", **{"target": "onnxruntime"} | words)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: edgeq.convert(5, target="tflite"), ModelError, "cannot read a int as a network"),
    (lambda: edgeq.inspect("net.onnx", compute="ane"), UsageError, "--compute ane reads a written Core ML bundle"),
    (lambda: edgeq.inspect("net.onnx", compute="gpu"), UsageError, "--compute gpu: use ane"),
    (lambda: edgeq.analyze("net.onnx", calibration=None), UsageError, "add --calibration DATA"),
    (lambda: edgeq.analyze("net.onnx", calibration="data.npz", bits=16), UsageError, "--bits 16: use 4 or 8"),
    (lambda: edgeq.analyze("net.onnx", calibration="data.npz", top=0), UsageError, "--top 0"),
    (lambda: edgeq.estimate("net.onnx", inputs="1x3"), UsageError, "--input 1x3"),
    (lambda: edgeq.verify(5), UsageError, "a bundle is a folder"),
    (lambda: edgeq.verify("b", layers=True), UsageError, "--layers compares with the float model"),
    (lambda: edgeq.evaluate("b", data="data.npz", max_drop=1), UsageError, "--max-drop .* add --reference MODEL"),
], ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", "call").strip("<>"))
def test_the_other_verbs_refuse(folder: Path, call: Callable[[], Any], error: type[EdgeqError], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_steps_of_every_form_are_the_same_steps(folder: Path) -> None:
    Path("steps.json").write_text(json.dumps(imagenet().to_dict()))
    from edgeq.conversion import words

    for given in ("imagenet", "steps.json", Path("steps.json"), imagenet().to_dict(), imagenet()):
        assert words.preprocess(given) == imagenet()


# -- a bundle ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def bundle(made: Path, monkeypatch: pytest.MonkeyPatch) -> edgeq.Bundle:
    monkeypatch.chdir(made)
    return open_bundle(Path("net.onnxruntime.edgeq"))


def test_a_bundle_runs_and_verifies(bundle: edgeq.Bundle) -> None:
    assert repr(bundle) == ("Bundle('net.onnxruntime.edgeq', target='onnxruntime', "
                            f"artifact_bytes={(bundle.path / 'model.onnx').stat().st_size})")
    with bundle.load() as model:
        expected = model.run({"image": samples(1)})["scores"]
    for given in (samples(1), {"image": samples(1)}, tensors(1)):
        np.testing.assert_array_equal(bundle.run(given)["scores"], expected)
    assert bundle.self_test().ok
    found = bundle.verify(reference="net.onnx", data=samples(3), layers=True)
    assert (found.passed, found.samples) == (True, 3)
    assert found.layers is not None
    assert found.against_float == edgeq.verify("net.onnxruntime.edgeq", reference="net.onnx", data="data.npz",
                                               samples=3).against_float


def test_a_reference_is_trusted_where_that_is_said(bundle: edgeq.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def load(*_: Any, trust: bool, **words: Any) -> None:
        seen.append(trust)
        raise UsageError("seen")

    monkeypatch.setattr(verify_bundle, "load_model", load)
    for trust in (False, True):
        for check in (edgeq.verify, partial(edgeq.evaluate, data="data.npz", metric="top1")):
            with pytest.raises(UsageError, match="seen"):
                check(bundle, reference="net.pt2", trust=trust)
    assert seen == [False, False, True, True]


def pairs() -> Iterator[tuple[NDArray[np.float32], int]]:
    with np.load("data.npz") as data:
        yield from zip(data["image"], data["labels"].tolist(), strict=True)


def batches() -> Any:
    with np.load("data.npz") as data:
        return [(data["image"][:4], data["labels"][:4]), (data["image"][4:], data["labels"][4:])]


@pytest.mark.parametrize("data", [
    pytest.param(lambda: "data.npz", id="a file"), pytest.param(lambda: dict(np.load("data.npz")), id="arrays"),
    pytest.param(lambda: pairs, id="a function"), pytest.param(pairs, id="pairs"), pytest.param(batches, id="batches"),
])
def test_evaluate_scores_beside_the_float_model(bundle: edgeq.Bundle, data: Callable[[], Any]) -> None:
    """The labels are the float model's own answers, but for one of six."""
    found = edgeq.evaluate(bundle, data=data(), metric="top1", reference="net.onnx", max_drop="50%")
    with np.load("data.npz") as arrays:
        right = [int(bundle.run(row[None])["scores"].argmax()) == label
                 for row, label in zip(arrays["image"], arrays["labels"], strict=True)]
    assert found.float_score == pytest.approx(100 * 5 / 6)
    assert found.score == pytest.approx(100 * np.mean(right))
    assert found.drop == pytest.approx(found.float_score - found.score)
    assert found.met == (found.score >= found.float_score / 2)


@pytest.mark.parametrize(("words", "code", "said"), [
    ("--metric top1 --min-metric 10", 0, "top1 "), ("--metric top1 --min-metric 99", 3, "MISSED"),
    ("--metric top1 --reference net.onnx --max-drop 100", 0, "float 83.33 %"),
    ("--metric sqnr --reference net.onnx --min-metric 500", 3, "sqnr "), ("--metric top1 --max-drop 1", 2, ""),
    ("--metric sqnr", 2, ""), ("", 2, ""),
])
def test_eval_exits_with_3_below_what_was_asked(bundle: edgeq.Bundle, words: str, code: int, said: str) -> None:
    result = CliRunner().invoke(main, ["eval", str(bundle.path), "--data", "data.npz", *words.split()])
    assert (result.exit_code, said in result.stdout) == (code, True), result.output


def test_evaluate_names_what_gives_no_score(bundle: edgeq.Bundle) -> None:
    for data, message in [({"image": samples(6)}, "hold no labels"), (5, "of type int"),
                          ({"image": samples(6), "labels": np.zeros(5, int)}, "6 samples and 5 labels"),
                          ([(samples(2), np.zeros(3, int))], "a batch of 2 with 3 targets")]:
        with pytest.raises((EvaluationError, CalibrationError), match=message):
            edgeq.evaluate(bundle, data=data, metric="top1")


def test_channels_last_is_scored_on_the_source_models_data(folder: Path) -> None:
    words: dict[str, Any] = {"target": "onnxruntime", "bits": 32}
    turned = edgeq.convert("net.onnx", **words, layout="nhwc", output="turned")
    plain = edgeq.convert("net.onnx", **words, output="plain")
    scores = [edgeq.evaluate(one, data="data.npz", metric="top1", reference="net.onnx") for one in (turned, plain)]
    assert scores[0] == scores[1]
    assert scores[0].score == pytest.approx(100 * 5 / 6)
