"""How a board is reached: four verbs, which ssh, adb and emulation all have."""
from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final, Protocol

from edgeq.errors import BoardError

SHORT_S: Final = 60.0  # for everything but the engine's own work: a board that needs longer to answer hangs
PUSH_S: Final = 900.0  # 40 MB over the slowest link that is still a network


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended. code: as a shell counts, negative for a signal on this machine."""

    code: int
    out: str
    err: str


class Transport(Protocol):
    """A connection to one board. The only program that a board must have is Python.

    run: the board's python3 with these arguments. `stdin` is written, and the stream stays open until the command
    ends: its end tells the board that nobody waits any more. push, pull: one file; `target` and `source` on the board
    are absolute, and the folder is there. close: leaves no process behind, here or there; idempotent.

    Raises:
        BoardError: the board cannot be reached, or was lost on the way. The code of a command is no error.
    """

    emulated: bool

    def run(self, arguments: Sequence[str], stdin: bytes = b"", timeout: float = SHORT_S) -> Completed: ...

    def push(self, source: Path, target: str) -> None: ...

    def pull(self, source: str, target: Path) -> None: ...

    def close(self) -> None: ...


def run_process(command: Sequence[str], stdin: bytes | IO[bytes] = b"", timeout: float = SHORT_S, *,
                environment: Mapping[str, str] | None = None, out: IO[bytes] | None = None) -> Completed:
    """Run a program of this machine. stdin: a few bytes, after which the stream stays open; or a whole file.

    out: where stdout goes instead of the result.

    Raises:
        BoardError: no such program, or it was stopped after `timeout` seconds.
    """
    # Files instead of pipes: a connection that lives on in the background would keep a pipe open for ever.
    with TemporaryFile() as stdout, TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin,
                                       stdout=out or stdout, stderr=stderr, env=environment)
        except OSError as error:
            raise BoardError(f"cannot start {command[0]}: {error.strerror}") from error
        try:
            if process.stdin is not None and isinstance(stdin, bytes):
                with suppress(BrokenPipeError):  # it ended without reading: its code and words say why
                    process.stdin.write(stdin)
                    process.stdin.flush()
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BoardError(f"no answer within {timeout:.0f} s") from None
        finally:
            _stop(process)
        return Completed(code, _text(stdout), _text(stderr))


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    if process.poll() is None:
        process.kill()
        process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
