"""Are the files of a bundle those that its manifest lists, and all inside its folder?

Written with os.path: pathlib would be a third of the memory that this runtime takes.
"""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence, Set, Union

from .errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

CACHE = "engine_cache"  # what TensorRT built for this bundle, on this device
_PROGRAM = re.compile(r"\.(py|pyc|pyd|pyw|pth|so(\.[\d.]+)?|dylib|dll|exe)$")
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])(.{0,127})", re.DOTALL)


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle: path relative to it with forward slashes, length in bytes, sha256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


def check_files(folder: Union[str, Path], entry: str, files: Sequence[FileEntry], *, verify: bool = False) -> None:
    """Every listed file lies inside the folder and has its size; with `verify`, its sha256 too.

    entry, files: of the manifest. With `verify`, files that an engine reads and the manifest does not list are refused:
    inside an entry that is a folder, and those that an ONNX model names. Programs and libraries are refused in any
    case, listed or not.

    Raises:
        BundleError: names the first file that does not fit and why.
    """
    for file in files:
        check_name(file.path)
        _check_file(folder, file, verify)
    for _, _, names in os.walk(folder):
        for name in names:
            check_name(name)
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
    elif verify and entry.endswith(".onnx"):
        _check_external(folder, opened, listed)


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


def check_name(path: str) -> None:
    """Refuse a file that no bundle needs and that could run, or that this device makes itself.

    Raises:
        BundleError: see above.
    """
    if _PROGRAM.search(path.lower()) or path.split("/")[0] == CACHE:
        raise BundleError(f"'{path}' does not belong into a bundle, which holds no programs, libraries or built "
                          "engines")


def _check_external(folder: Union[str, Path], entry: str, listed: Set[str]) -> None:
    """Every file of weights that an ONNX model names is listed. The key is the text "location" in a protobuf message
    StringStringEntryProto (onnx.proto), followed by field 2 with its length.
    """
    with open(entry, "rb") as file:
        for match in _LOCATION.finditer(file.read()):
            name = match.group(2)[:match.group(1)[0]].decode("utf-8", "replace")
            if os.path.normpath(os.path.join(os.path.dirname(entry), name)) not in listed or ".." in name.split("/"):
                raise BundleError(f"{folder}: the model's weights lie in '{name}', which the manifest does not list")


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
