"""A bundle on disk: written as a whole or not at all."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import BundleError
from edgeq_runtime.manifest import FILE_NAME, FileEntry, Manifest

REPORT_NAME = "report.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """One converted model. path: its folder. report: what the conversion did and measured, as in report.json."""

    path: Path
    manifest: Manifest
    report: Mapping[str, Any]

    @property
    def artifact_bytes(self) -> int:
        """Bytes of what the engine loads: model files and weights, without self-test and report."""
        return sum(file.bytes for file in self.manifest.files if file.path.split("/")[0].startswith("model"))


@contextmanager
def new_bundle(path: Path, *, force: bool) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well and vanishes when it does not.

    The folder is a hidden sibling, so that the last step is one rename on one file system: a kill at any moment leaves the
    old bundle or the new one.

    Raises:
        BundleError: `path` exists and not `force`, is no bundle, or cannot be written.
    """
    check_free(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        draft = path.parent / f".{path.name}.{os.getpid()}"
        draft.mkdir()
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror}; choose another folder with -o") from error
    try:
        yield draft
        _sync(draft)
        _swap(draft, path)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror}; choose another folder with -o") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse early: before minutes of calibration, not after them."""
    if not path.exists():
        return
    if not (path / FILE_NAME).is_file():
        raise BundleError(f"{path} exists and is not a bundle; choose another output with -o")
    if not force:
        raise BundleError(f"{path} exists; replace it with --force, or choose another output with -o")


def _remove_abandoned(path: Path) -> None:
    """Drafts of conversions that were killed."""
    for draft in path.parent.glob(f".{path.name}.*"):
        process = draft.name.rsplit(".", 1)[1]
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(draft, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else, or this system cannot tell: leave it
        return True
    return process != os.getpid()


def _sync(folder: Path) -> None:
    """Bring every byte to the disk before the rename makes them visible."""
    for file in [*folder.rglob("*"), folder]:
        if os.name == "nt" and file.is_dir():
            continue
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(draft: Path, path: Path) -> None:
    """Rename over nothing, or move the old bundle aside first: no rename replaces a folder that has files."""
    if not path.exists():
        draft.rename(path)
        return
    old = path.parent / f".{path.name}.old.{os.getpid()}"
    path.rename(old)
    try:
        draft.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def file_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Every file of a bundle but its manifest, with length and checksum, in a stable order."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != FILE_NAME)
    return tuple(FileEntry(file.relative_to(folder).as_posix(), file.stat().st_size, sha256(file)) for file in files)


def sha256(file: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n")


def open_bundle(path: Path) -> Bundle:
    """Read a bundle that was written before.

    Raises:
        BundleError: not a bundle, or a damaged one.
    """
    manifest = Manifest.read(path)
    try:
        report = json.loads((path / REPORT_NAME).read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / REPORT_NAME} cannot be read: {error}") from error
    return Bundle(path, manifest, report)
