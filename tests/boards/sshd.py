"""A private OpenSSH daemon: own keys, a high port of the loopback device, and nothing of this machine's settings."""
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv XDG_CACHE_HOME={folder}/board
"""
CLIENT = """
Host board
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""
# As root, sshd wants a user and a folder of its own; in a mount namespace nobody else sees them.
AS_ROOT = """
cp /etc/passwd {folder}/passwd && echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin' >> {folder}/passwd
mount --bind {folder}/passwd /etc/passwd && mount -t tmpfs none /run && mkdir /run/sshd && {mounts} exec "$@"
"""


def find_sshd() -> str | None:
    return (os.environ.get("EDGEQ_SSHD") or shutil.which("sshd")
            or next((path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(path).exists()), None))


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@dataclass(frozen=True)
class Sshd:
    """folder: keys, configuration, and the board's cache folder `board`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    @contextmanager
    def started(cls, program: str, folder: Path, mounts: str = "") -> Iterator[Sshd]:
        """mounts: shell commands ending in &&, in the daemon's own mount namespace (only as root)."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "board").mkdir()
        host_key, key = make_key(folder / "host_key"), make_key(folder / "key")
        shutil.copy(f"{key}.pub", folder / "authorized_keys")
        public = Path(f"{host_key}.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
        (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder))
        (folder / "config").write_text(CLIENT.format(port=port, folder=folder))
        command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
        if os.getuid() == 0:
            script = AS_ROOT.format(folder=folder, mounts=mounts)
            command = ["unshare", "--mount", "sh", "-ec", script, "sh", *command]
        libraries = [str(path) for path in Path(program).parents[1].glob("lib/*-linux-gnu") if program[:5] != "/usr/"]
        environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(libraries)}
        with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
            try:
                wait_for(port, process, folder / "log")
                yield cls(folder, port, process)
            finally:
                process.terminate()

    def use_as_board(self, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
        """Make `ssh board` reach it. ssh reads the configuration in the home of the password file, whatever $HOME says.

        changes: other values for keywords of the configuration.
        """
        text = (self.folder / "config").read_text()
        for key, value in changes.items():
            text = "".join(f"  {key} {value}\n" if line.split()[:1] == [key] else line
                           for line in text.splitlines(keepends=True))
        config = self.folder / "used_config"
        config.write_text(text)
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh", path=_path_without(programs))} '
                                      f'-F {config} "$@"\n')
        (programs / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{_path_without(programs)}")


def _path_without(folder: Path) -> str:
    return os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != str(folder))


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"sshd does not answer: {log.read_text()}", pytrace=False)


if __name__ == "__main__":  # python tests/boards/sshd.py FOLDER: for a look by hand
    with Sshd.started(find_sshd() or "sshd", Path(sys.argv[1])) as daemon:
        daemon.process.wait()
