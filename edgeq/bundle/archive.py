"""A bundle as one file for transport, signed or not. How it is opened: edgeq_runtime.archive, on host and device alike.
"""
from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from edgeq.bundle.drafts import locked_draft, sweep, target_of
from edgeq.bundle.folder import PAGE_NAME, new_bundle
from edgeq.errors import BundleError, MissingExtra, UsageError
from edgeq_runtime.archive import CHECKSUM_NAME, MAX_BYTES, SIGNATURE_NAME, checksum, extract
from edgeq_runtime.manifest import FILE_NAME, Manifest

EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the first moment that .zip can express: the same bundle gives the same bytes
Add = Callable[[str, int, IO[bytes]], None]


def pack(bundle: Path, output: Path | None = None, *, key: Path | None = None, report: bool = False,
         force: bool = False) -> Path:
    """Write a bundle into one file -> its path; the same bundle and key always give the same bytes.

    output: `.zip` or `.tar`; by default the bundle's name with `.zip`. key: a private ed25519 key (PEM) to sign with.
    report: with report.html, which devices have no use for.

    Raises:
        BundleError: the bundle is damaged, or the file cannot be written. UsageError: another ending, a file that
            exists and not `force`, or a key that cannot be used. MissingExtra: `key` without `edgeq[sign]`.
    """
    output = Path(f"{bundle.name}.zip") if output is None else output
    writer = {".zip": _zip, ".tar": _tar}.get(output.suffix)
    if writer is None:
        raise UsageError(f"-o {output}: the file ends in .zip or .tar")
    if output.exists() and not force:
        raise UsageError(f"{output} exists; replace it with --force, or choose another file with -o")
    manifest = Manifest.read(bundle, verify=True)
    text = (bundle / FILE_NAME).read_bytes()
    files = tuple(file for file in manifest.files if report or file.path != PAGE_NAME)
    if files != manifest.files:
        text = replace(manifest, files=files).to_json().encode()
    heads = {FILE_NAME: text, CHECKSUM_NAME: checksum(text)}
    if key is not None:
        heads[SIGNATURE_NAME] = private_key(key).sign(text)
    with _replacing(output) as file, writer(file) as add:
        for name, data in heads.items():
            add(name, len(data), io.BytesIO(data))
        for entry in files:
            with (bundle / entry.path).open("rb") as source:
                add(entry.path, entry.bytes, source)
    return output


def unpack(archive: Path, output: Path | None = None, *, key: Path | None = None, max_bytes: int = MAX_BYTES,
           force: bool = False) -> Path:
    """The inverse of pack -> the bundle's folder, complete or not there at all.

    output: by default the archive's name without its ending, in the current folder.

    Raises:
        BundleError: see edgeq_runtime.archive.extract and edgeq.bundle.folder.new_bundle.
    """
    output = Path(archive.stem) if output is None else output
    with new_bundle(output, force=force) as draft:
        extract(archive, draft, key=key, max_bytes=max_bytes)
    return output


@contextmanager
def _zip(file: IO[bytes]) -> Iterator[Add]:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        def add(name: str, size: int, source: IO[bytes]) -> None:
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type, info.external_attr, info.file_size = zipfile.ZIP_DEFLATED, 0o100644 << 16, size
            with archive.open(info, "w") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)

        yield add


@contextmanager
def _tar(file: IO[bytes]) -> Iterator[Add]:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        def add(name: str, size: int, source: IO[bytes]) -> None:
            info = tarfile.TarInfo(name)  # mode 0o644, nobody's, of 1970
            info.size = size
            archive.addfile(info, source)

        yield add


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears when the block ends well."""
    path = target_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        with locked_draft(path, folder=False) as draft:
            with draft.open("wb") as file:
                yield file
            draft.replace(path)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror or error}") from error


# Keys

def new_key(name: Path) -> tuple[Path, Path]:
    """Make an ed25519 pair -> (NAME.pem, which only its owner may read; NAME.pub.pem, which devices get).

    Raises:
        UsageError: a file exists: a key that is lost cannot be made again.
    """
    private, public = name.with_name(f"{name.name}.pem"), name.with_name(f"{name.name}.pub.pem")
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path} exists; a key is never replaced: choose another name with -o")
    ed25519, serialization = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                     serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM,
                                                     serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def private_key(path: Path) -> Any:
    """An Ed25519PrivateKey, of `edgeq keygen` or of `openssl genpkey -algorithm ed25519`.

    Raises:
        UsageError: it cannot be read, has a passphrase, or is of another kind. MissingExtra: `edgeq[sign]`.
    """
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UsageError(f"--sign {path}: {error.strerror}") from None
    except TypeError:  # what cryptography raises for a missing passphrase
        raise UsageError(f"--sign {path}: it has a passphrase; decrypt it with openssl pkey -in {path}") from None
    except Exception as error:  # ValueError, UnsupportedAlgorithm
        raise UsageError(f"--sign {path}: no private key in PEM ({error})") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"--sign {path}: not an ed25519 key; make one with edgeq keygen")
    return key


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtra("signing", "sign") from None
    return ed25519, serialization
