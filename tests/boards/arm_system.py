"""A whole ARM userland that this machine's kernel runs through qemu: in namespaces of its own, with a private
binfmt_misc (Linux 6.7 or newer), so that ARM programs start each other and nothing outside changes.

    python tests/boards/arm_system.py [--net] ROOT QEMU COMMAND...     runs COMMAND in a chroot at ROOT
"""
from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
# The first 20 bytes of an aarch64 program, and which of their bits count: scripts/qemu-binfmt-conf.sh of qemu.
# F: the kernel opens qemu now, so that it is found inside the chroot too. P: argv[0] is kept.
BINFMT = (rb":qemu:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
          rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:")


def is_possible() -> str:
    """Why it is not, or ''."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if sys.platform != "linux" or release < (6, 7):
        return "needs Linux 6.7 for a private binfmt_misc"
    return "" if os.getuid() == 0 else "needs root to map all user numbers into a namespace"


def enter(net: bool) -> None:
    """New namespaces in a child, all user numbers mapped; this process waits for the child and ends as it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.read(ready[0], 1)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text("0 0 65536")
        os.write(go[1], b"x")
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | (CLONE_NEWNET if net else 0)):
        sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    die_with_parent(libc)
    first = os.fork()  # of the new process numbers: when it ends, the kernel ends all others
    if first:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
    os.setgid(0)
    os.setuid(0)
    die_with_parent(libc)


def die_with_parent(libc: ctypes.CDLL) -> None:
    """By SIGKILL, because number 1 of a namespace ignores everything else; after the last change of user, which resets
    it (prctl(2), PR_SET_PDEATHSIG).
    """
    libc.prctl(1, signal.SIGKILL)


def mount(root: Path, qemu: Path) -> None:
    binfmt = root / "tmp" / "binfmt"
    binfmt.mkdir(parents=True, exist_ok=True)
    for arguments in (["-t", "binfmt_misc", "none", binfmt], ["--rbind", "/dev", root / "dev"],
                      ["-t", "proc", "none", root / "proc"], ["-t", "tmpfs", "none", root / "run"]):
        Path(arguments[-1]).mkdir(exist_ok=True)
        subprocess.run(["mount", *map(str, arguments)], check=True)
    (binfmt / "register").write_bytes(BINFMT + os.fsencode(qemu) + b":FP")
    (root / "run" / "sshd").mkdir()


def main(arguments: list[str]) -> None:
    net = arguments[0] == "--net"
    root, qemu, *command = arguments[net:]
    enter(net)
    mount(Path(root), Path(qemu))
    if net:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.chroot(root)
    os.chdir("/")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
