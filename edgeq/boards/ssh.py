"""A board over ssh: the user's own ssh, with the user's configuration, agent, keys and known hosts, which are never
weakened. One connection carries all commands; the board needs sshd and Python, neither scp nor sftp.
"""
from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from edgeq.boards.addresses import Ssh
from edgeq.boards.transport import PUSH_S, SHORT_S, Completed, run_process
from edgeq.errors import BoardError

LOST: Final = 255  # ssh's own code, for everything that is not the command's: ssh(1), EXIT STATUS
START: Final = b"EDGEQ-FILE\n"  # where a file begins: a login shell may print things first
SEND: Final = ("import shutil, sys\n"
               f"sys.stdout.buffer.write({START!r})\n"
               "with open(sys.argv[1], 'rb') as file: shutil.copyfileobj(file, sys.stdout.buffer)\n")
RECEIVE: Final = """
import os, shutil, sys
path, size = sys.argv[1], int(sys.argv[2])
try:
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    problem = "" if os.path.getsize(path) == size else "the connection was cut"
except OSError as error:
    problem = error.strerror
if problem:
    if os.path.exists(path):
        os.remove(path)
    sys.exit(f"the board cannot keep {path}: {problem}")
"""
REMEDIES: Final = (
    ("Permission denied", "no key of yours opens it: ssh-copy-id, or name the key in ~/.ssh/config"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "it is another machine than the one in known_hosts, or was installed "
     "anew: ssh-keygen -R HOST once you are sure"),
    ("Host key verification failed", "its host key is not known yet: log in once with ssh and compare the fingerprint"),
    ("Could not resolve hostname", "is the name spelled right, and known on this network?"),
    ("Connection refused", "the machine is there, but no sshd listens: is ssh enabled on it, and the port right?"),
    ("No route to host", "is it switched on, and on this network?"),
    ("timed out", "is it switched on, and on this network?"),
)


class OverSsh:
    """A `Transport` through OpenSSH's client."""

    emulated = False

    def __init__(self, address: Ssh, python: str):
        self._host, self._python = address.host, python
        self._folder = TemporaryDirectory(prefix="edgeq-")  # of our own: the user's shared connections stay theirs
        self._command = ["ssh", "-o", "BatchMode=yes"]
        if os.name != "nt":  # https://github.com/PowerShell/Win32-OpenSSH/issues/405: no shared connections there
            self._command += ["-o", "ControlMaster=auto", "-o", f"ControlPath={self._folder.name}/master",
                              "-o", "ControlPersist=60"]
        self._command += ["-l", address.user] if address.user else []
        self._command += ["-p", str(address.port)] if address.port else []

    def run(self, arguments: Sequence[str], stdin: bytes = b"", timeout: float = SHORT_S) -> Completed:
        return self._checked(run_process(self._remotely(arguments), stdin, timeout))

    def push(self, source: Path, target: str) -> None:
        with source.open("rb") as file:
            command = self._remotely(["-c", RECEIVE, target, str(source.stat().st_size)])
            self._succeeded(run_process(command, file, PUSH_S))

    def pull(self, source: str, target: Path) -> None:
        with target.open("w+b") as file:
            self._succeeded(run_process(self._remotely(["-c", SEND, source]), b"", PUSH_S, out=file))
            file.seek(0)
            data = file.read().partition(START)[2]
        target.write_bytes(data)

    def close(self) -> None:
        if Path(self._folder.name, "master").exists():
            run_process([*self._command, "-O", "exit", self._host])
        self._folder.cleanup()

    def _remotely(self, arguments: Sequence[str]) -> list[str]:
        return [*self._command, self._host, shlex.join([self._python, *arguments])]

    def _checked(self, done: Completed) -> Completed:
        if done.code == LOST or done.code < 0:
            raise BoardError(_reason(self._host, done.err))
        return done

    def _succeeded(self, done: Completed) -> None:
        if self._checked(done).code:
            raise BoardError(done.err.strip().splitlines()[-1] if done.err.strip() else f"code {done.code}")


def _reason(host: str, words: str) -> str:
    remedy = next((remedy for sign, remedy in REMEDIES if sign in words), "the connection was lost")
    said = [line.strip() for line in words.splitlines() if line.strip() and not line.startswith(("@", "Warning:"))]
    return f"ssh cannot use {host}: {said[-1] if said else 'it ended without a word'} ({remedy})"
