"""Rules about the repository itself that no linter knows."""
from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 500  # lines; a file near it wants to be two
FOLDERS = ("edgeq", "converters", "runtime", "tests", "samples", "benchmarks")


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded because of ``code``, without the standard library."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    return {name for name in loaded if name not in sys.stdlib_module_names}


HELP = """
from edgeq.cli import main
try:
    main({})
except SystemExit as stop:
    assert not stop.code, stop.code
"""


@pytest.mark.parametrize("command", [["--help"], ["convert", "--help"]], ids=" ".join)
def test_help_answers_without_the_heavy_libraries(command: list[str]) -> None:
    loaded = modules_after(HELP.format(command))
    assert not loaded & {"coremltools", "torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "ai_edge_litert",
                         "boost_histogram", "numpy", "ml_dtypes", "PIL"}


def test_import_edgeq_loads_nothing_else() -> None:
    assert modules_after("import edgeq") == {"edgeq"}


def test_the_runtime_needs_numpy_only() -> None:
    assert modules_after("import edgeq_runtime, edgeq_runtime.__main__") == {"edgeq_runtime", "numpy"}


def test_a_heavy_import_would_be_noticed() -> None:
    assert "onnx" in modules_after("import onnx")


def test_no_file_is_too_long() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
             for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
    assert len(sizes) > 50
    assert {path: lines for path, lines in sizes.items() if lines > LIMIT} == {}


def test_imports_go_down() -> None:
    """The contracts of pyproject.toml, as import-linter reads them."""
    done = subprocess.run([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_has_its_floor() -> None:
    """What the contracts do not name, import-linter does not watch."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    down, _, apart = settings["tool"]["importlinter"]["contracts"]
    named = {room.strip() for layer in down["layers"] for room in layer.split("|")}
    rooms = {f"edgeq.{path.stem}" for path in (ROOT / "edgeq").iterdir()
             if path.suffix == ".py" or (path / "__init__.py").is_file()} - {"edgeq.__init__"}
    assert rooms | {"edgeq_converters", "edgeq_runtime"} == named
    backends = (ROOT / "converters/edgeq_converters").glob("*/__init__.py")
    assert {f"edgeq_converters.{path.parent.name}" for path in backends} == set(apart["modules"])


def test_onnxruntime_is_opened_in_one_place() -> None:
    """So that its options and work-arounds are the same for all; the runtime has its own, for devices."""
    opened = [path.relative_to(ROOT).as_posix() for folder in ("edgeq", "converters") for path in
              (ROOT / folder).rglob("*.py") if "InferenceSession(" in path.read_text(encoding="utf-8")]
    assert opened == ["edgeq/inference/session.py"]


def test_what_is_committed_names_no_machine() -> None:
    """Nobody's home or checkout folder: neither in text nor inside the model files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    here = [os.fsencode(path) for path in {str(ROOT), str(Path.home())} if len(path) > 1]
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert len(files) > 50
    assert [path.name for path in files if any(place + b"/" in path.read_bytes() for place in here)] == []


def test_the_readme_knows_every_target() -> None:
    from edgeq.backend import target_names

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [target for target in target_names() if f"`{target}`" not in readme] == []


def test_the_sample_stays_small() -> None:
    assert (ROOT / "samples/digits/digits.onnx").stat().st_size < 1_000_000
