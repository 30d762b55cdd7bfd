"""A board that is not there: qemu imitates its processor, program by program, on this machine's kernel."""
from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeq.boards.cache import cache_folder
from edgeq.boards.debian import emulator, sysroot
from edgeq.boards.profiles import EMULATED, EmulatedBoard
from edgeq.boards.transport import SHORT_S, Completed, run_process
from edgeq.errors import BoardError

QEMU_NAMES: Final = {"arm64": "aarch64", "armhf": "arm"}
TRIPLETS: Final = {"arm64": "aarch64-linux-gnu", "armhf": "arm-linux-gnueabihf"}


class Emulated:
    """A `Transport` to a row of `profiles`. Boards of one system share their store, as it holds no CPU's own files."""

    emulated = True

    def __init__(self, name: str):
        if sys.platform != "linux":
            raise BoardError("emulated boards need Linux: qemu's user mode runs on its kernel")
        row = EMULATED[name]
        root = sysroot(row.release, row.architecture, row.packages)
        self._command = [str(emulator(QEMU_NAMES[row.architecture])), "-cpu", row.cpu, "-L", str(root),
                         str(root / "usr" / "bin" / row.python)]
        self._environment = _environment(row, root, cache_folder() / "home" / root.name)

    def run(self, arguments: Sequence[str], stdin: bytes = b"", timeout: float = SHORT_S) -> Completed:
        return run_process([*self._command, *arguments], stdin, timeout, environment=self._environment)

    def push(self, source: Path, target: str) -> None:
        _copy(source, Path(target))

    def pull(self, source: str, target: Path) -> None:
        _copy(Path(source), target)

    def close(self) -> None:
        """Nothing lasts longer than one command."""


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise BoardError(f"cannot copy {source.name} to {target}: {error.strerror}") from None


def _environment(row: EmulatedBoard, root: Path, home: Path) -> dict[str, str]:
    """Of the board, not of this machine."""
    home.mkdir(parents=True, exist_ok=True)
    libraries = root / "usr" / "lib" / TRIPLETS[row.architecture]
    return {
        "HOME": str(home), "LANG": "C.UTF-8", "PATH": os.defpath, "PYTHONHOME": str(root / "usr"),
        # Debian's numpy finds these two by update-alternatives, which no script has run here.
        "LD_LIBRARY_PATH": f"{libraries / 'blas'}:{libraries / 'lapack'}",
    }
