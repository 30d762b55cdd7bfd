"""Bundles that are updated in the field: a new version takes over as a whole, or the old one stays.

    folder/current       JSON: the version that `load(folder)` opens, and the one before it
    folder/version-3/    a bundle
    folder/.draft/       one that is being unpacked and tested
    folder/.lock         held while an installation is at work

`current` is replaced by one rename, after every byte of the new version has reached the disk and its self-test has
passed. So a kill or a power cut at any moment leaves `current` naming a version that is complete.
"""
from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Iterator, Optional, Union

from .archive import MAX_BYTES, extract
from .errors import BundleError
from .manifest import FILE_NAME, Manifest
from .pointer import CURRENT, VERSION, Versions, read_versions
from .selftest import SelfTestResult
from .session import load

DRAFT, LOCK = ".draft", ".lock"


@dataclass(frozen=True)
class Installed:
    """What an installation did. path: the bundle now in use. self_test: None where it was not asked for, or where the
    archive was installed already (`changed` is False then)."""

    path: Path
    previous: Optional[str]
    changed: bool
    self_test: Optional[SelfTestResult]


def install(archive: Union[str, Path], folder: Union[str, Path], *, key: Optional[Union[str, Path]] = None,
            self_test: bool = True, threads: Optional[int] = None, max_bytes: int = MAX_BYTES) -> Installed:
    """Unpack an archive of `edgeq pack`, test it on this device, and make it the version that `load(folder)` opens.

    key: the public key (a PEM file) that must have signed it. self_test: False takes a version without running it.
    threads: for the self-test. max_bytes: refuse what is larger unpacked.

    Raises:
        EdgeqError: the archive is damaged, unsafe or not signed by `key`; this device's engine cannot load it; or its
            self-test fails. The version before is then untouched and in use.
    """
    folder = Path(folder)
    with _locked(folder):
        before = _state(folder)
        _sweep(folder)
        draft = folder / DRAFT
        draft.mkdir()
        try:
            manifest = extract(archive, draft, key=key, max_bytes=max_bytes)
            if before is not None and _is_installed(folder / before.current, manifest):
                return Installed(folder / before.current, before.previous, False, None)
            result = _test(draft, archive, threads) if self_test else None
            sync_folder(draft)
            after = Versions(_next_name(folder), None if before is None else before.current)
            draft.rename(folder / after.current)
            sync(folder)
            _write(folder, after)
            return Installed(folder / after.current, after.previous, True, result)
        finally:
            _sweep(folder)


def rollback(folder: Union[str, Path]) -> Path:
    """Go back to the version before -> its bundle.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    folder = Path(folder)
    with _locked(folder):
        previous = read_versions(folder).previous
        if previous is None:
            raise BundleError(f"{folder} holds no version before the current one")
        Manifest.read(folder / previous, verify=True)
        _write(folder, Versions(previous))
        return folder / previous


def _test(draft: Path, archive: Union[str, Path], threads: Optional[int]) -> SelfTestResult:
    with load(draft, threads=threads) as model:
        result = model.self_test()
    if not result.ok:
        raise BundleError(f"{archive}: its self-test fails on this device, so the version before stays: {result}")
    return result


def _is_installed(bundle: Path, manifest: Manifest) -> bool:
    """Whether a version is there, undamaged; a damaged one is worth installing again."""
    try:
        return Manifest.read(bundle, verify=True) == manifest
    except BundleError:
        return False


def _state(folder: Path) -> Optional[Versions]:
    return read_versions(folder) if (folder / CURRENT).exists() else None


def _write(folder: Path, versions: Versions) -> None:
    """Replace `current` by one rename; the second sync brings the rename itself to the disk."""
    new = folder / f"{CURRENT}.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump(versions.__dict__, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, folder / CURRENT)
    sync(folder)


def _next_name(folder: Path) -> str:
    numbers = [int(found.group(1)) for found in map(VERSION.fullmatch, os.listdir(folder)) if found]
    return f"version-{max(numbers, default=0) + 1}"


def _sweep(folder: Path) -> None:
    """Remove what is neither in use nor the version before: leftovers of failed installations, and older versions."""
    versions = _state(folder)
    kept = set() if versions is None else {versions.current, versions.previous}
    for name in os.listdir(folder):
        if name == DRAFT or (VERSION.fullmatch(name) and name not in kept):
            shutil.rmtree(folder / name, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Bring every byte below a folder to the disk, before a rename makes it visible."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and keeps their names itself
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One installation at a time; the system frees the lock of a process that dies.

    Raises:
        BundleError: another one is at work, the folder is somebody else's, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_ours(folder)
        with open(folder / LOCK, "w") as file:
            _lock(file, folder)
            yield
    except OSError as error:
        raise BundleError(f"cannot install into {folder}: {error.strerror or error}") from error


def _check_ours(folder: Path) -> None:
    foreign = [name for name in os.listdir(folder) if name not in (CURRENT, f"{CURRENT}.new", DRAFT, LOCK)
               and not VERSION.fullmatch(name)]
    if foreign and not (folder / CURRENT).is_file():
        what = "is a bundle itself" if FILE_NAME in foreign else f"holds '{foreign[0]}' and no installation"
        raise BundleError(f"{folder} {what}; install into a folder of its own")


def _lock(file: IO[str], folder: Path) -> None:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise BundleError(f"another installation into {folder} is at work") from None
