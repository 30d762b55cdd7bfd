"""A bundle appears as a whole or not at all, whatever happens on the way."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeq.bundle import folder as bundle
from edgeq.bundle.folder import check_free, file_entries, new_bundle, sha256
from edgeq.errors import BundleError
from edgeq_runtime.manifest import FILE_NAME


def write(path: Path, text: str, *, force: bool = False) -> None:
    with new_bundle(path, force=force) as draft:
        (draft / FILE_NAME).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_bundle_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.edgeq"
    with new_bundle(path, force=False) as draft:
        (draft / FILE_NAME).write_text("{}")
        assert not path.exists()
    assert names(path.parent) == ["a.edgeq"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def half() -> None:
        with new_bundle(tmp_path / "a.edgeq", force=False) as draft:
            (draft / "model.onnx").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert names(tmp_path) == []


def test_a_failure_keeps_the_old_bundle(tmp_path: Path) -> None:
    path = tmp_path / "a.edgeq"
    write(path, "old")
    with pytest.raises(ZeroDivisionError), new_bundle(path, force=True):
        raise ZeroDivisionError
    assert (path / FILE_NAME).read_text() == "old"
    assert names(tmp_path) == ["a.edgeq"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.edgeq"

    def slow() -> None:
        with new_bundle(path, force=False) as draft:
            (draft / FILE_NAME).write_text("slow")
            path.mkdir()  # another process ends first
            (path / FILE_NAME).write_text("fast")

    with pytest.raises(BundleError, match="--force"):
        slow()
    assert (path / FILE_NAME).read_text() == "fast"
    assert names(tmp_path) == ["a.edgeq"]


@pytest.mark.parametrize("exchanges", [True, False], ids=["one step", "two steps"])
def test_force_replaces_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    """In one step where the file system can; the other way is for those that cannot."""
    if not exchanges:
        monkeypatch.setattr(bundle, "_exchange", lambda a, b: False)
    path = tmp_path / "a.edgeq"
    write(path, "old")
    (path / "left over").write_text("from the old one")
    write(path, "new", force=True)
    assert (path / FILE_NAME).read_text() == "new"
    assert names(path) == [FILE_NAME]
    assert names(tmp_path) == ["a.edgeq"]


def test_linux_exchanges_two_folders(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
        (folder / folder.name).touch()
    if not bundle._exchange(a, b):
        pytest.skip("this file system cannot exchange two names")
    assert (names(a), names(b)) == (["b"], ["a"])


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder"])
@pytest.mark.parametrize("force", [True, False])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str, force: bool) -> None:
    path = tmp_path / "thesis"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        if kind == "folder":
            (path / "chapter").write_text("mine")
    with pytest.raises(BundleError, match=r"thesis exists and is not a bundle.* -o"):
        check_free(path, force=force)


def test_an_existing_bundle_needs_force(tmp_path: Path) -> None:
    write(tmp_path / "a.edgeq", "old")
    with pytest.raises(BundleError, match=r"a\.edgeq exists; replace it with --force"):
        write(tmp_path / "a.edgeq", "new")


def test_a_file_in_the_way_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"file is not a folder"):
        check_free(tmp_path / "file" / "a.edgeq", force=False)


def test_a_folder_without_permission_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(BundleError, match="no permission"):
        check_free(tmp_path / "a.edgeq", force=False)


def test_a_full_disk_is_one_message_and_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "a.edgeq"
    with pytest.raises(BundleError, match=r"a\.edgeq: No space left on device; make room"), \
            new_bundle(path, force=False):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("moment", ["in the block", "between the two renames"])
def test_a_kill_leaves_the_old_bundle_to_the_next_run(tmp_path: Path, moment: str) -> None:
    """SIGKILL cannot be caught: what counts is what is on the disk, and what the next conversion makes of it."""
    path = tmp_path / "a.edgeq"
    write(path, "old")
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from edgeq.bundle import folder as bundle
        path = Path({str(path)!r})
        if {moment!r} != "in the block":
            bundle._exchange = lambda a, b: False
            rename = Path.rename
            def once(self, target):
                rename(self, target)
                {kill}
            Path.rename = once
        with bundle.new_bundle(path, force=True) as draft:
            (draft / "manifest.json").write_text("new")
            if {moment!r} == "in the block":
                {kill}
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    if moment == "in the block":
        assert (path / FILE_NAME).read_text() == "old"
    assert len(names(tmp_path)) == 2

    with pytest.raises(ZeroDivisionError), new_bundle(path, force=True):
        raise ZeroDivisionError
    assert (path / FILE_NAME).read_text() == "old"
    assert names(tmp_path) == ["a.edgeq"]


def test_drafts_of_conversions_at_work_are_left_alone_and_others_swept(tmp_path: Path) -> None:
    """Threads and containers share the number of a process; what tells them apart is who holds the draft."""
    path = tmp_path / "a.edgeq"
    left, similar = tmp_path / ".a.edgeq.edgeq-draft-x", tmp_path / ".a.edgeq.b.edgeq-draft-x"
    for folder in (left, similar):
        folder.mkdir()
    with new_bundle(path, force=False) as draft:
        (draft / FILE_NAME).write_text("{}")
        assert not left.exists()
        with ThreadPoolExecutor(1) as other:
            other.submit(write, tmp_path / "a.edgeq", "other").result()
        assert names(tmp_path) == sorted([draft.name, similar.name, "a.edgeq"])
        shutil.rmtree(path)
    assert names(tmp_path) == sorted([similar.name, "a.edgeq"])


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path, exists: bool) -> None:
    place, link = tmp_path / "disk" / "a.edgeq", tmp_path / "link.edgeq"
    place.parent.mkdir()
    if exists:
        write(place, "old")
    link.symlink_to(place)
    for content in ("new", "newer"):
        write(link, content, force=True)
        assert link.is_symlink()
        assert (place / FILE_NAME).read_text() == content
    assert names(tmp_path) == ["disk", "link.edgeq"]
    assert names(place.parent) == ["a.edgeq"]


def test_file_entries_list_every_file_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "model.mlpackage").mkdir()
    for name in (FILE_NAME, "model.mlpackage/Manifest.json", f"model.mlpackage/{FILE_NAME}", "report.json"):
        (tmp_path / name).write_text(name)
    entries = file_entries(tmp_path)
    assert [entry.path for entry in entries] == [
        "model.mlpackage/Manifest.json", f"model.mlpackage/{FILE_NAME}", "report.json"]
    assert all(entry.sha256 == sha256(tmp_path / entry.path) and entry.bytes == len(entry.path) for entry in entries)
