"""Archives that unpack refuses, and what pack and keygen refuse."""
from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgeq.bundle.archive import new_key, pack
from edgeq_runtime.archive import CHECKSUM_NAME, RATIO_COUNTS, checksum
from edgeq_runtime.manifest import FILE_NAME, FileEntry, Manifest

from .case import BUNDLE, Case, Prepare, argument

Change = Callable[[dict[str, bytes]], None]


def archive(change: Change, *more: str) -> Prepare:
    """Unpack an archive whose files were changed; the manifest's checksum is that of the changed manifest."""
    def prepare(folder: Path) -> list[str]:
        files = {path.name: path.read_bytes() for path in (folder / BUNDLE).iterdir()}
        change(files)
        files[CHECKSUM_NAME] = checksum(files[FILE_NAME])
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
            for name, data in files.items():
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = (stat.S_IFLNK if name == "link" else stat.S_IFREG | 0o644) << 16
                made.writestr(info, data)
        return ["unpack", "a.zip", "-o", "new.edgeq", *more]
    return prepare


def signed(signer: str | None, folder: Path) -> list[str]:
    """An archive signed by one key, where another one is demanded."""
    keys = {name: new_key(folder / name) for name in ("ours", "theirs")}
    pack(folder / BUNDLE, folder / "a.zip", key=keys[signer][0] if signer else None)
    return ["unpack", "a.zip", "-o", "new.edgeq", "--key", "ours.pub.pem"]


def _tamper(files: dict[str, bytes]) -> None:
    files["model.onnx"] = files["model.onnx"][:-1] + b"!"


def _bomb(files: dict[str, bytes]) -> None:
    """A hundred megabytes that the manifest declares; the refusal comes before the first of them is read."""
    manifest = Manifest.from_json(files[FILE_NAME].decode())
    entries = tuple(FileEntry(file.path, file.bytes + 8 * RATIO_COUNTS * (file.path == "model.onnx"), file.sha256)
                    for file in manifest.files)
    files[FILE_NAME] = replace(manifest, files=entries).to_json().encode()
    files["model.onnx"] += bytes(8 * RATIO_COUNTS)


def _truncated(folder: Path) -> list[str]:
    pack(folder / BUNDLE, folder / "a.tar")
    data = (folder / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(data[:len(data) // 2])
    return ["unpack", "a.tar", "-o", "new.edgeq"]


_ROWS = (
    ("tampered archive", archive(_tamper), r"a\.zip: 'model\.onnx' was changed"),
    ("archive with ../", archive(lambda files: files.update({"../evil": b"x"})), r"'\.\./evil' does not stay inside"),
    ("archive with an absolute path", archive(lambda files: files.update({"/etc/evil": b"x"})), r"'/etc/evil'"),
    ("archive with a link", archive(lambda files: files.update(link=b"/etc/passwd")), r"'link' is not a file but"),
    ("archive with one file more", archive(lambda files: files.update(extra=b"x")), r"'extra' is not in the manifest"),
    ("bomb of zeros", archive(_bomb), r"are no model: more than 200 times"),
    ("truncated archive", _truncated, r"a\.tar"),
    ("signature by another key", lambda folder: signed("theirs", folder), r"not by ours\.pub\.pem"),
    ("no signature where a key is demanded", lambda folder: signed(None, folder), r"it is not signed.*ours\.pub\.pem"),
    ("no archive", argument("unpack", "nowhere.zip"), r"cannot read nowhere\.zip"),
    ("bundle instead of an archive", argument("unpack", BUNDLE, "-o", "new.edgeq"), r"cannot read good\.edgeq"),
)

ARCHIVES = (*(Case(*row, needs_bundle=True) for row in _ROWS),
            Case("archive of another kind", argument("pack", BUNDLE, "-o", "a.rar"), r"ends in \.zip or \.tar", 2,
                 needs_bundle=True))
