"""Are the files of a bundle those that its manifest lists, and all inside its folder?"""
from __future__ import annotations

from pathlib import Path, PurePosixPath

from .errors import BundleError
from .manifest import FileEntry, Manifest


def check_files(folder: Path, manifest: Manifest, *, verify: bool = False) -> None:
    """Every listed file lies inside the folder and has its size; with `verify`, its sha256 too.

    With `verify`, files that the manifest does not list are refused inside the entry: the engine reads them all.

    Raises:
        BundleError: names the first file that does not fit and why.
    """
    for file in manifest.files:
        _check_file(folder, file, verify)
    entry = inside(folder, manifest.entry)
    listed = {folder / file.path for file in manifest.files}
    if entry.is_dir():
        found = {path for path in entry.rglob("*") if not path.is_dir()}
        if not found & listed or (verify and found - listed):
            extra = ", ".join(sorted(str(path.relative_to(folder)) for path in found - listed))
            raise BundleError(f"{folder}: '{manifest.entry}' holds files that the manifest does not list: {extra}"
                              if extra else f"{folder}: '{manifest.entry}' is empty")
    elif entry not in listed:
        raise BundleError(f"{folder}: the entry '{manifest.entry}' is not a file that the manifest lists")


def inside(folder: Path, relative: str) -> Path:
    """folder / relative, where that stays in the folder.

    Raises:
        BundleError: absolute, with a backslash, a colon (drives and streams of Windows) or '..', or a link that leads
            out of the folder.
    """
    pure = PurePosixPath(relative)
    if not relative or any(sign in relative for sign in "\\:\0") or ".." in pure.parts or pure.is_absolute():
        raise BundleError(f"{folder}: the path '{relative}' does not stay inside the bundle")
    path = folder / relative
    try:
        path.resolve().relative_to(folder.resolve())
    except (ValueError, OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        raise BundleError(f"{folder}: '{relative}' is a link that leads out of the bundle") from None
    return path


def _check_file(folder: Path, file: FileEntry, verify: bool) -> None:
    path = inside(folder, file.path)
    if not path.is_file():
        raise BundleError(f"{folder}: the file '{file.path}' is missing")
    size = path.stat().st_size
    if size != file.bytes:
        raise BundleError(f"{folder}: '{file.path}' has {size} bytes instead of {file.bytes}; copy the bundle again")
    if verify and sha256(path) != file.sha256:
        raise BundleError(f"{folder}: '{file.path}' was changed (its sha256 differs); copy the bundle again")


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal, in flat memory."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
