"""Are the files of a bundle those that its manifest lists, and all inside its folder?

Written with os.path: pathlib would be a third of the memory that this runtime takes.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence, Union

from .errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: path relative to it with forward slashes, length in bytes, sha256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


def check_files(folder: Union[str, Path], entry: str, files: Sequence[FileEntry], *, verify: bool = False) -> None:
    """Every listed file lies inside the folder and has its size; with `verify`, its sha256 too.

    entry, files: of the manifest. With `verify`, files that it does not list are refused inside the entry: the engine
    reads them all.

    Raises:
        BundleError: names the first file that does not fit and why.
    """
    for file in files:
        _check_file(folder, file, verify)
    opened = inside(folder, entry)
    listed = {os.path.join(folder, *file.path.split("/")) for file in files}
    if os.path.isdir(opened):
        found = {os.path.join(place, name) for place, _, names in os.walk(opened) for name in names}
        if not found & listed or (verify and found - listed):
            extra = ", ".join(sorted(os.path.relpath(path, folder) for path in found - listed))
            raise BundleError(f"{folder}: '{entry}' holds files that the manifest does not list: {extra}"
                              if extra else f"{folder}: '{entry}' is empty")
    elif opened not in listed:
        raise BundleError(f"{folder}: the entry '{entry}' is not a file that the manifest lists")


def inside(folder: Union[str, Path], relative: str) -> str:
    """folder / relative, where that stays in the folder.

    Raises:
        BundleError: absolute, with a backslash, a colon (drives and streams of Windows) or '..', or a link that leads
            out of the folder.
    """
    if not relative.strip("/") or relative[0] == "/" or any(sign in relative for sign in "\\:\0") or (
            ".." in relative.split("/")):
        raise BundleError(f"{folder}: the path '{relative}' does not stay inside the bundle")
    path = os.path.join(folder, *relative.split("/"))
    root = os.path.realpath(folder)
    if not os.path.realpath(path).startswith(os.path.join(root, "")):
        raise BundleError(f"{folder}: '{relative}' is a link that leads out of the bundle")
    return path


def _check_file(folder: Union[str, Path], file: FileEntry, verify: bool) -> None:
    path = inside(folder, file.path)
    if not os.path.isfile(path):
        raise BundleError(f"{folder}: the file '{file.path}' is missing")
    size = os.path.getsize(path)
    if size != file.bytes:
        raise BundleError(f"{folder}: '{file.path}' has {size} bytes instead of {file.bytes}; copy the bundle again")
    if verify and sha256(path) != file.sha256:
        raise BundleError(f"{folder}: '{file.path}' was changed (its sha256 differs); copy the bundle again")


def sha256(path: Union[str, Path]) -> str:
    """The sha256 of a file in hexadecimal, in flat memory."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
