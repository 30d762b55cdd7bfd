"""Files that were made once and can be made again: in the user's cache folder, complete or not there."""
from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FETCHED: Final = ("wheels", "qemu", "sysroot")  # folders whose entries came from somebody's index
_DAY_S: Final = 86400


def cache_folder() -> Path:
    """`~/.cache/edgeq`, or where the XDG base directory specification says.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeq"


def made_once(place: Path, make: Callable[[Path], None]) -> Path:
    """`place`, filled by `make(draft)` if it is not there yet; of several who ask at once, one makes it."""
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_name(f".{place.name}.lock")):
            if not place.is_dir():
                draft = place.with_name(f".{place.name}.draft")
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
                try:
                    make(draft)
                    draft.rename(place)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
    return place


def age_days(place: Path) -> int:
    """Whole days since something was made."""
    return int((time.time() - place.stat().st_mtime) // _DAY_S)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed of one of FETCHED: how many entries, their bytes, and the age of the oldest in days."""

    kind: str
    entries: int
    bytes: int
    oldest_days: int


def forget_fetched() -> list[Forgotten]:
    """Remove what was fetched, so that whoever needs it next fetches the newest. No board may be running."""
    found = []
    for kind in FETCHED:
        folder = cache_folder() / kind
        entries = [entry for entry in folder.glob("[!.]*") if entry.is_dir()]
        if entries:
            size = sum(file.lstat().st_size for file in folder.rglob("*"))
            found.append(Forgotten(kind, len(entries), size, max(map(age_days, entries))))
            shutil.rmtree(folder)
    return found


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait until nobody else, in this process or another, holds the lock; the system frees it when its holder dies."""
    if sys.platform == "win32":
        yield  # two makers would both make it there; the slower one's rename fails
        return
    import fcntl

    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
