"""One file for transport: a bundle as .zip or plain .tar, opened without trusting it.

    manifest.json      lists every file of the bundle with its bytes and sha256
    manifest.sha256    of manifest.json, as sha256sum writes and checks it; .tar has no checksums of its own
    manifest.sig       optional: the 64 bytes of an ed25519 signature of manifest.json, and through it of every file

Nothing is written that the manifest does not list, and no byte more than it says.
"""
from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Callable, Dict, Iterator, Mapping, Optional, Tuple, Union

from .errors import BundleError
from .integrity import check_name, inside
from .manifest import FILE_NAME, MAX_FILES, FileEntry, Manifest
from .manifest import MAX_BYTES as MANIFEST_BYTES

CHECKSUM_NAME, SIGNATURE_NAME = "manifest.sha256", "manifest.sig"
MAX_BYTES = 4 << 30     # what a device should take for a model, unless it is told otherwise
MAX_RATIO = 200         # of unpacked to packed; weights compress 1.1 to 4 times, a file of zeros 1000 times
RATIO_COUNTS = 1 << 24  # bytes; below, a bomb does no harm and a file of constants is no bomb
MAX_MEMBERS = MAX_FILES + 3
_DIRECTORY_BYTES = 1 << 22  # of the members' names at the end of a .zip, which Python reads as a whole
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """One regular file of an archive. size: the bytes that its header promises."""

    size: int
    open: Callable[[], IO[bytes]]


def extract(archive: Union[str, Path], folder: Path, *, key: Optional[Union[str, Path]] = None,
            max_bytes: int = MAX_BYTES) -> Manifest:
    """Unpack a bundle into an empty folder; every file's length and sha256 are checked as it is written.

    key: a PEM file with the public key that must have signed it; None takes unsigned archives too.

    Raises:
        BundleError: no archive, tampered with, not signed by `key`, unsafe (a path that leaves the folder, a link, a
            device, more bytes than allowed), or the disk is full. The folder's content is then the caller's to remove.
    """
    with _open(Path(archive)) as members:
        text = _read(members, FILE_NAME, MANIFEST_BYTES)
        if _read(members, CHECKSUM_NAME, _CHUNK) != checksum(text):
            raise BundleError(f"{FILE_NAME} was changed (it is not that of {CHECKSUM_NAME})")
        if key is not None:
            from .signature import check

            check(Path(key), text, _read(members, SIGNATURE_NAME, 64) if SIGNATURE_NAME in members else None)
        manifest = Manifest.from_json(text.decode("utf-8"))
        _check_names(members, manifest, folder)
        _check_size(manifest, Path(archive).stat().st_size, folder, max_bytes)
        for file in manifest.files:
            _write(members[file.path], file, folder / file.path)
        _write(members[FILE_NAME], FileEntry(FILE_NAME, len(text), _sha256(text)), folder / FILE_NAME)
    return manifest


def checksum(manifest: bytes) -> bytes:
    """The content of manifest.sha256."""
    return f"{_sha256(manifest)}  {FILE_NAME}\n".encode()


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@contextmanager
def _open(archive: Path) -> Iterator[Mapping[str, Member]]:
    """The archive's files by name; what goes wrong while it is read becomes one line that names it."""
    try:
        if archive.exists() and not archive.is_file() and not archive.is_dir():
            raise BundleError("it is no file")  # a pipe would be waited for
        with open(archive, "rb") as file, _members(file) as members:
            yield members
    except BundleError as error:
        raise BundleError(f"{archive}: {error}") from None
    except OSError as error:
        raise BundleError(f"cannot read {archive}: {error.strerror}") from None
    except Exception as error:  # zipfile, tarfile, zlib and struct each raise their own on damaged data
        raise BundleError(f"{archive} is damaged, or no archive of edgeq: {error}") from None


@contextmanager
def _members(file: IO[bytes]) -> Iterator[Mapping[str, Member]]:
    zipped = file.read(4) == b"PK\3\4"
    file.seek(0)
    if zipped:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            yield _named(_zip_members(archive))
    else:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield _named(_tar_members(archive))


