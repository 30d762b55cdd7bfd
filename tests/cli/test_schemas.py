"""docs/schemas against what the commands print: every key is described, and one more or less is noticed."""
from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from edgeq.boards.cache import Forgotten
from edgeq.boards.facts import Facts
from edgeq.boards.runner import Found
from edgeq.cli import main
from edgeq.conversion.evaluate_language import LanguageScore, TaskCounts
from edgeq.verification.language import Divergence
from edgeq_runtime.__main__ import _parser
from edgeq_runtime.__main__ import main as runtime_main
from edgeq_runtime.language.generation import Generation
from edgeq_runtime.language.speech import Segment, Transcript
from edgeq_runtime.manifest import FORMAT, Manifest
from edgeq_runtime.valid_json import json_text

jsonschema = pytest.importorskip("jsonschema", reason="of edgeq[decoder]")
ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "samples/digits"
SCHEMAS = ROOT / "docs/schemas"
OUTPUTS, MANIFEST = (json.loads((SCHEMAS / name).read_text()) for name in ("edgeq-1.json", "manifest.json"))
MODEL, SAMPLES = str(DIGITS / "digits.onnx"), str(DIGITS / "calibration.npz")
BUNDLE = "made/digits.onnxruntime.edgeq"
FACTS = Facts("/tmp", "aarch64", "Linux", "3.11.2", "cp311", "glibc 2.36", features=("asimd",), packages={"numpy": "2"})

# What each command is called with; in this order, in one folder.
CALLS: list[tuple[str, str]] = [
    ("convert", f"{MODEL} --target onnxruntime --target tflite --calibration {SAMPLES} --postprocess classify -o made"),
    ("convert", f"{MODEL} --target tflite --bits 4 --dry-run --latency"),
    ("inspect", MODEL), ("inspect", BUNDLE),
    ("analyze", f"{MODEL} --calibration {SAMPLES} --samples 8"),
    ("analyze", f"{MODEL} --calibration {SAMPLES} --samples 8 --top 1 --eval labelled.npz --metric top1"),
    ("estimate", MODEL), ("targets", ""), ("doctor", ""),
    ("verify", BUNDLE), ("verify", f"{BUNDLE} --reference {MODEL} --layers"),
    ("eval", f"{BUNDLE} --data labelled.npz --metric top1 --reference {MODEL}"),
    ("run", f"{BUNDLE} --input image.npy"), ("benchmark", f"{BUNDLE} --runs 2"),
    ("pack", f"{BUNDLE} -o one.zip"), ("unpack", "one.zip -o again.edgeq"),
    ("pack", "made/digits.tflite.edgeq --c-array -o made/array"),
    ("board add", "shelf ssh://pi@shelf.local"), ("board list", ""), ("board remove", "shelf"),
    ("runtime self-test", BUNDLE), ("runtime run", f"{BUNDLE} --input image.npy"),
    ("runtime benchmark", f"{BUNDLE} --runs 2 --warmup 1"),
    ("runtime install", "one.zip installed"),
]
# What wants a board, a key or a language model, as their classes write it.
MADE: list[tuple[str, Any]] = [
    ("test", [{"board": "a", "address": "ssh://a", "emulated": False, **Found(FACTS, "x 1", "CPU").to_json()},
              {"board": "b", "address": "ssh://b", "emulated": False, "ok": False, "error": "no route"}]),
    ("board info", FACTS.to_json()),
    ("board refresh", [asdict(Forgotten("wheels", 1, 2, 3))]),
    ("generate", asdict(Generation("Yes", (1, 2), "stop", 3, 0, 0.1, None))),
    ("embed", {"vectors": [[.5, .5]], "cosines": [[1.0]]}),
    ("translate", ["Guten Morgen"]),
    ("transcribe", asdict(Transcript("Yes", (Segment(0.0, 1.5, "Yes"),)))),
    ("eval", LanguageScore((), Divergence(.1, .2, 1.0), (TaskCounts("choice", 2, 1),), ("lost",)).to_json()),
]


def errors(name: str, data: Any) -> list[str]:
    schema = {**OUTPUTS, "$ref": f"#/$defs/{name}"}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(data)]


def strict(text: str) -> Any:
    """JSON, without Python's NaN and Infinity."""
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[str, Any]]]:
    """(command, what it printed) of every call."""
    folder = tmp_path_factory.mktemp("schemas")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        patch.setenv("HOME", str(folder))
        with np.load(DIGITS / "test.npz") as test:
            np.save("image.npy", test["image"][:1])
            np.savez("labelled.npz", image=test["image"][:16], labels=test["label"][:16])
        yield [*((name, strict(output(name, arguments))) for name, arguments in CALLS),
               *((name, strict(json_text(data))) for name, data in MADE)]


def output(name: str, arguments: str) -> str:
    words = [*name.split(), *arguments.split(), "--json"]
    if words[0] == "runtime":
        command, first, *rest = words[1:]
        order = [command, first, *rest] if command == "install" else [first, command, *rest]
        result = CliRunner().invoke(click.Command("runtime", callback=lambda: runtime_main(order)))
    else:
        result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.stdout


def test_what_is_printed_is_what_the_schema_says(printed: list[tuple[str, Any]]) -> None:
    assert {f"{name}: {error}" for name, data in printed for error in errors(name, data)} == set()


def test_a_key_more_or_less_is_noticed(printed: list[tuple[str, Any]]) -> None:
    """The planted error: in what every command prints, but for lists and objects of any names."""
    loose = {"board list", "runtime run", "inspect", "translate"}
    for name, data in printed:
        row = data[0] if isinstance(data, list) else data
        if name in loose:
            continue
        less, more = copy.deepcopy(data), copy.deepcopy(data)
        (less[0] if isinstance(data, list) else less).pop(next(iter(row)))
        (more[0] if isinstance(data, list) else more)["news"] = 1
        assert errors(name, less), name
        assert errors(name, more), name


def test_every_command_has_a_schema() -> None:
    def commands(group: click.Group, before: str = "") -> Iterator[str]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from commands(command, f"{before}{name} ")
            elif any(option.name == "as_json" for option in command.params):
                yield before + name

    assert isinstance(main, click.Group)
    runtime = next(action.choices for action in _parser()._actions if isinstance(action.choices, dict))
    with_json = {f"runtime {name}" for name in runtime if name not in ("chat", "serve")}
    assert set(OUTPUTS["$defs"]) >= {*commands(main), *with_json, "runtime install", "runtime rollback"}


def test_manifest_and_report(printed: list[tuple[str, Any]]) -> None:
    manifest = strict(Path(BUNDLE, "manifest.json").read_text())
    check = jsonschema.Draft202012Validator(MANIFEST)
    assert not [error.message for error in check.iter_errors(manifest)]
    assert not errors("convert", [{"path": BUNDLE, "bytes": 1, **strict(Path(BUNDLE, "report.json").read_text())}])
    assert not check.is_valid({**manifest, "news": 1})
    assert not check.is_valid({**manifest, "format": FORMAT + 1})
    assert {field.name for field in fields(Manifest)} == set(MANIFEST["properties"])


@pytest.mark.parametrize(("number", "written"), [(float("nan"), None), (float("-inf"), None), (1.5, 1.5)], ids=str)
def test_json_holds_no_nan(number: float, written: float | None) -> None:
    assert strict(json_text({"a": [number, (number,)]})) == {"a": [written, [written]]}
