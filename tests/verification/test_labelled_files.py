"""Evaluation data as folders of classes and as CSV: which class a file is of, what is refused, and the score."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

import edgeq
from edgeq.cli import main
from edgeq.errors import EdgeqError, EvaluationError
from edgeq.quant.feeds import InputSpec
from edgeq.verification.evaluate import labelled_data
from edgeq.verification.labelled_files import labelled_files

SPECS = {"x": InputSpec("float32", (1, 3))}


def echo(feed: Any) -> dict[str, np.ndarray]:
    return {"y": feed["x"]}


def write(root: Path, *files: str, **texts: str) -> Path:
    """One sample of scores (1, 0, 0) in each .npy, one pixel in each .png; texts: of CSVs, by name. -> root"""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            pytest.importorskip("PIL.Image").new("RGB", (1, 1)).save(root / name)
        elif name.endswith(".npy"):
            np.save(root / name, np.eye(1, 3, dtype=np.float32))
        else:
            (root / name).write_text("")
    for name, text in texts.items():
        (root / f"{name}.csv").write_bytes(text.encode())
    return root


FOUR = ("ant/1.npy", "ant/2.npy", "bee/3.npy", "cat/4.npy")
CSV = "file,label\nant/1.npy,{}\nbee/3.npy,{}\n"


@pytest.mark.parametrize(("of", "files", "csv", "labels", "classes"), [
    ("", (*FOUR, ".cache/5.npy", "notes.txt", "ant/notes.txt"), "", (), {"1": 0, "2": 0, "3": 1, "4": 2}),
    ("", FOUR, "", ("cat", "dog", "bee", "ant"), {"1": 3, "2": 3, "3": 2, "4": 0}),
    ("", ("08/1.npy", "09/2.npy", "10/3.npy"), "", (), {"1": 0, "2": 1, "3": 2}),
    ("rows.csv", FOUR, CSV.format(2, 0), (), {"1": 2, "3": 0}),
    ("rows.csv", FOUR, CSV.format("bee", 2), ("cat", "bee", "ant"), {"1": 1, "3": 2}),
    ("rows.csv", FOUR, CSV.format(1, 2), ("2", "1", "0"), {"1": 1, "3": 0}),  # a name, where it is one
    ("rows.csv", FOUR, "\ufeffid,file, label\n7, ant/1.npy, 2\n\n8,cat/4.npy,0\n", (), {"1": 2, "4": 0}),
], ids=["folders", "folders by labels", "numbered folders", "numbers", "names", "numbers as names", "spreadsheet"])
def test_the_class_of_a_file(tmp_path: Path, of: str, files: tuple[str, ...], csv: str, labels: tuple[str, ...],
                             classes: dict[str, int]) -> None:
    write(tmp_path, *files, **{"rows": csv} if csv else {})
    found = labelled_files(tmp_path / of)
    assert found is not None
    assert {row.file.stem: k for row, k in zip(found.rows, found.targets(labels), strict=True)} == classes
    share = 100 * sum(k == 0 for k in classes.values()) / len(classes)
    if len(labels) <= 3:
        assert labelled_data(tmp_path / of, "top1", labels=labels).open(SPECS).score(echo) == pytest.approx(share)


def test_classes_are_mixed(tmp_path: Path) -> None:
    """The first samples are of every class, and so is every third, which a search is kept from seeing."""
    found = labelled_files(write(tmp_path, *(f"{name}/{k}.npy" for name in "abc" for k in range(12))))
    assert found is not None
    classes = found.targets(())
    assert set(classes[:12]) == set(classes[2::3]) == {0, 1, 2}


WRONG: dict[str, tuple[str, tuple[str, ...], str, tuple[str, ...], str]] = {
    "an empty class": ("", (*FOUR, "dog/notes.txt"), "", (), r"the evaluation folder '.*': the class folder 'dog' "
                       r"holds no image"),
    "folders within": ("", ("train/ant/1.npy", "test/ant/2.npy"), "", (), r"the class folder 'test' holds folders"),
    "an unknown folder": ("", FOUR, "", ("ant", "bee", "dog"), r"folder 'cat': no label 'cat' among the 3 of --labels "
                          r"\(ant, bee, dog\)"),
    "a label twice": ("", FOUR, "", ("ant", "bee", "ant", "cat"), r"the label 'ant' is the name of several "
                      r"classes among --labels"),
    "too few folders": ("", ("ant/1.npy", "bee/2.npy"), "", (), r"has 2 class folders, and the model gives 3 scores"),
    "numbers as text": ("", ("2/1.npy", "10/2.npy", "3/3.npy"), "", (), r"its folders are numbers.*\(10, 2, 3"),
    "images unprepared": ("", ("ant/1.png",), "", (), r"the images of the evaluation folder '.*' need to become "
                          r"float32\[1,3\]; say how with --preprocess"),
    "no labels": ("", ("1.png",), "", (), r"the evaluation data '.*' hold no labels: give .*one subfolder for "
                  r"each class"),
    "nothing": ("absent", (), "", (), r"the evaluation data '.*absent' do not exist"),
    "an array among feeds": ("", ("1.npy",), "", (), r"1\.npy' cannot be read as labelled data"),
    "an unknown label": ("rows.csv", FOUR, CSV.format("ant", "bug"), ("ant", "bee", "cat", "dog"),
                         r"rows\.csv', line 3: no label 'bug' among the 4 of --labels \(ant, bee, cat, \.\.\.\)"),
    "a number too large": ("rows.csv", FOUR, CSV.format("ant", 3), ("ant", "bee", "cat"), r"line 3: no label '3'"),
    "a negative number": ("rows.csv", FOUR, CSV.format(-1, 0), (), r"line 2: the label '-1' is no number from 0"),
    "a name without labels": ("rows.csv", FOUR, CSV.format(0, "bee"), (), r"line 3: the label 'bee' is no number"
                              r".*needs --labels"),
    "a class that no score has": ("rows.csv", FOUR, CSV.format(0, 3), (), r"label 3 where the model has classes "
                                  r"0 to 2"),
    "a missing file": ("rows.csv", ("ant/1.npy",), CSV.format(0, 1), (), r"line 3: there is no file '.*3\.npy'"),
    "a file of another kind": ("rows.csv", ("1.txt",), "file,label\n1.txt,0\n", (), r"line 2: '.*1\.txt' is no image"),
    "half a row": ("rows.csv", FOUR, "file,label\nant/1.npy\n", (), r"line 2: a file or a label is missing"),
    "no rows": ("rows.csv", (), "file,label\n", (), r"the evaluation file '.*rows\.csv' holds no rows"),
    "another separator": ("rows.csv", (), "file;label\n1.npy;0\n", (), r"the first line is 'file;label'; it must name"),
    "no header": ("rows.csv", FOUR, "ant/1.npy,0\n", (), r"must name the columns file and label"),
    "not closed": ("rows.csv", (), 'file,label\n"1.npy,0\n', (), r"rows\.csv' cannot be read as CSV"),
    "kinds": ("", (*FOUR, "dog/1.png"), "", (), r"the evaluation folder '.*' holds arrays and images; separate them"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, case: str) -> None:
    of, files, csv, labels, message = WRONG[case]
    write(tmp_path, *files, **{"rows": csv} if csv else {})
    with pytest.raises(EdgeqError, match=message) as error:
        labelled_data(tmp_path / of, "top1", labels=labels).open(SPECS).score(echo)
    assert "\n" not in str(error.value)
    assert "calibration" not in str(error.value)


@pytest.mark.parametrize("data", [
    [({"x": np.zeros((1, 2), np.float32)}, 0)], {"x": np.zeros((4, 2), np.float32), "labels": np.zeros(4, int)},
], ids=["pairs", "dict"])
def test_data_in_memory_are_not_called_calibration(data: Any) -> None:
    with pytest.raises(EdgeqError, match=r"^the evaluation data.*the model takes float32"):
        labelled_data(data, "top1").open(SPECS).score(echo)


# A classifier of images, from its file to its score.

NAMES = ("wasp", "ant", "moth", "bee", "gnat", "fly", "bug")  # in the order of the scores: not that of the alphabet
EDGE, EACH = 6, 5


@pytest.fixture(scope="module")
def insects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx; images/NAME/*.png, noisy so that the network errs on some; rows.csv of the same files; steps.json."""
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the images")
    root, random = tmp_path_factory.mktemp("insects"), np.random.default_rng(0)
    patterns = random.uniform(0, 255, (len(NAMES), EDGE, EDGE, 3))
    weights = ((patterns / 255 - 0.5).transpose(3, 1, 2, 0).reshape(-1, len(NAMES))).astype(np.float32)
    net = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> net (float[1,3,6,6] image) => '
                                  "(float[1,7] y) { f = Flatten (image) y = MatMul (f, w) }")
    net.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(net, root / "net.onnx")
    (root / "steps.json").write_text(json.dumps({"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3}))
    (root / "labels.txt").write_text("\n".join(NAMES))
    rows = ["file,label"]
    for number, name in enumerate(NAMES):
        (root / "images" / name).mkdir(parents=True)
        for k in range(EACH):
            noisy = 0.12 * patterns[number] + 0.88 * random.uniform(0, 255, patterns[number].shape)
            image.fromarray(noisy.astype(np.uint8)).save(root / "images" / name / f"{k}.png")
            rows.append(f"images/{name}/{k}.png,{name if k % 2 else number}")
    (root / "rows.csv").write_text("\n".join(rows))
    return root


def expected(root: Path, names: tuple[str, ...], best: int) -> float:
    """The score in %, by onnxruntime and Pillow alone."""
    image = pytest.importorskip("PIL.Image")
    session = onnxruntime.InferenceSession(root / "net.onnx", providers=["CPUExecutionProvider"])
    hits = []
    for file in (root / "images").glob("*/*.png"):
        pixels = (np.asarray(image.open(file), np.float32) / 255 - 0.5) / 0.5
        (scores,) = session.run(None, {"image": pixels.transpose(2, 0, 1)[None]})[0]
        hits.append(file.parent.name in [names[k] for k in np.argsort(-scores)[:best]])
    assert len(hits) == len(NAMES) * EACH
    return 100 * float(np.mean(hits))


def run(*arguments: object) -> Any:
    """What a command prints as JSON."""
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_score_of_a_classifier(insects: Path, tmp_path: Path) -> None:
    top1, top5, sorted1 = (expected(insects, names, best) for names, best in (
        (NAMES, 1), (NAMES, 5), (tuple(sorted(NAMES)), 1)))
    assert len({0, 100, top1, top5, sorted1}) == 5  # each says something else
    words = ("convert", insects / "net.onnx", "--target", "onnxruntime", "--bits", 32, "--preprocess",
             insects / "steps.json", "--eval")
    named = run(*words, insects / "images", "--metric", "top1", "--labels", insects / "labels.txt", "-o",
                tmp_path / "named.edgeq")
    plain = run(*words, insects / "images", "--metric", "top1", "-o", tmp_path / "plain.edgeq")
    rows = run(*words, insects / "rows.csv", "--metric", "top5", "--labels", insects / "labels.txt", "-o",
               tmp_path / "rows.edgeq")
    assert [found[0]["evaluation"]["score"] for found in (named, plain, rows)] == pytest.approx([top1, sorted1, top5])
    evaluated = run("eval", tmp_path / "named.edgeq", "--data", insects / "rows.csv", "--metric", "top1",
                    "--reference", insects / "net.onnx")
    assert evaluated["score"] == evaluated["float_score"] == pytest.approx(top1)
    assert edgeq.evaluate(tmp_path / "named.edgeq", data=insects / "images", metric="top5").score == pytest.approx(top5)
    assert edgeq.evaluate(tmp_path / "plain.edgeq", data=str(insects / "images"), metric="sqnr",
                          reference=insects / "net.onnx").score > 100


def test_nothing_is_written_where_a_class_is_empty(insects: Path, tmp_path: Path) -> None:
    write(tmp_path, "data/ant/1.png", "data/bee/notes.txt")
    done = CliRunner().invoke(main, ["convert", str(insects / "net.onnx"), "--target", "onnxruntime", "--bits", "32",
                                     "--preprocess", str(insects / "steps.json"), "--eval", str(tmp_path / "data"),
                                     "--metric", "top1", "-o", str(tmp_path / "net.edgeq")])
    assert done.exit_code != 0
    assert "the class folder 'bee' holds no image" in done.stderr
    assert "calibration" not in done.stderr
    assert not (tmp_path / "net.edgeq").exists()


def test_a_bundle_without_preprocessing_takes_no_images(insects: Path, tmp_path: Path) -> None:
    bundle = edgeq.convert(insects / "net.onnx", target="onnxruntime", bits=32, output=tmp_path / "bare.edgeq")
    with pytest.raises(EdgeqError, match=r"the images of the evaluation folder .*--preprocess of edgeq convert"):
        edgeq.evaluate(bundle, data=insects / "images", metric="top1")
    with pytest.raises(EvaluationError, match="no label 'ant' among the 7 of --labels"):
        labelled_data(insects / "images", "top1", labels="abcdefg").open(
            {"image": InputSpec("float32", (1, 3, 6, 6))}, preprocess=lambda pixels: pixels)
