"""A board over adb: a phone or tablet in developer mode whose shell has a Python 3.10 or newer."""
from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeq.boards.addresses import Adb
from edgeq.boards.transport import PUSH_S, SHORT_S, Completed, run_process
from edgeq.errors import BoardError

# What adb says of itself, on stderr and with code 1; everything else is the command's.
COMPLAINTS: Final = ("error:", "adb: ", "adb.exe: ")
REMEDIES: Final = (
    ("unauthorized", "allow debugging on the device's screen"),
    ("not found", "`adb devices` lists what is connected"),
    ("offline", "connect it again"),
)


class OverAdb:
    """A `Transport` through the user's adb and its server."""

    emulated = False

    def __init__(self, address: Adb, python: str):
        self._adb, self._python = ["adb", "-s", address.serial], python

    def run(self, arguments: Sequence[str], stdin: bytes = b"", timeout: float = SHORT_S) -> Completed:
        command = [*self._adb, "shell", "-T", shlex.join([self._python, *arguments])]  # -T: a terminal changes bytes
        return _checked(run_process(command, stdin, timeout))

    def push(self, source: Path, target: str) -> None:
        self._transfer("push", str(source), target)

    def pull(self, source: str, target: Path) -> None:
        self._transfer("pull", source, str(target))

    def close(self) -> None:
        """The server is the user's; nothing of ours lasts longer than one command."""

    def _transfer(self, *words: str) -> None:
        done = _checked(run_process([*self._adb, *words], b"", PUSH_S))
        if done.code:
            raise BoardError(f"adb {words[0]}: {(done.err or done.out).strip()}")


def _checked(done: Completed) -> Completed:
    words = next((line for line in done.err.splitlines() if line.startswith(COMPLAINTS)), "")
    if done.code and words:
        remedy = next((f" ({remedy})" for sign, remedy in REMEDIES if sign in words), "")
        raise BoardError(f"{words}{remedy}")
    return done
