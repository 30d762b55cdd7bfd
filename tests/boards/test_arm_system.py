"""Real daemons of an ARM userland, run by qemu: OpenSSH's sshd, and adbd of Android's platform tools (without Android).

Needs what test_emulated.py needs, root and Linux 6.7.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from boards import arm_system
from boards.sshd import CLIENT, Sshd, make_key, wait_for

from edgeq.boards.addresses import Ssh
from edgeq.boards.debian import emulator, sysroot
from edgeq.boards.profiles import PYTHON
from edgeq.boards.runner import Job, run_on_board
from edgeq.boards.ssh import OverSsh
from edgeq.conversion.pipeline import Options, convert_all

pytestmark = [pytest.mark.full, pytest.mark.skipif(bool(arm_system.is_possible()), reason=arm_system.is_possible())]
SAMPLE = Path(__file__).parents[2] / "samples" / "digits"
TARGETS = ("onnxruntime", "tflite")
PACKAGES = (*PYTHON, "dash", "coreutils", "openssh-server", "adbd")
PORT = 22723
SSHD_CONFIG = f"""
Port {PORT}
ListenAddress 127.0.0.1
HostKey /etc/ssh/host_key
UsePAM no
PidFile none
StrictModes no
PasswordAuthentication no
SetEnv QEMU_CPU=cortex-a72
"""
ADBD = "/usr/lib/android-sdk/platform-tools/adbd"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    options = Options(calibration=str(SAMPLE / "calibration.npz"))
    return [bundle.path for bundle in
            convert_all(SAMPLE / "digits.onnx", TARGETS, options, tmp_path_factory.mktemp("bundles"))]


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A copy of the userland that daemons can change."""
    if not shutil.which("apt-get"):
        pytest.skip("needs apt-get")
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", sysroot("trixie", "arm64", PACKAGES), root], check=True)
    for name in ("dev", "proc", "run", "tmp", "root/.ssh", "data/local/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n"
                                     "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    return root


@contextmanager
def running(root: Path, *command: str, net: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the userland, on a Cortex-A72."""
    words = [sys.executable, arm_system.__file__, *["--net"] * net, root, emulator("aarch64"), *command]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "QEMU_CPU": "cortex-a72"}
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_over_the_sshd_of_an_arm_board(system: Path, bundles: list[Path], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    host_key, key = make_key(tmp_path / "host_key"), make_key(tmp_path / "key")
    shutil.copy(host_key, system / "etc/ssh/host_key")
    shutil.copy(f"{key}.pub", system / "root/.ssh/authorized_keys")
    (system / "etc/ssh/sshd_config").write_text(SSHD_CONFIG)
    public = Path(f"{host_key}.pub").read_text().split()[:2]
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{PORT} {' '.join(public)}\n")
    (tmp_path / "config").write_text(CLIENT.format(port=PORT, folder=tmp_path))
    with running(system, "/usr/sbin/sshd", "-D", "-e") as daemon:
        wait_for(PORT, daemon, tmp_path / "config")
        Sshd(tmp_path, PORT, daemon).use_as_board(monkeypatch)
        with closing(OverSsh(Ssh("board", "root"), "python3")) as transport:
            for bundle in bundles:
                found = run_on_board(transport, Job(bundle))
                assert found.ok, found
                assert (found.facts.machine, found.facts.core) == ("aarch64", "Cortex-A72")
            assert run_on_board(transport, Job(bundles[0])).pushed_bytes == 0


def test_over_the_adbd_of_an_arm_board(system: Path, bundles: list[Path], tmp_path: Path) -> None:
    """adbd listens on every address, so client and daemon share a network of their own."""
    client = sysroot("trixie", subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip(), ["adb"])
    programs = tmp_path / "bin"
    programs.mkdir()
    libraries = ":".join(str(folder) for folder in client.glob("usr/lib/*-linux-gnu*") for folder in (
        folder, folder / "android"))
    loader = next(client.glob("usr/lib64/ld-linux-*"), None) or next(client.glob("usr/lib/ld-linux-*"))
    (programs / "adb").write_text(f'#!/bin/sh\nexec {loader} --library-path {libraries} '
                                  f'{client}/usr/lib/android-sdk/platform-tools/adb "$@"\n')
    (programs / "adb").chmod(0o755)
    with running(system, ADBD, net=True) as daemon:
        inside = ["nsenter", "--net", "--target", _child_of(daemon.pid)]
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path),
                       "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                       "XDG_CACHE_HOME": str(Path.home() / ".cache")}
        # In the foreground: by itself, adb would start its server without the loader.
        with subprocess.Popen([*inside, "adb", "nodaemon", "server"], env=environment, stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL) as server:
            try:
                _until_connected(inside, environment)
                for bundle in bundles:
                    done = subprocess.run([*inside, sys.executable, "-m", "edgeq", "test", bundle, "--json",
                                           "--board", "adb:127.0.0.1:5555"], env=environment, capture_output=True,
                                          text=True, check=False)
                    assert done.returncode == 0, done.stdout + done.stderr
                    row = json.loads(done.stdout)[0]
                    assert row["self_test"]["status"] in ("pass", "within tolerance")
                    assert row["facts"]["root"] == "/data/local/tmp/edgeq-board"
            finally:
                server.kill()


def _child_of(process: int) -> str:
    """The process that has entered the namespaces: the last in the chain of children."""
    for _ in range(100):
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        if found and os.readlink(f"/proc/{found[0]}/ns/net") != os.readlink("/proc/self/ns/net"):
            return found[0]
        subprocess.run(["sleep", "0.1"], check=True)
    pytest.fail("no namespace")


def _until_connected(inside: list[str], environment: dict[str, str]) -> None:
    for _ in range(60):
        done = subprocess.run([*inside, "adb", "connect", "127.0.0.1:5555"], env=environment, capture_output=True,
                              text=True, check=False)
        if "connected to" in done.stdout:
            return
        subprocess.run(["sleep", "0.5"], check=True)
    pytest.fail(f"adb does not connect: {done.stdout}{done.stderr}")
