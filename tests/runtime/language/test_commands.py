"""generate, chat and serve, from both command lines."""
from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeq.cli import main
from edgeq.cli.language import FLAGS
from edgeq_runtime import InputError, Model
from edgeq_runtime.__main__ import main as device
from edgeq_runtime.language import commands
from edgeq_runtime.language.commands import Screen, shown
from edgeq_runtime.manifest import FILE_NAME


def edgeq(*words: Any, typed: str = "") -> tuple[int, str, str]:
    found = CliRunner().invoke(main, [str(word) for word in words], input=typed)
    return found.exit_code, found.stdout, found.stderr


@pytest.fixture
def without_template(language_bundle: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(language_bundle, tmp_path / "plain.edgeq")
    words = json.loads((folder / FILE_NAME).read_text())
    words["language"]["template"] = ""
    (folder / FILE_NAME).write_text(json.dumps(words))
    return folder


def test_generate(language_bundle: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    expected = model.generate([{"role": "system", "content": "Be"}, {"role": "user", "content": "Hi"}], max_tokens=9,
                              stream=False)
    words = ("generate", "Hi", "--system", "Be", "--max-tokens", "9")
    code, out, err = edgeq("generate", language_bundle, *words[1:])
    assert (code, out) == (0, shown(expected.text) + "\n")
    assert err.startswith(f"[length: 9 tokens behind {expected.prompt_tokens} (0 cached), first after")
    code, out, _ = edgeq("generate", language_bundle, *words[1:], "--json")
    assert json.loads(out)["text"] == expected.text
    assert device([str(language_bundle), *words]) == 0
    assert capsys.readouterr().out == shown(expected.text) + "\n"
    assert device([str(language_bundle), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == list(expected.tokens)
    raw = model.generate("Hi", max_tokens=9, stream=False)
    assert edgeq("generate", language_bundle, "Hi", "--raw", "--max-tokens", 9)[1] == shown(raw.text) + "\n"


def test_generate_without_a_template(without_template: Path, model: Model) -> None:
    code, out, err = edgeq("generate", without_template, "Hi", "--max-tokens", 9)
    assert (code, out) == (0, shown(model.generate("Hi", max_tokens=9, stream=False).text) + "\n")
    assert "this model has no chat template: the prompt is continued as it stands" in err


def test_json_schema_of_a_file(language_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance", reason="part of edgeq[json]")
    (tmp_path / "schema.json").write_text('{"enum": ["yes", "no"]}')
    code, out, _ = edgeq("generate", language_bundle, "Hi", "--json-schema", tmp_path / "schema.json")
    assert (code, out.strip() in ('"yes"', '"no"')) == (0, True)


def _no_language(folder: Path) -> None:
    words = json.loads((folder / FILE_NAME).read_text())
    words.update(language=None, format=3)
    (folder / FILE_NAME).write_text(json.dumps(words))


def _no_tokenizer(folder: Path) -> None:
    words = json.loads((folder / FILE_NAME).read_text())
    words["files"] = [entry for entry in words["files"] if entry["path"] != "tokenizer.json"]
    words["language"]["tokenizer"] = "chat_template.jinja"
    (folder / FILE_NAME).write_text(json.dumps(words))


@pytest.mark.parametrize(("edit", "words", "message"), [
    (None, ("generate", ""), "the prompt is empty"), (None, ("generate", "Hi", "--top-p", "3"), "top_p must be"),
    (None, ("generate", "x " * 200), "the context holds 96"),
    (None, ("generate", "Hi", "--stop", ""), "none empty"),
    (None, ("generate", "Hi", "--json-schema", "nowhere.json"), "cannot read the JSON schema nowhere.json"),
    (None, ("generate", "Hi", "--raw", "--system", "x"), "leave out --raw"),
    (None, ("serve", "--host", "203.0.113.1"), "cannot listen on 203.0.113.1"),
    (_no_language, ("generate", "Hi"), "is no language model"), (_no_language, ("chat",), "is no language model"),
    (_no_tokenizer, ("generate", "Hi"), "chat_template.jinja is damaged"),
    (lambda folder: (folder / "tokenizer.json").unlink(), ("generate", "Hi"), "tokenizer.json"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), ("serve",), "tokenizer.json"),
], ids=lambda value: getattr(value, "__name__", str(value)))
def test_bad_input_is_one_message(edit: Callable[[Path], None] | None, words: tuple[str, ...], message: str,
                                  language_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(language_bundle, tmp_path / "it.edgeq")
    if edit is not None:
        edit(folder)
    code, out, err = edgeq(words[0], folder, *words[1:])
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert "bug in edgeq" not in err
    assert device([str(folder), *words]) == 1
    assert message in capsys.readouterr().err


class Talk:
    """Somebody at a terminal: lines that are typed, and what is seen."""

    def __init__(self, *lines: str) -> None:
        self.lines: Iterator[str] = iter(lines)
        self.seen: list[str] = []
        self.notes: list[str] = []
        self.interrupt = False

    def screen(self) -> Screen:
        return Screen(self.show, self.notes.append, self.ask)

    def show(self, text: str) -> None:
        self.seen.append(text)
        if self.interrupt:
            self.interrupt = False
            os.kill(os.getpid(), signal.SIGINT)

    def ask(self, prompt: str) -> str:
        line = next(self.lines, None)
        if line is None:
            raise EOFError
        self.interrupt = line == "interrupt me"
        return line


def test_chat(model: Model) -> None:
    talk = Talk("Hi", "", "and?", "/reset", "Hi", "/exit", "never")
    commands.chat(model.language, talk.screen(), max_tokens=5)
    one = model.generate([{"role": "user", "content": "Hi"}], max_tokens=5, stream=False).text
    two = model.generate([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": one},
                          {"role": "user", "content": "and?"}], max_tokens=5, stream=False).text
    assert "".join(talk.seen) == f"{one}\n{two}\n{one}\n"
    assert [note.partition(":")[0] for note in talk.notes[1:]] == ["[length", "[length", "forgotten", "[length"]


def test_an_interrupt_ends_the_answer_and_not_the_dialogue(model: Model) -> None:
    before = signal.getsignal(signal.SIGINT)
    talk = Talk("interrupt me", "Hi")
    commands.chat(model.language, talk.screen(), max_tokens=30)
    first, second = (note.partition(":")[0] for note in talk.notes[1:])
    assert first == "[cancelled"
    assert second in ("[length", "[stop")
    assert "".join(talk.seen).endswith("\n\n")  # the input has ended, and its line too
    assert signal.getsignal(signal.SIGINT) is before


def test_a_dialogue_that_is_full_goes_on(model: Model) -> None:
    talk = Talk("word " * 100, "Hi", "/exit")
    commands.chat(model.language, talk.screen(), max_tokens=5)
    assert talk.notes[1].startswith("error: the prompt has")
    assert talk.notes[1].endswith("/reset forgets the dialogue")
    assert talk.notes[2].startswith("[length: 5")


def test_no_chat_without_a_template(without_template: Path) -> None:
    code, _, err = edgeq("chat", without_template)
    assert (code, "no chat template, so that it cannot be talked to" in err) == (1, True)


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert shown("a\x1b[2Jb\r\n\tc\x9b\x7f") == "a\\x1b[2Jb\\r\n\tc\\x9b\\x7f"
    assert shown("👩\u200d👧 é") == "👩\u200d👧 é"


def test_both_command_lines_have_the_same_flags() -> None:
    assert [flag[:2] for flag in FLAGS] == [flag[:2] for flag in commands.FLAGS]


def test_serve_until_it_is_interrupted(language_bundle: Path) -> None:
    program = [sys.executable, "-m", "edgeq_runtime", str(language_bundle), "serve", "--port", "0"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("'tiny' at http://127.0.0.1:")
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/v1/models")
        assert json.loads(connection.getresponse().read())["data"][0]["id"] == "tiny"
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_an_address_that_others_reach_is_said(model: Model) -> None:
    talk = Talk()
    commands.serving(model.language, "tiny.edgeq", talk.screen(), "0.0.0.0", 0).server_close()
    assert "neither keys nor encryption" in talk.notes[-1]
    with pytest.raises(InputError, match="cannot listen"):
        commands.serving(model.language, "x", talk.screen(), "203.0.113.1", 0)
