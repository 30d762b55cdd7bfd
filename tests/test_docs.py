"""The documents: snippets that can run are run, error messages are those of the source."""
from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from javascript import MODULES, javascript, needs_node

from edgeq import convert

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DIGITS = ROOT / "samples/digits"
ORT_INCLUDE = os.environ.get("ORT_INCLUDE", "/usr/include/onnxruntime")


def snippets(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def ran(words: list[str | Path], folder: Path) -> str:
    """stdout. edgeq is found as in the environment that runs this."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                   "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    shutil.copytree(DIGITS, tmp_path / "samples/digits", ignore=shutil.ignore_patterns("bundles"))
    return tmp_path


def test_the_tutorial_word_for_word(checkout: Path) -> None:
    said = ran(["bash", "-e", "-c", "".join(snippets("tutorial.md", "sh"))], checkout)
    assert "wrote digits.edgeq" in said
    assert "passed" in said
    assert {path.name for path in (checkout / "digits.edgeq").iterdir()} == {
        "model.tflite", "manifest.json", "selftest.npz", "report.html", "report.json"}
    [code] = snippets("tutorial.md", "python")
    assert ran([sys.executable, "-c", code], checkout) == "pass (2 samples)\na 6\n"


@pytest.mark.full
@pytest.mark.parametrize(("word", "package"), [("torch", "torch"), ("skl2onnx", "skl2onnx")])
def test_your_model(word: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    [code] = [code for code in snippets("your-model.md", "python") if word in code]
    ran([sys.executable, "-W", "ignore", "-c", code], tmp_path)
    if package == "skl2onnx":
        ran(["edgeq", "convert", "model.onnx", "--target", "tflite", "--calibration", "samples.npz"], tmp_path)


@pytest.fixture
def zeros(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A bundle of the digits for ONNX Runtime, and its logits for a black image."""
    bundle = convert(DIGITS / "digits.onnx", target="onnxruntime", calibration=DIGITS / "calibration.npz",
                     output=tmp_path / "digits.edgeq")
    logits = bundle.run({"image": np.zeros((1, 1, 8, 8), np.float32)})["logits"]
    return bundle.path / "model.onnx", logits.ravel()


@pytest.mark.full
@pytest.mark.skipif(not (Path(ORT_INCLUDE) / "onnxruntime_c_api.h").is_file() or not shutil.which("g++"),
                    reason="no headers of onnxruntime: name their folder with ORT_INCLUDE")
def test_cpp(zeros: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    import onnxruntime

    code = next(code for code in snippets("files.md", "cpp") if "OrtApi" in code)
    (tmp_path / "digits.cpp").write_text(code)
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    ran(["g++", "-Wall", "-Werror", f"-I{ORT_INCLUDE}", "digits.cpp", tmp_path / "libonnxruntime.so.1", "-o", "digits",
         f"-Wl,-rpath,{tmp_path}"], tmp_path)
    found = np.array(ran([tmp_path / "digits", zeros[0]], tmp_path).split(), np.float32)
    np.testing.assert_allclose(found, zeros[1], rtol=1e-5)


@pytest.mark.full
@needs_node
def test_javascript(zeros: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    assert (MODULES / "onnxruntime-web").is_dir()
    [code] = snippets("files.md", "js")
    body = re.sub(r"^import .*\n", "", code).replace("console.log(logits.data)", "return Array.from(logits.data)")
    opening = 'const {readFile} = await import("node:fs/promises"); const model = await readFile(given);'
    found = javascript(tmp_path, f"{opening} const pixels = new Float32Array(64); {body}", str(zeros[0]))["found"]
    np.testing.assert_allclose(found, zeros[1], rtol=1e-5)


def test_every_page_is_in_the_site() -> None:
    """`make docs` checks links; a page that nobody lists would only be noticed there."""
    listed = set(re.findall(r": ([a-z-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {path.name for path in DOCS.glob("*.md")}


@cache
def said_in_the_source() -> str:
    """All texts of the packages; what an f-string fills in is "…"."""
    texts: list[str] = []
    for folder in ("edgeq", "converters", "runtime/edgeq_runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def is_said(message: str) -> bool:
    """Whether the source says it, in one text, with anything for "…"."""
    pattern = "[^\n]*?".join(map(re.escape, message.strip("…").split("…")))
    return re.search(pattern, said_in_the_source()) is not None


def test_every_error_message_is_one_of_ours() -> None:
    messages = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) > 15
    assert [message for message in messages if not is_said(message)] == []
    assert not is_said("the artifact does compute what the quantized graph computes")


def test_two_packages_of_one_module_are_told(tmp_path: Path) -> None:
    def warning() -> str:
        done = subprocess.run([sys.executable, "-c", "import edgeq"], text=True, capture_output=True, check=True,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
        return done.stderr

    assert warning() == ""
    (tmp_path / "edgeq_runtime-0.1.0.dist-info").mkdir()
    (tmp_path / "edgeq_runtime-0.1.0.dist-info/METADATA").write_text("Name: edgeq-runtime\nVersion: 0.1.0\n")
    assert "edgeq and edgeq-runtime are both installed here" in warning()
