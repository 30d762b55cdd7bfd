"""Archives are opened without trusting them; signatures are those of openssl."""
from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from runtime_bundles import MakeBundle

from edgeq.bundle.archive import new_key, pack, unpack
from edgeq.errors import UsageError
from edgeq_runtime import BundleError, Manifest
from edgeq_runtime.archive import CHECKSUM_NAME, MAX_RATIO, RATIO_COUNTS, SIGNATURE_NAME, checksum, extract
from edgeq_runtime.manifest import FILE_NAME, FileEntry

Files = dict[str, bytes]
ENDINGS = [".zip", ".tar"]


def content(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def summed(files: Files) -> Files:
    """With the checksum that belongs to the manifest, where there is a manifest."""
    return {CHECKSUM_NAME: checksum(files[FILE_NAME]), **files} if FILE_NAME in files else files


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in summed(files).items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in summed(files).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(params=ENDINGS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    """write(files by name) -> an archive."""
    writer = write_zip if request.param == ".zip" else write_tar
    return lambda files: writer(tmp_path / f"made{request.param}", files)


def with_manifest(bundle: Path, *files: FileEntry) -> Files:
    """The content of a bundle whose manifest lists further files."""
    manifest = Manifest.read(bundle)
    text = replace(manifest, files=(*manifest.files, *files)).to_json()
    return {**content(bundle), FILE_NAME: text.encode()}


def entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path, len(data), hashlib.sha256(data).hexdigest())


def opened(archive: Path, tmp_path: Path, **options: Any) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    extract(archive, folder, **options)
    return folder


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_bundle_survives_the_journey(bundle: Path, tmp_path: Path, ending: str) -> None:
    (bundle / "notes.txt").write_text("not in the manifest, so it stays here")
    archive = pack(bundle, tmp_path / f"a{ending}")
    expected = {name: data for name, data in content(bundle).items() if name != "notes.txt"}
    assert content(unpack(archive, tmp_path / "back.edgeq")) == expected
    again = pack(bundle, tmp_path / f"b{ending}")
    assert again.read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("report", [False, True])
def test_the_report_stays_behind(bundle: Path, tmp_path: Path, report: bool) -> None:
    """Devices have no use for it; what travels is a whole bundle without."""
    page = b"<!DOCTYPE html>"
    listed = with_manifest(bundle, entry("report.html", page))
    (bundle / "report.html").write_bytes(page)
    (bundle / FILE_NAME).write_bytes(listed[FILE_NAME])
    folder = unpack(pack(bundle, tmp_path / "a.zip", report=report), tmp_path / "back.edgeq")
    assert ("report.html" in content(folder)) is report
    assert len(Manifest.read(folder, verify=True).files) == len(listed) - (not report)


def test_what_other_tools_wrote_is_read(bundle: Path, write: Callable[[Files], Path], tmp_path: Path) -> None:
    assert content(opened(write(content(bundle)), tmp_path)) == content(bundle)


def test_a_changed_byte_is_found(bundle: Path, write: Callable[[Files], Path], tmp_path: Path) -> None:
    files = content(bundle)
    files["model.onnx"] = files["model.onnx"][:-1] + b"!"
    with pytest.raises(BundleError, match=r"made\.\w+: 'model.onnx' was changed"):
        opened(write(files), tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    (lambda files: {**files, "extra.bin": b"x"}, "'extra.bin' is not in the manifest"),
    (lambda files: {**files, "../evil": b"x"}, r"the path '\.\./evil' does not stay inside"),
    (lambda files: {**files, "a/../../evil": b"x"}, "does not stay inside"),
    (lambda files: {**files, "/etc/evil": b"x"}, "the path '/etc/evil' does not stay inside"),
    (lambda files: {**files, "C:evil": b"x"}, "does not stay inside"),
    (lambda files: {**files, "a\\evil": b"x"}, "does not stay inside"),
    (lambda files: {k: v for k, v in files.items() if k != "model.onnx"}, "'model.onnx' is missing"),
    (lambda files: {k: v for k, v in files.items() if k != FILE_NAME}, "no manifest.json; is this an archive"),
    (lambda files: {**files, CHECKSUM_NAME: checksum(b"another")}, r"manifest\.json was changed"),
    (lambda files: {**files, "model.onnx": files["model.onnx"] + b"!"}, "'model.onnx' has .* bytes instead of"),
    (lambda files: {**files, FILE_NAME: b"{"}, "manifest.json is not JSON"),
    (lambda files: {**files, FILE_NAME: b"\xff"}, "is damaged"),
    (lambda files: {**files, FILE_NAME: b" " * (1 << 24) + b"!"}, "longer than"),
])
def test_refuses(bundle: Path, write: Callable[[Files], Path], tmp_path: Path, change: Callable[[Files], Files],
                 message: str) -> None:
    with pytest.raises(BundleError, match=message):
        opened(write(change(content(bundle))), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [bundle.name, "out", next(tmp_path.glob("made.*")).name])


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", FILE_NAME, SIGNATURE_NAME])
def test_a_manifest_cannot_list_what_is_unsafe(bundle: Path, write: Callable[[Files], Path], tmp_path: Path,
                                               path: str) -> None:
    files = with_manifest(bundle, entry(path, b"x"))
    with pytest.raises(BundleError, match=r"does not stay inside|the manifest lists manifest\."):
        opened(write({path: b"x", **files}), tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE", "DIRTYPE"])
def test_a_tar_holds_files_only(bundle: Path, tmp_path: Path, kind: str) -> None:
    archive = write_tar(tmp_path / "a.tar", content(bundle))
    with tarfile.open(archive, "a") as more:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = getattr(tarfile, kind), "/etc/passwd"
        more.addfile(info)
    with pytest.raises(BundleError, match="'link' is not a file but"):
        opened(archive, tmp_path)


def test_a_tar_has_no_holes(bundle: Path, tmp_path: Path) -> None:
    """GNU's sparse files: some bytes that say they are a terabyte of zeros."""
    archive = write_tar(tmp_path / "a.tar", content(bundle))
    with tarfile.open(archive, "a", format=tarfile.PAX_FORMAT) as more:
        info = tarfile.TarInfo("holes")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
        more.addfile(info)
    with pytest.raises(BundleError, match="'holes' is not a file but"):
        opened(archive, tmp_path)


@pytest.mark.parametrize(("mode", "name"), [(0o120777, "link"), (0o020666, "device"), (0o040755, "folder/")])
def test_a_zip_holds_files_only(bundle: Path, tmp_path: Path, mode: int, name: str) -> None:
    archive = write_zip(tmp_path / "a.zip", content(bundle))
    with zipfile.ZipFile(archive, "a") as more:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        more.writestr(info, "/etc/passwd" if mode == 0o120777 else "")
    with pytest.raises(BundleError, match=f"'{name}' is not a file but"):
        opened(archive, tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_name_is_there_once(bundle: Path, tmp_path: Path, ending: str) -> None:
    """Two readers that pick different ones would see different models."""
    archive = (write_zip if ending == ".zip" else write_tar)(tmp_path / f"a{ending}", content(bundle))
    if ending == ".zip":
        with zipfile.ZipFile(archive, "a") as more, pytest.warns(UserWarning, match="Duplicate"):
            more.writestr("model.onnx", "other")
    else:
        with tarfile.open(archive, "a") as more:
            more.addfile(tarfile.TarInfo("model.onnx"))
    with pytest.raises(BundleError, match=r"'model\.onnx' is there twice"):
        opened(archive, tmp_path)


def test_a_bomb_that_the_manifest_declares(bundle: Path, tmp_path: Path) -> None:
    zeros = bytes(RATIO_COUNTS + 1)
    archive = write_zip(tmp_path / "a.zip", {**with_manifest(bundle, entry("zeros", zeros)), "zeros": zeros})
    assert archive.stat().st_size * MAX_RATIO < len(zeros)
    with pytest.raises(BundleError, match="are no model: more than 200 times"):
        opened(archive, tmp_path)
    assert content(tmp_path / "out") == {}


def test_a_bomb_that_its_header_hides(bundle: Path, tmp_path: Path) -> None:
    """The header says as many bytes as the manifest; the stream holds a million more."""
    lie = entry("zeros", b"\0" * 100)
    archive = write_zip(tmp_path / "a.zip", {**with_manifest(bundle, lie), "zeros": bytes(1_000_000)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace((1_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(BundleError):
        opened(archive, tmp_path)
    assert (tmp_path / "out" / "zeros").stat().st_size <= 100


def test_a_limit_and_a_full_disk(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(bundle, tmp_path / "a.zip")
    with pytest.raises(BundleError, match=r"at most 10 are allowed"):
        opened(archive, tmp_path, max_bytes=10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 7}))
    with pytest.raises(BundleError, match=r"has room for 7"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("share", [0, .001, .05, .2, .4])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_archive_is_one_message(bundle: Path, tmp_path: Path, ending: str, share: float) -> None:
    archive = pack(bundle, tmp_path / f"a{ending}")
    data = archive.read_bytes()
    archive.write_bytes(data[:int(len(data) * share)])
    with pytest.raises(BundleError, match=r"a\.(zip|tar)"):
        opened(archive, tmp_path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_changed_byte_is_refused_or_harmless(bundle: Path, tmp_path: Path, ending: str) -> None:
    """One flipped byte in 150 places: the content is the bundle's (dates, padding), or the error is ours."""
    data, expected, refused = pack(bundle, tmp_path / f"a{ending}").read_bytes(), content(bundle), 0
    for place in range(0, len(data), len(data) // 150):
        (tmp_path / f"b{ending}").write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1:])
        folder = tmp_path / f"out{place}"
        folder.mkdir()
        try:
            extract(tmp_path / f"b{ending}", folder)
        except BundleError:
            refused += 1
        else:
            assert content(folder) == expected
    assert refused > 0


# Signatures

@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    pytest.importorskip("cryptography", reason="signatures need it")
    return new_key(tmp_path / "mine")


def test_signed_archives_open_with_their_key(bundle: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert private.stat().st_mode & 0o077 == 0
    archive = pack(bundle, tmp_path / "a.zip", key=private)
    assert content(opened(archive, tmp_path, key=public)) == content(bundle)
    assert unpack(archive, tmp_path / "unchecked.edgeq").is_dir()  # who demands no key reads it too


def test_openssl_agrees(bundle: Path, tmp_path: Path) -> None:
    """A key that openssl made signs here, and openssl accepts the signature; and the other way round."""
    pytest.importorskip("cryptography", reason="signatures need it")
    if which("openssl") is None:
        pytest.skip("no openssl")

    def openssl(*arguments: Any) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=tmp_path)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem")
    with zipfile.ZipFile(pack(bundle, tmp_path / "a.zip", key=tmp_path / "key.pem")) as archive:
        archive.extract(SIGNATURE_NAME, tmp_path)
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-rawin", "-in", bundle / FILE_NAME,
            "-sigfile", SIGNATURE_NAME)

    openssl("pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", bundle / FILE_NAME, "-out", "theirs")
    files = {**content(bundle), SIGNATURE_NAME: (tmp_path / "theirs").read_bytes()}
    opened(write_tar(tmp_path / "b.tar", files), tmp_path, key=tmp_path / "pub.pem")


def test_refuses_what_the_key_has_not_signed(bundle: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    public = keys[1]
    (tmp_path / "out").mkdir()
    other, other_public = new_key(tmp_path / "other")
    with pytest.raises(BundleError, match=r"it is not signed, and a signature by mine\.pub\.pem is demanded"):
        extract(pack(bundle, tmp_path / "a.zip"), tmp_path / "out", key=public)
    with pytest.raises(BundleError, match=r"not by mine\.pub\.pem, or its manifest was changed"):
        extract(pack(bundle, tmp_path / "b.zip", key=other), tmp_path / "out", key=public)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        signed = {**content(bundle), SIGNATURE_NAME: archive.read(SIGNATURE_NAME)}
    changed = json.loads(signed[FILE_NAME]) | {"name": "evil"}
    with pytest.raises(BundleError, match="or its manifest was changed"):
        extract(write_zip(tmp_path / "c.zip", {**signed, FILE_NAME: json.dumps(changed).encode()}), tmp_path / "out",
                key=other_public)
    assert content(tmp_path / "out") == {}


@pytest.mark.parametrize(("data", "message"), [
    (b"no key", "is not a public key in PEM"), (None, "cannot read the key"), ("rsa", "is not an ed25519 key"),
    ("private", "is not a public key in PEM"),
])
def test_refuses_a_key(bundle: Path, tmp_path: Path, keys: tuple[Path, Path], data: Any, message: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    if data == "rsa":
        data = rsa.generate_private_key(65537, 2048).public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    elif data == "private":
        data = keys[0].read_bytes()
    if data is not None:
        (tmp_path / "bad.pem").write_bytes(data)
    with pytest.raises(BundleError, match=message):
        opened(pack(bundle, tmp_path / "a.zip"), tmp_path, key=tmp_path / "bad.pem")


def test_what_pack_refuses(make_bundle: MakeBundle, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = make_bundle()
    archive = pack(folder, tmp_path / "a.zip")
    with pytest.raises(UsageError, match=r"a\.zip exists; replace it with --force"):
        pack(folder, archive)
    with pytest.raises(UsageError, match=r"ends in \.zip or \.tar"):
        pack(folder, tmp_path / "a.rar")
    with pytest.raises(UsageError, match="a key is never replaced"):
        new_key(tmp_path / "mine")
    with pytest.raises(UsageError, match="no private key in PEM"):
        pack(folder, tmp_path / "b.zip", key=keys[1])
    assert not (tmp_path / "b.zip").exists()
    (folder / "model.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"copy the bundle again"):
        pack(folder, archive, force=True)
    assert zipfile.is_zipfile(archive)
