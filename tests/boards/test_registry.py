"""Names, addresses and the commands on them."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards.local import Local, UseWheel
from cli.badinput import samples
from click.testing import CliRunner, Result

from edgeq.boards.addresses import Adb, Address, EmulatedAs, Ssh, parse_address
from edgeq.boards.profiles import EMULATED
from edgeq.boards.wheels import choose_packages
from edgeq.cli import main
from edgeq.errors import BoardError, UsageError


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The registry, which must not be the user's."""
    monkeypatch.setattr("edgeq.boards.registry.registry_file", lambda: tmp_path / "config" / "boards.json")
    return tmp_path / "config" / "boards.json"


def edgeq(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result


def reply(*arguments: str) -> Any:
    return json.loads(edgeq(*arguments, "--json").stdout)


@pytest.mark.parametrize(("text", "address"), [
    ("ssh://pi@raspberrypi.local:2222", Ssh("raspberrypi.local", "pi", 2222)),
    ("ssh://Jetson", Ssh("Jetson")),
    ("ssh://root@[fe80::1%eth0]:22/", Ssh("fe80::1%eth0", "root", 22)),
    ("adb:192.168.0.7:5555", Adb("192.168.0.7:5555")),
    ("emulated:pi4", EmulatedAs("pi4")),
])
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["ssh://pi:secret@host", "ssh://-oProxyCommand=reboot", "ssh://host/path", "adb:",
                                  "adb:-s", "emulated:pi9", "serial:/dev/ttyUSB0", "ssh://-l@host", "ssh://host:x"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_add_list_remove(file: Path) -> None:
    edgeq("board", "add", "kitchen", "ssh://pi@kitchen")
    edgeq("board", "add", "phone", "adb:R5CT", "--python", "/data/python3")
    assert json.loads(file.read_text())["phone"] == {"address": "adb:R5CT", "python": "/data/python3"}
    listed = [row["board"] for row in reply("board", "list")]
    assert listed == ["kitchen", "phone", *(f"emulated:{name}" for name in EMULATED)]
    edgeq("board", "remove", "kitchen")
    assert "kitchen" not in edgeq("board", "list").stdout
    assert "there is no board 'kitchen'; there are phone" in edgeq("board", "remove", "kitchen", code=2).stderr


@pytest.mark.parametrize(("arguments", "message"), [
    (["board", "add", "a/b", "ssh://host"], "'a/b' is no name for a board"),
    (["board", "add", "twice", "ssh://other"], "the board 'twice' is ssh://host: edgeq board remove twice first"),
    (["board", "add", "new", "telnet://host"], "write ssh://user@host[:port], adb:SERIAL or emulated:NAME"),
    (["board", "info", "nobody"], "there is no board 'nobody' (there are twice): edgeq board add nobody ADDRESS"),
])
def test_refuses(arguments: list[str], message: str) -> None:
    edgeq("board", "add", "twice", "ssh://host")
    assert message in edgeq(*arguments, code=2).stderr


def test_a_damaged_file_is_named(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"x": 3}')
    assert f"{file} cannot be read" in edgeq("board", "list", code=1).stderr


# -- the commands, with a board that is this machine -------------------------------------------------------------------

@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, local: Local) -> None:
    """Every board is this machine, but for one that cannot be reached."""
    def connect(board: Any) -> Local:
        if board.name == "away":
            raise BoardError("ssh cannot use away: No route to host (is it switched on, and on this network?)")
        return local

    monkeypatch.setattr("edgeq.boards.board.Board.connect", connect)
    for name in ("one", "two", "away"):
        edgeq("board", "add", name, f"ssh://{name}")


@pytest.mark.usefixtures("here")
def test_info_and_clean(cache: Path) -> None:
    assert reply("board", "info", "one")["root"] == str(cache / "edgeq-board")
    assert "numpy" in edgeq("board", "info", "one").stdout
    edgeq("board", "clean", "one")
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("here")
def test_tests_on_several_boards(bundle: Path) -> None:
    rows = reply("test", str(bundle), "--board", "one", "--board", "two", "--board", "one", "--engine", "installed")
    assert [(row["board"], row["ok"], row["self_test"]["status"]) for row in rows] == [
        ("one", True, "pass"), ("two", True, "pass")]


@pytest.mark.usefixtures("here")
def test_tells_the_age_of_an_engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "test", str(bundle), "--board", "one", "--engine", "installed"
    assert "days ago" not in edgeq(*arguments).stdout
    monkeypatch.setattr("edgeq.boards.runner.choose_packages", lambda *words: replace(choose_packages(*words),
                                                                                      age_days=63))
    assert "was the newest 63 days ago; `edgeq board refresh`" in edgeq(*arguments).stdout


def test_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "nothing was fetched yet" in edgeq("board", "refresh").stdout
    (tmp_path / "edgeq" / "sysroot" / "bookworm-arm64").mkdir(parents=True)
    (tmp_path / "edgeq" / "home").mkdir()
    assert "forgot sysroot: 1, " in edgeq("board", "refresh").stdout
    assert [folder.name for folder in (tmp_path / "edgeq").iterdir()] == ["home"]


@pytest.mark.usefixtures("here")
def test_one_board_that_fails_does_not_hide_the_others(bundle: Path) -> None:
    result = edgeq("test", str(bundle), "--board", "one", "--board", "away", "--engine", "installed", code=1)
    assert "pass" in result.stdout
    assert "away: ssh cannot use away: No route to host" in result.stdout


@pytest.mark.usefixtures("here")
def test_benchmarks_there(bundle: Path) -> None:
    arguments = "benchmark", str(bundle), "--board", "one", "--runs", "2", "--engine", "installed"
    assert reply(*arguments)[0]["benchmark"]["runs"] == 2
    assert "p99 ms" in edgeq(*arguments).stdout


@pytest.fixture
def image(tmp_path: Path) -> str:
    np.save(tmp_path / "image.npy", samples(1), allow_pickle=False)
    return str(tmp_path / "image.npy")


@pytest.mark.usefixtures("here")
def test_runs_there(bundle: Path, image: str) -> None:
    arguments = "run", str(bundle), "--input", image
    there = reply(*arguments, "--board", "one", "--engine", "installed")
    assert there["outputs"] == reply(*arguments)["outputs"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("options", "message"), [
    (["--engine", "ai-edge-litert==2.3.0"], "this bundle runs on onnxruntime there"),
    (["--timeout", "1"], "not done within 1 s (--timeout gives it more)"),
])
@pytest.mark.parametrize("command", ["run", "test", "benchmark"])
def test_every_command_passes_engine_and_timeout_on(bundle: Path, image: str, use_wheel: UseWheel, command: str,
                                                    options: list[str], message: str) -> None:
    use_wheel({"onnxruntime.py": "import time\ntime.sleep(60)"})
    words = [command, str(bundle), *(["--input", image] if command == "run" else []), "--board", "one", *options]
    result = CliRunner().invoke(main, words)
    assert result.exit_code
    assert message in result.output


@pytest.mark.parametrize("command", [["run", "--input", "x.npy"], ["benchmark"]])
def test_an_engine_of_no_board_is_refused(bundle: Path, command: list[str]) -> None:
    result = edgeq(command[0], str(bundle), *command[1:], "--engine", "installed", "--timeout", "9", code=2)
    assert "--engine and --timeout: only with --board" in result.stderr


@pytest.mark.usefixtures("here")
def test_a_bundle_that_is_damaged_is_told_once(bundle: Path, tmp_path: Path) -> None:
    result = edgeq("test", str(tmp_path), "--board", "one", "--board", "two", code=1)
    assert result.stderr.count("error:") == 1
    assert "manifest.json" in result.stderr
