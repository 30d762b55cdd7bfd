"""A bundle on disk: written as a whole or not at all."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import edgeq_runtime
from edgeq.bundle.drafts import DRAFT, OLD, held, locked_draft, sweep, target_of
from edgeq.errors import BundleError, InputError
from edgeq_runtime.installation import sync, sync_folder
from edgeq_runtime.manifest import FILE_NAME, FileEntry, Manifest
from edgeq_runtime.valid_json import json_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq.verification.verify_bundle import Checked
    from edgeq_runtime import Model
    from edgeq_runtime.selftest import SelfTestResult

REPORT_NAME: Final = "report.json"
PAGE_NAME: Final = "report.html"


@dataclass(frozen=True, slots=True, repr=False)
class Bundle:
    """One converted model. path: its folder. report: what the conversion did and measured, as in report.json."""

    path: Path
    manifest: Manifest
    report: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, target={self.manifest.target!r}, artifact_bytes={self.artifact_bytes})"

    def load(self, *, threads: int | None = None) -> Model:
        """Open it with its engine, for more than one run. See `edgeq_runtime.load`."""
        return edgeq_runtime.load(self.path, threads=threads)

    def run(self, inputs: Any) -> dict[str, NDArray[Any]]:
        """Run it once on this machine. inputs: name -> array, or the array of its only input -> outputs by name.

        Raises:
            InputError: a wrong name, shape or dtype. BundleError, EngineError: see `edgeq_runtime.load`.
        """
        from edgeq.quant.feeds import as_array

        with self.load() as model:
            if not isinstance(inputs, Mapping):
                names = ", ".join(spec.name for spec in model.inputs)
                if len(model.inputs) != 1:
                    raise InputError(f"the model has the inputs {names}; give a dict of name -> array")
                inputs = {names: inputs}
            return model.run({name: as_array(value, f"input '{name}'") for name, value in inputs.items()})

    def self_test(self) -> SelfTestResult:
        """Does this machine compute what the converter promised?

        Raises:
            BundleError: it was converted without verification. EngineError: see `edgeq_runtime.load`.
        """
        with self.load() as model:
            return model.self_test()

    def verify(self, *, reference: Any = None, data: Any = None, samples: int | None = None, layers: bool = False,
               example_inputs: Any = None) -> Checked:
        """See `edgeq.verification`."""
        from edgeq.verification.verify_bundle import verify_bundle

        return verify_bundle(self.path, data, reference, samples, layers=layers, example_inputs=example_inputs)

    @property
    def artifact_bytes(self) -> int:
        """Bytes of what the engine loads: model files and weights, without self-test and report."""
        return sum(file.bytes for file in self.manifest.files if _is_artifact(file.path))


def _is_artifact(path: str) -> bool:
    """path: in the bundle, with slashes."""
    return path.split("/")[0].startswith("model")


def artifact_bytes(folder: Path) -> int:
    """As `Bundle.artifact_bytes`, of a bundle in the making."""
    return sum(file.stat().st_size for file in folder.rglob("*")
               if file.is_file() and _is_artifact(file.relative_to(folder).as_posix()))


@contextmanager
def new_bundle(path: Path, *, force: bool) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well and vanishes when it does not.

    The folder is a hidden sibling, so that the last step is one rename on one file system: a kill at any moment leaves
    the old bundle or the new one.

    Raises:
        BundleError: `path` exists and not `force`, is no bundle, or cannot be written.
    """
    check_free(path, force=force)
    path = target_of(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
    with _writing(path), locked_draft(path, folder=True) as draft:
        yield draft
        sync_folder(draft)
        check_free(path, force=force)  # somebody else may have been faster
        _swap(draft, path)
        sync(path.parent)


def check_free(path: Path, *, force: bool) -> None:
    """Refuse early: before minutes of calibration, not after them.

    Raises:
        BundleError: see new_bundle.
    """
    with _writing(path):
        if not path.exists():
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            if not folder.is_dir():
                raise BundleError(f"cannot write {path}: {folder} is not a folder; {_REMEDY}")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise BundleError(f"cannot write {path}: no permission to write in {folder}; {_REMEDY}")
        elif not (path / FILE_NAME).is_file():
            raise BundleError(f"{path} exists and is not a bundle; {_REMEDY}")
        elif not force:
            raise BundleError(f"{path} exists; replace it with --force, or {_REMEDY}")


_NO_ROOM: Final = 1 << 16  # bytes that a file system may keep for itself
_REMEDY: Final = "choose another output with -o"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system refuses, in one line that names the bundle."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC and _temporary_is_full():
            raise BundleError(f"cannot write {path}: no space left in the temporary folder "
                              f"{tempfile.gettempdir()}; make room there, or choose another with TMPDIR") from error
        raise BundleError(f"cannot write {path}: {_reason(error)}; make room or {_REMEDY}") from error


def _temporary_is_full() -> bool:
    return shutil.disk_usage(tempfile.gettempdir()).free < _NO_ROOM


def _reason(error: OSError) -> str:
    """The system's own words; copying a folder collects one tuple (from, to, why) for every file that failed."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return re.sub(r"^\[Errno \d+\] ([^:]+):.*", r"\1", str(error.args[0][0][2]))
    return error.strerror or str(error)




def _swap(draft: Path, path: Path) -> None:
    """Give the draft its name. No rename replaces a folder with files, but Linux and macOS exchange two at once."""
    if not path.exists():
        draft.rename(path)
    elif not _exchange(draft, path):
        old = path.parent / draft.name.replace(DRAFT, OLD)
        with held(path):  # or a conversion that sweeps would move it back
            path.rename(old)
            try:
                draft.rename(path)
            except OSError:
                old.rename(path)
                raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap the names of two folders at once -> whether this system and file system could."""
    import ctypes

    here = -2 if sys.platform == "darwin" else -100  # AT_FDCWD of fcntl.h
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform, "")
    rename = getattr(ctypes.CDLL(None), name, None) if name else None
    exchange = 2  # RENAME_EXCHANGE of linux/fs.h, RENAME_SWAP of macOS' sys/stdio.h
    return rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def file_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Every file of a bundle but its manifest, with length and checksum, in a stable order."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / FILE_NAME)
    return tuple(FileEntry(file.relative_to(folder).as_posix(), file.stat().st_size, sha256(file)) for file in files)


def sha256(file: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The last file of a bundle, because it lists all others."""
    (folder / FILE_NAME).write_text(replace(manifest, files=file_entries(folder)).to_json())


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    (folder / REPORT_NAME).write_text(json_text(report) + "\n")


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
