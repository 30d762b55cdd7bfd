"""Every case of bad input: its exit code, one clear message, nothing written, nothing changed."""
from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import pytest
from cli.badinput import BUNDLE, CASES, Case, convert, network
from click.testing import CliRunner

from edgeq.bundle.folder import sha256
from edgeq.cli import main


@pytest.fixture(scope="module")
def good_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    onnx.save(network(), folder / "net.onnx")
    result = CliRunner().invoke(main, convert(str(folder / "net.onnx"), "-o", str(folder / BUNDLE)))
    assert result.exit_code == 0, result.output
    return folder / BUNDLE


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): sha256(file) if file.is_file() else "" for file in folder.rglob("*")}


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{kind}: {case.name}")
                                  for kind, cases in CASES.items() for case in cases])
def test_one_clear_message_and_no_output(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         request: pytest.FixtureRequest) -> None:
    if case.needs_bundle:
        shutil.copytree(request.getfixturevalue("good_bundle"), tmp_path / BUNDLE)
    monkeypatch.chdir(tmp_path)
    arguments = case.prepare(tmp_path)
    before = contents(tmp_path)

    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == case.code, result.output
    assert re.search(case.message, result.stderr, re.DOTALL), result.stderr
    assert "bug in edgeq" not in result.stderr
    assert result.stdout == ""
    assert contents(tmp_path) == before


def edgeq(folder: Path, *arguments: str, before: str = "", limit: int | None = None,
          ) -> subprocess.CompletedProcess[str]:
    """Run edgeq in a process of its own. before: Python that runs first. limit: the largest file that it may write."""
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    program = f"{textwrap.dedent(before)}\nfrom edgeq.cli import main\nmain()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", program, *arguments], cwd=folder, env=environment, capture_output=True,
                          text=True, check=False, timeout=120, preexec_fn=restrict)


@pytest.mark.parametrize(("package", "arguments", "extra"), [
    ("ai_edge_litert", ["convert", "net.onnx", "--target", "tflite"], "tflite"),
    ("coremltools", ["convert", "net.onnx", "--target", "coreml"], "coreml"),
    ("torch", ["convert", "net.pt2", "--target", "onnxruntime"], "torch"),
    ("torch", ["convert", "module:function", "--target", "onnxruntime"], "torch"),
])
def test_a_missing_extra_is_one_line_that_names_the_command(tmp_path: Path, package: str, arguments: list[str],
                                                            extra: str) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    (tmp_path / "net.pt2").touch()
    before = contents(tmp_path)
    result = edgeq(tmp_path, *arguments, before=f"import sys; sys.modules[{package!r}] = None")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"error: .*pip install 'edgeq\[{extra}\]'\n", result.stderr), result.stderr
    assert contents(tmp_path) == before


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stops the same calls in the same places."""
    onnx.save(network(), tmp_path / "net.onnx")
    result = edgeq(tmp_path, *convert("net.onnx", "-o", "out.edgeq"), limit=1000)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"error: cannot write out\.edgeq: File too large; .* -o\n", result.stderr), result.stderr
    assert contents(tmp_path).keys() == {"net.onnx"}


KILL = """
    import os, signal
    from pathlib import Path
    import edgeq_runtime.selftest
    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    import edgeq.conversion.pipeline
    edgeq.conversion.pipeline.write_selftest = kill
"""


def test_a_kill_in_the_middle(tmp_path: Path, good_bundle: Path) -> None:
    """The artifact is written, the bundle is not: the old one stays, and the next run removes the draft."""
    shutil.copytree(good_bundle, tmp_path / BUNDLE)
    onnx.save(network(), tmp_path / "net.onnx")
    old = contents(tmp_path / BUNDLE)

    killed = edgeq(tmp_path, *convert("net.onnx", "-o", BUNDLE, "--force"), before=KILL)
    assert killed.returncode == -signal.SIGKILL
    assert contents(tmp_path / BUNDLE) == old
    visible = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert visible == {"net.onnx", BUNDLE}
    drafts = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(drafts) == 1
    assert (drafts[0] / "model.onnx").is_file()  # or the kill came too early to prove anything

    again = edgeq(tmp_path, *convert("net.onnx", "-o", BUNDLE, "--force"))
    assert again.returncode == 0, again.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", BUNDLE}
