"""Debian's packages for another processor, unpacked into the cache: no root, and nothing of this machine changes.

apt resolves what depends on what and checks every signature; it is told to keep all that it knows in a folder of its
own. Maintainer scripts are not run: a library needs none.
"""
from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeq.boards.cache import cache_folder, made_once
from edgeq.errors import BoardError

MIRROR: Final = "http://deb.debian.org/debian"  # not https: apt checks the signatures
MIRROR_VARIABLE: Final = "EDGEQ_DEBIAN_MIRROR"
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
QEMU_RELEASE: Final = "trixie"  # qemu 10: 7.2 gives programs the host's /proc/cpuinfo, and its SME is wrong
MERGED: Final = ("bin", "sbin", "lib")  # https://wiki.debian.org/UsrMerge
UNREAD: Final = ("doc", "man", "locale", "info", "zoneinfo", "lintian", "bash-completion")  # of /usr/share
NEEDED_PROGRAMS: Final = ("apt-get", "dpkg", "dpkg-deb", "tar")


def emulator(architecture: str) -> Path:
    """The static qemu-user binary for "aarch64" or "arm"."""
    def make(draft: Path) -> None:
        host = _output("dpkg", "--print-architecture").strip()
        for package in _download(draft, QEMU_RELEASE, host, ["qemu-user"], closure=False):
            _unpack(package, draft, "./usr/bin/qemu-aarch64", "./usr/bin/qemu-arm")
        _forget(draft)

    return made_once(cache_folder() / "qemu" / QEMU_RELEASE, make) / "usr" / "bin" / f"qemu-{architecture}"


def sysroot(release: str, architecture: str, packages: Sequence[str]) -> Path:
    """A folder with the packages of a release ("bookworm") and architecture ("arm64"), and all that they need."""
    def make(draft: Path) -> None:
        for name in MERGED:
            (draft / "usr" / name).mkdir(parents=True)
            (draft / name).symlink_to(f"usr/{name}")
        for package in _download(draft, release, architecture, packages, closure=True):
            _unpack(package, draft, *(f"--exclude=./usr/share/{name}" for name in UNREAD))
        _forget(draft)

    return made_once(cache_folder() / "sysroot" / f"{release}-{architecture}-{'-'.join(packages)}", make)


def _download(folder: Path, release: str, architecture: str, packages: Sequence[str], *, closure: bool) -> list[Path]:
    """The .deb files of the packages, with `closure` of all that they depend on."""
    _check_host()
    apt = folder / "apt"
    for name in ("lists/partial", "state", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {release} main\n")
    settings = {
        "APT::Architecture": architecture, "APT::Architectures": architecture, "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "", "Acquire::Languages": "none", "Acquire::Retries": "2", "Acquire::http::Timeout": "30",
        "Dir::State": apt / "state", "Dir::State::Lists": apt / "lists", "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache", "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null", "Dir::Etc::preferencesparts": "/dev/null",
    }
    command = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    archives = apt / "cache" / "archives"
    _output(*command, "update")
    if closure:
        _output(*command, "install", "--yes", "--download-only", *packages)
    else:
        _output(*command, "download", *packages, cwd=archives)
    return sorted(archives.glob("*.deb"))


def _mirror() -> str:
    return os.environ.get(MIRROR_VARIABLE, MIRROR)


def _check_host() -> None:
    absent = [name for name in NEEDED_PROGRAMS if shutil.which(name) is None]
    if absent:
        raise BoardError(f"emulated boards are unpacked from Debian's packages and need {', '.join(absent)}: use a "
                         "Debian or Ubuntu machine or container, or a real board over ssh")
    if not Path(KEYRING).is_file():
        raise BoardError(f"{KEYRING}, which Debian's packages are checked with, is missing: "
                         "sudo apt install debian-archive-keyring")


def _output(*command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C", "APT_CONFIG": "/dev/null", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise BoardError(f"Debian's packages cannot be fetched from {_mirror()} ({MIRROR_VARIABLE} names "
                         f"another mirror): {'; '.join(lines[-3:])}")
    return done.stdout


def _unpack(package: Path, folder: Path, *options: str) -> None:
    """The files of a .deb. Links to folders (/lib) stay links, where dpkg -x would replace them."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as opened:
        done = subprocess.run(["tar", "x", "--keep-directory-symlink", "-C", str(folder), *options],
                              stdin=opened.stdout, capture_output=True, text=True, check=False)
    if done.returncode or opened.returncode:
        raise BoardError(f"cannot unpack {package.name}: {done.stderr.strip() or 'dpkg-deb failed'}")


def _forget(folder: Path) -> None:
    shutil.rmtree(folder / "apt")
