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
from typing import IO, Iterator, Optional, Tuple, Union

from .archive import MAX_BYTES, extract
from .errors import BundleError
from .isolated import tested
from .manifest import FILE_NAME, Manifest
from .pointer import CURRENT, VERSION, Versions, find_versions
from .selftest import SelfTestResult

DRAFT, LOCK = ".draft", ".lock"


@dataclass(frozen=True)
class Installed:
    """What an installation did. path: the bundle now in use. self_test: None where it was not asked for, or where the
    archive was installed already (`changed` is False then). isolated: the self-test ran in a process of its own."""

    path: Path
    previous: Optional[str]
    changed: bool
    self_test: Optional[SelfTestResult]
    isolated: bool = True


def install(archive: Union[str, Path], folder: Union[str, Path], *, key: Optional[Union[str, Path]] = None,
            self_test: bool = True, threads: Optional[int] = None, max_bytes: int = MAX_BYTES,
            allow_downgrade: bool = False) -> Installed:
    """Unpack an archive of `edgeq pack`, test it on this device, and make it the version that `load(folder)` opens.

    key: the public key (a PEM file) that must have signed it. self_test: False takes a version without running it.
    threads: for the self-test. max_bytes: refuse what is larger unpacked. allow_downgrade: take an older version.

    Raises:
        EdgeqError: the archive is damaged, unsafe or not signed by `key`, of another product or an older version; this
            device's engine cannot load it; or its self-test fails. The version before is then untouched and in use.
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
            _check_successor(folder, before, manifest, allow_downgrade)
            result, isolated = _test(draft, archive, threads) if self_test else (None, True)
            sync_folder(draft)
            after = Versions(_next_name(folder), None if before is None else before.current)
            draft.rename(folder / after.current)
            sync(folder)
            _write(folder, after)
            return Installed(folder / after.current, after.previous, True, result, isolated)
        finally:
            _sweep(folder)


def rollback(folder: Union[str, Path]) -> Path:
    """Go back to the version before -> its bundle.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    folder = Path(folder)
    with _locked(folder):
        versions = find_versions(folder)
        if versions is None:
            raise BundleError(f"nothing is installed in {folder}")
        previous = versions.previous
        if previous is None:
            raise BundleError(f"{folder} holds no version before the current one")
        Manifest.read(folder / previous, verify=True)
        _write(folder, Versions(previous))
        return folder / previous


def _check_successor(folder: Path, before: Optional[Versions], new: Manifest, allow_downgrade: bool) -> None:
    """Is this the same product, and no older? A version that is damaged has the one before it speak."""
    for name in (before.current, before.previous) if before is not None else ():
        try:
            old = Manifest.read(folder / str(name))
        except BundleError:
            continue
        if (new.product or new.name) != (old.product or old.name):
            raise BundleError(f"it is '{new.product or new.name}', and {folder} holds '{old.product or old.name}'; "
                              "install it into a folder of its own")
        if _numbers(new.version) < _numbers(old.version) and not allow_downgrade:
            raise BundleError(f"it is version {new.version or 'unknown'}, and {folder} holds {old.version}; an older "
                              "one is taken with --allow-downgrade (allow_downgrade=True)")
        return


def _numbers(version: str) -> Tuple[int, ...]:
    """1.4 and 1.4.0 are equal; no version is older than any."""
    numbers = [int(number) for number in version.split(".")] if version else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return (int(bool(version)), *numbers)


def _test(draft: Path, archive: Union[str, Path], threads: Optional[int]) -> Tuple[SelfTestResult, bool]:
    try:
        result, isolated = tested(draft, threads)
    except BundleError as error:
        raise BundleError(f"{archive}: {error}; the version before stays") from None
    if not result.ok:
        raise BundleError(f"{archive}: its self-test fails on this device, so the version before stays: {result}")
    return result, isolated


def _is_installed(bundle: Path, manifest: Manifest) -> bool:
    """Whether a version is there, undamaged; a damaged one is worth installing again."""
    try:
        return Manifest.read(bundle, verify=True) == manifest
    except BundleError:
        return False


def _state(folder: Path) -> Optional[Versions]:
    return find_versions(folder)


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
    if foreign and find_versions(folder) is None:
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