def _check_directory(file: IO[bytes]) -> None:
    """The size that the end record of a .zip gives: APPNOTE.TXT, 4.3.16."""
    size = file.seek(0, 2)
    file.seek(max(size - (1 << 16) - 22, 0))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end >= 0 and int.from_bytes(tail[end + 12:end + 16], "little") > _DIRECTORY_BYTES:
        raise BundleError(f"it holds more than {MAX_MEMBERS} files")
    file.seek(0)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Tuple[str, Member]]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise BundleError(f"'{info.filename}' is not a file but a folder, a link or a device")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(f"'{info.filename}' is compressed in a way that edgeq does not write")
        yield info.filename, Member(info.file_size, partial(archive.open, info))


def _tar_members(archive: tarfile.TarFile) -> Iterator[Tuple[str, Member]]:
    for info in archive:
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse():
            raise BundleError(f"'{info.name}' is not a file but a folder, a link, a device or a file with holes")
        yield info.name, Member(info.size, partial(_extract, archive, info))


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None  # None stands for what is no file
    return file


def _named(members: Iterator[Tuple[str, Member]]) -> Dict[str, Member]:
    found: Dict[str, Member] = {}
    for name, member in members:
        if name in found:
            raise BundleError(f"'{name}' is there twice")
        if len(found) == MAX_MEMBERS:
            raise BundleError(f"it holds more than {MAX_MEMBERS} files")
        found[name] = member
    return found


def _chunks(member: Member, limit: int) -> Iterator[bytes]:
    """The member's bytes, one more than the limit at most."""
    left = limit + 1
    try:
        with member.open() as file:
            while left and (chunk := file.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk
    except OSError as error:  # a damaged header points anywhere
        raise BundleError(f"it is damaged: {error.strerror or error}") from None


def _read(members: Mapping[str, Member], name: str, limit: int) -> bytes:
    if name not in members:
        raise BundleError(f"there is no {name}; is this an archive of edgeq pack?")
    data = b"".join(_chunks(members[name], limit))
    if len(data) > limit:
        raise BundleError(f"{name} is longer than {limit} bytes")
    return data


def _check_names(members: Mapping[str, Member], manifest: Manifest, folder: Path) -> None:
    """The archive holds exactly what the manifest lists, and all of it goes inside the folder."""
    listed, ours = {file.path for file in manifest.files}, {FILE_NAME, CHECKSUM_NAME, SIGNATURE_NAME}
    for path in sorted({*listed, *members}):
        inside(folder, path)
        check_name(path)
    if listed & ours:
        raise BundleError(f"the manifest lists {', '.join(sorted(listed & ours))} among its files")
    absent, foreign = sorted(listed - set(members)), sorted(set(members) - listed - ours)
    if absent or foreign:
        found = [f"'{name}' is missing" for name in absent] + [f"'{name}' is not in the manifest" for name in foreign]
        raise BundleError("; ".join(found))
    for file in manifest.files:
        if members[file.path].size != file.bytes:
            raise BundleError(f"'{file.path}' has {members[file.path].size} bytes instead of {file.bytes}")


def _check_size(manifest: Manifest, packed: int, folder: Path, max_bytes: int) -> None:
    total = sum(file.bytes for file in manifest.files)
    if total > max_bytes:
        raise BundleError(f"unpacked it has {total} bytes; at most {max_bytes} are allowed (max_bytes)")
    if total > RATIO_COUNTS and total > MAX_RATIO * packed:
        raise BundleError(f"{packed} bytes that unpack to {total} are no model: more than {MAX_RATIO} times")
    free = shutil.disk_usage(folder).free
    if total > free:
        raise BundleError(f"unpacked it has {total} bytes, and {folder} has room for {free}")


def _write(member: Member, file: FileEntry, path: Path) -> None:
    """Copy one file, at most the bytes that the manifest allows."""
    import hashlib

    digest, left = hashlib.sha256(), file.bytes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as target:
            for chunk in _chunks(member, file.bytes):
                left -= len(chunk)
                if left >= 0:
                    target.write(chunk)
                    digest.update(chunk)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror or error}") from None
    if left or digest.hexdigest() != file.sha256:
        raise BundleError(f"'{file.path}' was changed (its sha256 or length differs)")
