"""Drafts beside what they will become: no two have one name, and those of processes that died are swept.

A draft is locked as long as somebody writes it. A number of a process would not do: threads share one, and so do
containers that write into one folder, where neither sees whether the other is at work.
"""
from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

DRAFT, OLD = ".edgeq-draft-", ".edgeq-old-"
_TRIES: Final = 10


def target_of(path: Path) -> Path:
    """What a link stands for, so that the link stays; any other path is itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def locked_draft(path: Path, *, folder: bool) -> Iterator[Path]:
    """A new folder or file beside `path`, which is ours until the block ends, and gone then if it is still there."""
    for _ in range(_TRIES):
        draft = Path(_made(path, folder))
        lock = _lock(draft)
        if lock is not None:
            break
    else:
        raise OSError(f"the drafts of {path} vanish as soon as they are made")
    try:
        yield draft
    finally:
        remove(draft)
        os.close(lock)


def sweep(path: Path) -> None:
    """What killed processes left: drafts, and an old bundle that was moved aside before anything took its place."""
    for kind in (OLD, DRAFT):
        for left in sorted(path.parent.glob(f".{glob.escape(path.name)}{kind}*")):
            lock = _lock(left)
            if lock is None:
                continue
            if kind == OLD and not path.exists():
                left.rename(path)
            else:
                remove(left)
            os.close(lock)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """A bundle that nobody sweeps while it is moved."""
    lock = _lock(path)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _made(path: Path, folder: bool) -> str:
    prefix = f".{path.name}{DRAFT}"
    if folder:
        made = tempfile.mkdtemp(prefix=prefix, dir=path.parent)
        os.chmod(made, 0o777 & ~_umask())  # mkdtemp makes it for its owner alone
        return made
    handle, made = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    os.close(handle)
    os.chmod(made, 0o666 & ~_umask())
    return made


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _lock(path: Path) -> int | None:
    """A handle that holds the lock of a draft; None where somebody else does, or it is gone. Windows has no such lock:
    what is left there stays.
    """
    if os.name == "nt":
        return None if path.name.count(DRAFT) == 0 else os.open(os.devnull, os.O_RDONLY)
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False)):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None
