"""Rules about the repository itself that no linter knows."""
from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from edgeq.backend import backends, target_names

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


# The slim runtime carries no interpreter of Core ML packages; where the host package is installed, it finds that one.
UPWARD = {("runtime/edgeq_runtime/engines/coreml.py", "edgeq.verification.mlpackage")}


def imports_by_string(source: str) -> list[str]:
    """What a file's import_module calls are given, as far as it is text: "edgeq_converters.?" for an f-string."""
    tree = ast.parse(source)
    constants = {target.id: node.value.value for node in tree.body if isinstance(node, ast.Assign)
                 and isinstance(node.value, ast.Constant) for target in node.targets if isinstance(target, ast.Name)}

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        if isinstance(node, ast.FormattedValue):
            return text(node.value)
        return str(node.value if isinstance(node, ast.Constant) else constants.get(getattr(node, "id", ""), "?"))

    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args
             and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")]
    return [text(call.args[0]) for call in calls]


def test_no_string_imports_against_the_layers() -> None:
    """import-linter does not see what is imported by a name in a string; upwards, such a name hides a circle."""
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    floor = {room.strip(): -height for height, layer in enumerate(layers) for room in layer.split("|")}

    def height(module: str) -> int:
        return max((floor[room] for room in floor if f"{module}.".startswith(f"{room}.")), default=-len(layers))

    up, found = set(), 0
    for folder in ("edgeq", "converters/edgeq_converters", "runtime/edgeq_runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            here = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
            for name in imports_by_string(path.read_text(encoding="utf-8")):
                found += 1
                if name.startswith("edgeq") and height(name) > height(f"{Path(folder).name}.{here}"):
                    up.add((path.relative_to(ROOT).as_posix(), name))
    assert found > 3
    assert up == UPWARD


def test_a_string_import_would_be_noticed() -> None:
    assert imports_by_string('import importlib\nX = "edgeq.cli"\nimportlib.import_module(X)\n'
                             'm = import_module(f"edgeq_converters.{name}")') == ["edgeq.cli", "edgeq_converters.?"]


def circles(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """The first circle that is found, or nothing. imports: module -> what it imports."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as found:
        return list(found.args[1])
    return []


def test_no_two_modules_import_each_other() -> None:
    """Imports inside functions and for types alone count: they hide a circle and do not end it."""
    import grimp

    graph = grimp.build_graph("edgeq", "edgeq_converters", "edgeq_runtime", cache_dir=None)
    assert circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == []
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"]}) != []


ENGINES = {"ai_edge_litert", "coremltools", "tensorrt", "tflite_runtime", "edgeq_converters"}
# It reads Core ML's own messages, for the probe and where Core ML is not.
INTERPRETER = "edgeq/verification/mlpackage/schema.py"


def engine_names(code: str) -> list[str]:
    """Where code, not a text for people, names an engine: an import of one, or a word that is a target or a package.

    onnxruntime is also what this machine computes the references with, so that importing it says nothing.
    """
    words = {*target_names(), *(recipe.package for backend in backends() for recipe in backend.recipes), *ENGINES}
    words -= {"gguf"}  # models come in such files, too
    if not any(word in code for word in words):
        return []
    tree = ast.parse(code)
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    texts = [node.value for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in said]
    return [name for name in imported if name.partition(".")[0] in ENGINES] + [
        text for text in texts if words & set(re.split(r"[.:/]", text)) and "://" not in text]


def test_edgeq_names_no_engine() -> None:
    """A backend says all that is known of its engine (edgeq/backend.py)."""
    named = {path.relative_to(ROOT).as_posix(): names for path in sorted((ROOT / "edgeq").rglob("*.py"))
             if (names := engine_names(path.read_text(encoding="utf-8")))}
    assert {path: names for path, names in named.items() if path != INTERPRETER} == {}
    for planted in ("target == 'tflite'", "from edgeq_converters.coreml.ane import lint", "f('coremltools.models')"):
        assert engine_names(planted), planted


def test_every_room_has_its_floor() -> None:
    """What the contracts do not name, import-linter does not watch."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    down, _, apart, shared = settings["tool"]["importlinter"]["contracts"]
    named = {room.strip() for layer in down["layers"] for room in layer.split("|")}
    rooms = {f"edgeq.{path.stem}" for path in (ROOT / "edgeq").iterdir()
             if path.suffix == ".py" or (path / "__init__.py").is_file()} - {"edgeq.__init__"}
    assert rooms | {"edgeq_converters", "edgeq_runtime"} == named
    folders = (ROOT / "converters/edgeq_converters").glob("*/__init__.py")
    rooms = {f"edgeq_converters.{path.parent.name}" for path in folders}
    assert rooms == {*apart["modules"], *shared["source_modules"]}
    assert apart["modules"] == shared["forbidden_modules"]


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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [target for target in target_names() if f"`{target}`" not in readme] == []


def test_the_sample_stays_small() -> None:
    assert (ROOT / "samples/digits/digits.onnx").stat().st_size < 1_000_000
