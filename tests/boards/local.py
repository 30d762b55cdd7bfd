"""A board without a board: a Python of this machine, with an empty home."""
from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgeq.boards.transport import SHORT_S, Completed, run_process

UseWheel = Callable[[Mapping[str, str]], Path]

class Local:
    """A `Transport` to a Python of this machine. `commands` counts what was run, `pushed` what was sent."""

    emulated = False

    def __init__(self, cache: Path, python: Sequence[str] = (sys.executable,)):
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(cache), "XDG_CACHE_HOME": str(cache)}
        self.python = list(python)
        self.commands = 0
        self.pushed: list[str] = []

    def run(self, arguments: Sequence[str], stdin: bytes = b"", timeout: float = SHORT_S) -> Completed:
        self.commands += 1
        return run_process([*self.python, *arguments], stdin, timeout, environment=self.environment)

    def push(self, source: Path, target: str) -> None:
        self.pushed.append(target)
        shutil.copyfile(source, target)

    def pull(self, source: str, target: Path) -> None:
        shutil.copyfile(source, target)

    def close(self) -> None:
        pass
