"""Boards for tests: this machine's Python with an empty home, and, where there is an sshd, this machine over ssh."""
from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from boards.local import Local, UseWheel
from boards.sshd import Sshd, find_sshd
from cli.badinput import network

from edgeq import convert
from edgeq.boards.addresses import Ssh
from edgeq.boards.ssh import OverSsh


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The board's cache folder."""
    folder = tmp_path / "board"
    folder.mkdir()
    return folder


@pytest.fixture
def local(cache: Path) -> Local:
    return Local(cache)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle for onnxruntime."""
    return convert(network(), target="onnxruntime", output=tmp_path_factory.mktemp("bundles") / "small.edgeq").path


@pytest.fixture
def use_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseWheel:
    """use_wheel({"onnxruntime.py": source}): what pip would have downloaded for the board."""
    def use(files: Mapping[str, str]) -> Path:
        wheel = tmp_path / "onnxruntime-9.9.9-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        monkeypatch.setattr("edgeq.boards.wheels.download", lambda requirements, facts: (wheel,))
        return wheel

    return use


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A private sshd on this machine, on a port of its own; skips where none is installed."""
    program = find_sshd()
    if program is None:
        pytest.skip("no sshd: install openssh-server (it need not run), or name one with EDGEQ_SSHD")
    with Sshd.started(program, tmp_path_factory.mktemp("sshd")) as daemon:
        yield daemon


@pytest.fixture
def over_ssh(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[OverSsh]:
    """A connection to it, by an alias of the user's ssh configuration."""
    sshd.use_as_board(monkeypatch)
    with closing(OverSsh(Ssh("board"), sys.executable)) as transport:
        yield transport
