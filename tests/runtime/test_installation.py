"""Updates in the field: the new version works, or the old one stays."""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_bundles import MakeBundle, entries

import edgeq_runtime
from edgeq.bundle.archive import new_key, pack
from edgeq_runtime import BundleError, EngineError, install, installation, rollback
from edgeq_runtime.__main__ import main
from edgeq_runtime.selftest import Case, Tolerance, write_selftest

INPUTS = {"image": np.ones((1, 3), np.float32), "offset": np.zeros(3, np.float32)}


def archive(make_bundle: MakeBundle, tmp_path: Path, name: str, **changes: Any) -> Path:
    return pack(make_bundle(name=f"{name}.edgeq", **changes), tmp_path / f"{name}.zip")


@pytest.fixture
def archives(make_bundle: MakeBundle, tmp_path: Path) -> list[Path]:
    """Three versions, told apart by their only label."""
    return [archive(make_bundle, tmp_path, name, labels=(name,)) for name in ("one", "two", "three")]


def running(folder: Path) -> str:
    """The label of the version in use, after it has run and passed its self-test."""
    with edgeq_runtime.load(folder, threads=1, verify=True) as model:
        assert model.self_test().status == "pass"
        return str(model.manifest.labels[0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_updates_keep_the_version_before(archives: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    for number, path in enumerate(archives, start=1):
        found = install(path, folder)
        assert found.path.name == f"version-{number}"
        assert found.changed
        assert found.self_test is not None
        assert running(folder) == path.stem
    assert names(folder) == [".lock", "current", "version-2", "version-3"]
    rollback(folder)
    assert running(folder) == "two"
    with pytest.raises(BundleError, match="no version before"):
        rollback(folder)
    install(archives[0], folder)
    assert running(folder) == "one"


def test_the_same_version_again_changes_nothing(archives: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    install(archives[0], folder)
    again = install(archives[0], folder)
    assert not again.changed
    assert names(folder) == [".lock", "current", "version-1"]
    (folder / "version-1" / "model.onnx").write_bytes(b"a worn-out SD card")
    assert install(archives[0], folder).changed
    assert running(folder) == "one"


def test_a_failed_self_test_leaves_the_old_version(archives: list[Path], make_bundle: MakeBundle,
                                                   tmp_path: Path) -> None:
    folder, bad = tmp_path / "installed", make_bundle(name="bad.edgeq")
    outputs = {"sum": np.full((1, 3), 9, np.float32), "count": np.array(3)}
    write_selftest(bad / "selftest.npz", [Case(INPUTS, outputs)], Tolerance("exact"))
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["files"] = [entry.__dict__ for entry in entries(bad)]
    (bad / "manifest.json").write_text(json.dumps(manifest))
    broken = pack(bad, tmp_path / "bad.zip")
    install(archives[0], folder)
    with pytest.raises(BundleError, match="its self-test fails on this device, so the version before stays: fail"):
        install(broken, folder)
    assert running(folder) == "one"
    assert names(folder) == [".lock", "current", "version-1"]
    assert install(broken, folder, self_test=False).path.name == "version-2"
    assert rollback(folder).name == "version-1"


@pytest.mark.parametrize(("changes", "message"), [
    ({"engine_version": ">=99"}, "needs onnxruntime >=99"), ({"engine": "npu"}, "no engine 'npu'"),
])
def test_what_this_device_cannot_load_is_not_installed(archives: list[Path], make_bundle: MakeBundle, tmp_path: Path,
                                                       changes: dict[str, Any], message: str) -> None:
    folder = tmp_path / "installed"
    install(archives[0], folder)
    with pytest.raises(EngineError, match=message):
        install(archive(make_bundle, tmp_path, "new", **changes), folder)
    assert running(folder) == "one"
    assert names(folder) == [".lock", "current", "version-1"]


def test_a_key_is_demanded_from_the_archive(make_bundle: MakeBundle, archives: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="signatures need it")
    private, public = new_key(tmp_path / "key")
    with pytest.raises(BundleError, match="it is not signed"):
        install(archives[0], tmp_path / "installed", key=public)
    with pytest.raises(BundleError, match="nothing is installed"):
        rollback(tmp_path / "installed")
    install(pack(make_bundle(labels=("signed",)), tmp_path / "s.tar", key=private), tmp_path / "installed", key=public)
    assert running(tmp_path / "installed") == "signed"


def test_a_full_disk_leaves_the_old_version(archives: list[Path], tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "installed"
    install(archives[0], folder)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for place in ("replace", "fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, place, full)
            if place == "rename":
                patch.setattr(Path, "rename", full)
            with pytest.raises(BundleError, match=r"cannot install into .*: No space left on device"):
                install(archives[1], folder)
        assert running(folder) == "one"
        assert [name for name in names(folder) if "version" in name or "draft" in name] == ["version-1"]


@pytest.mark.parametrize(("name", "message"), [
    ("manifest.json", "is a bundle itself"), ("thesis.txt", "holds 'thesis.txt' and no installation")])
def test_somebody_elses_folder_is_left_alone(archives: list[Path], tmp_path: Path, name: str, message: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(BundleError, match=message):
        install(archives[0], folder)
    assert names(folder) == [name]


def test_one_installation_at_a_time(archives: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    with installation._locked(folder), pytest.raises(BundleError, match=r"another installation .* is at work"):
        install(archives[0], folder)
    install(archives[0], folder)


@pytest.mark.parametrize("text", [
    "", "{}", "[]", '{"current": "../evil"}', '{"current": 3}', '{"current": "version-1", "y": 1}', None])
def test_a_damaged_pointer_heals_from_whole_versions(archives: list[Path], tmp_path: Path, text: str | None) -> None:
    folder = tmp_path / "installed"
    for path in archives:
        install(path, folder)
    if text is None:
        (folder / "current").unlink()
    else:
        (folder / "current").write_text(text)
    assert running(folder) == "three"
    (folder / "version-3" / "model.onnx").write_bytes(b"a worn-out SD card")
    assert running(folder) == "two"
    assert install(archives[2], folder).previous == "version-2"
    assert running(folder) == "three"
    for name in names(folder):
        if name.startswith("version-"):
            (folder / name / "model.onnx").unlink()
    (folder / "current").write_text("{}")
    with pytest.raises(BundleError, match=r"current cannot be read .* no version is whole"):
        edgeq_runtime.load(folder)


@pytest.mark.parametrize(("old", "new", "message"), [
    ({"product": "door"}, {"product": "gate"}, "it is 'gate', and .* holds 'door'"),
    ({}, {"product": "gate"}, "it is 'gate', and .* holds 'affine'"),
    ({"version": "1.10"}, {"version": "1.9.9"}, "it is version 1.9.9, and .* holds 1.10; .*--allow-downgrade"),
    ({"version": "1.10"}, {}, "it is version unknown, and .* holds 1.10"),
])
def test_another_product_or_an_older_version_is_refused(make_bundle: MakeBundle, tmp_path: Path, old: dict[str, str],
                                                        new: dict[str, str], message: str) -> None:
    folder = tmp_path / "installed"
    install(archive(make_bundle, tmp_path, "old", labels=("old",), **old), folder)
    later = archive(make_bundle, tmp_path, "new", labels=("new",), **new)
    with pytest.raises(BundleError, match=message):
        install(later, folder)
    assert running(folder) == "old"
    if "product" not in new:
        assert install(later, folder, allow_downgrade=True).changed
        install(archive(make_bundle, tmp_path, "same", labels=("same",), **{**old, "version": "1.10.0"}), folder)
        assert running(folder) == "same"


def test_an_engine_that_ends_its_process_ends_the_self_test_alone(archives: list[Path], tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of the same name, first on the path, that dies as LiteRT does of some files."""
    folder, poison = tmp_path / "installed", tmp_path / "poison"
    install(archives[0], folder)
    poison.mkdir()
    (poison / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.syspath_prepend(poison)
    with pytest.raises(BundleError, match=r"ended the process of the self-test on this device \(exit code -11\)"):
        install(archives[1], folder)
    monkeypatch.undo()
    assert running(folder) == "one"


def test_where_no_process_can_be_started_the_self_test_runs_in_place(archives: list[Path], tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "ios")
    found = install(archives[0], tmp_path / "installed")
    assert (found.self_test is not None, found.isolated) == (True, False)


def test_every_byte_is_on_the_disk_before_the_switch(archives: list[Path], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill does not lose written data, a power cut does: what was not synced before the rename may be empty after."""
    folder, synced, at_switch = tmp_path / "installed", set[tuple[int, int]](), []
    fsync, switch = os.fsync, os.replace

    def identity(path: Path) -> tuple[int, int]:
        return path.stat().st_ino, path.stat().st_size

    def recording_sync(handle: int) -> None:
        fsync(handle)
        synced.add((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def recording_switch(source: Path, target: Path) -> None:
        version = folder / json.loads(Path(source).read_text())["current"]
        at_switch.append([path.name for path in [folder, version, *version.rglob("*"), Path(source)]
                          if identity(path) not in synced])
        switch(source, target)

    monkeypatch.setattr(os, "fsync", recording_sync)
    monkeypatch.setattr(os, "replace", recording_switch)
    install(archives[0], folder)
    assert at_switch == [[]]


INSTALL = """
import sys
import onnxruntime
from edgeq_runtime import install
sys.stdout.write("go")
sys.stdout.flush()
install(sys.argv[1], sys.argv[2], threads=1)
"""


def killed_install(path: Path, folder: Path, seconds: float) -> bool:
    """Start an installation and kill it `seconds` after it began -> whether it was still at work."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", INSTALL, path, folder], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(2)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def test_a_kill_at_any_moment_leaves_a_working_version(archives: list[Path], tmp_path: Path) -> None:
    """benchmarks/install.py does the same 200 times."""
    folder, chance = tmp_path / "installed", random.Random(4)
    install(archives[0], folder)
    began = time.perf_counter()
    install(archives[1], folder)
    duration = time.perf_counter() - began
    versions = {"two"}
    for number in range(10):
        path = archives[number % 3]
        killed_install(path, folder, chance.uniform(0, duration))
        versions.add(path.stem)
        found = running(folder)
        assert found in versions
        versions = {found}
    install(archives[0], folder)
    assert running(folder) == "one"
    assert len([name for name in names(folder) if name.startswith("version-")]) <= 2
    assert ".draft" not in names(folder)


def test_the_command_line_installs_and_goes_back(archives: list[Path], tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "installed")
    assert main(["install", str(archives[0]), folder]) == 0
    assert capsys.readouterr().out.strip().endswith("version-1 is in use: self-test pass (1 sample)")
    assert main(["install", str(archives[1]), folder, "--json", "--no-self-test"]) == 0
    assert json.loads(capsys.readouterr().out)["previous"] == "version-1"
    assert main([folder, "self-test"]) == 0
    assert main(["rollback", folder]) == 0
    assert "version-1 is in use again" in capsys.readouterr().out
    assert main(["install", "nowhere.zip", folder]) == 1
    assert capsys.readouterr().err == "error: cannot read nowhere.zip: No such file or directory\n"
