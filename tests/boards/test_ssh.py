"""The same over a real sshd on the loopback device, with OpenSSH's own client."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boards.local import UseWheel
from boards.sshd import Sshd, find_sshd, make_key
from cli.badinput import samples

from edgeq.boards.addresses import Ssh
from edgeq.boards.runner import Job, probe, run_on_board
from edgeq.boards.ssh import OverSsh
from edgeq.errors import BoardError


def job(bundle: Path) -> Job:
    return Job(bundle, engine="installed", timeout=60)


@pytest.fixture
def board(sshd: Sshd) -> Iterator[Path]:
    """The board's folder, empty afterwards."""
    yield sshd.folder / "board" / "edgeq-board"
    subprocess.run(["rm", "-rf", str(sshd.folder / "board" / "edgeq-board")], check=True)


def test_the_self_test_runs_there(over_ssh: OverSsh, bundle: Path, board: Path) -> None:
    found = run_on_board(over_ssh, job(bundle))
    assert found.ok
    assert found.facts.root == str(board)
    assert found.pushed_bytes > 0
    assert run_on_board(over_ssh, job(bundle)).pushed_bytes == 0
    assert not list((board / "incoming").iterdir())


def test_outputs_come_back(over_ssh: OverSsh, bundle: Path, board: Path, tmp_path: Path) -> None:
    from edgeq_runtime import load

    np.savez(tmp_path / "in.npz", image=samples(1))
    done = replace(job(bundle), self_test=False, inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npz")
    assert run_on_board(over_ssh, done).ok
    with load(bundle) as model, np.load(tmp_path / "out.npz") as got:
        np.testing.assert_array_equal(got["scores"], model.run({"image": samples(1)})["scores"])
    assert not list((board / "incoming").iterdir())


def test_one_connection_carries_everything_and_ends(over_ssh: OverSsh, bundle: Path, board: Path, sshd: Sshd) -> None:
    run_on_board(over_ssh, job(bundle))
    before = (sshd.folder / "log").read_text().count("Accepted publickey")
    run_on_board(over_ssh, job(bundle))
    assert (sshd.folder / "log").read_text().count("Accepted publickey") == before
    over_ssh.close()
    with pytest.raises(BoardError):
        probe(over_ssh)


@pytest.mark.parametrize(("changes", "message"), [
    ({"Port": "1"}, "Connection refused .*no sshd listens"),
    ({"HostName": "nowhere.invalid"}, "Could not resolve hostname .*spelled right"),
    ({"UserKnownHostsFile": "/dev/null"}, "Host key verification failed.*not known yet"),
])
def test_a_board_that_cannot_be_reached(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str],
                                        message: str) -> None:
    sshd.use_as_board(monkeypatch, **changes)
    with closing(OverSsh(Ssh("board"), "python3")) as transport, pytest.raises(BoardError, match=message):
        probe(transport)


def test_a_wrong_key(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sshd.use_as_board(monkeypatch, IdentityFile=str(make_key(tmp_path / "other")))
    with closing(OverSsh(Ssh("board"), "python3")) as transport, \
            pytest.raises(BoardError, match=r"Permission denied \(publickey\).*ssh-copy-id"):
        probe(transport)


def test_a_changed_host_key(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = Path(f"{make_key(tmp_path / 'other')}.pub").read_text().split()[:2]
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd.port} {' '.join(other)}\n")
    sshd.use_as_board(monkeypatch, UserKnownHostsFile=str(tmp_path / "known"))
    with closing(OverSsh(Ssh("board"), "python3")) as transport, \
            pytest.raises(BoardError, match="another machine than the one in known_hosts"):
        probe(transport)


def test_no_python_on_the_board(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.use_as_board(monkeypatch)
    with closing(OverSsh(Ssh("board"), "/opt/nothing/python3")) as transport, \
            pytest.raises(BoardError, match=r"the board has no python3 .*sudo apt install python3"):
        probe(transport)


def test_a_read_only_folder(over_ssh: OverSsh, bundle: Path, board: Path) -> None:
    board.parent.mkdir(exist_ok=True)
    board.symlink_to("/proc/self")  # nobody, not even root, can make a folder there
    with pytest.raises(BoardError, match=r"the board cannot use .*/edgeq-board/store: "):
        run_on_board(over_ssh, job(bundle))


def test_a_full_disk(over_ssh: OverSsh, bundle: Path, board: Path) -> None:
    probe(over_ssh)
    (board / "incoming" / "archive").symlink_to("/dev/full")
    with pytest.raises(BoardError, match=r"the board cannot keep .*archive: No space left on device"):
        over_ssh.push(bundle / "model.onnx", str(board / "incoming" / "archive"))
    assert not list((board / "incoming").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a disk that is small enough")
def test_a_disk_that_fills_up_while_unpacking(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = find_sshd()
    if program is None:
        pytest.skip("no sshd")
    small = f"mount -t tmpfs -o nr_inodes=16 none {tmp_path}/board &&"  # room for bytes, not for files
    with Sshd.started(program, tmp_path, small) as daemon:
        daemon.use_as_board(monkeypatch)
        with closing(OverSsh(Ssh("board"), sys.executable)) as transport:
            with pytest.raises(BoardError, match=r"the board cannot use .*/incoming/.*: No space left on device"):
                run_on_board(transport, job(bundle))
            root = probe(transport).root
            left = transport.run(["-c", f"import os; print(os.listdir('{root}/store'), os.listdir('{root}/incoming'))"])
            assert left.out == "[] []\n"


def test_a_connection_cut_while_pushing(over_ssh: OverSsh, board: Path, tmp_path: Path) -> None:
    probe(over_ssh)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 32)
    killer = threading.Thread(target=_kill_the_connection_when, args=(over_ssh, board / "incoming" / "archive"))
    killer.start()
    with pytest.raises(BoardError, match=r"ssh cannot use board: .*the connection was lost"):
        over_ssh.push(large, str(board / "incoming" / "archive"))
    killer.join()
    _wait_until_gone(board / "incoming" / "archive")


def test_a_connection_cut_while_running(over_ssh: OverSsh, bundle: Path, board: Path, use_wheel: UseWheel,
                                        tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    use_wheel({"onnxruntime.py": f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"})
    killer = threading.Thread(target=_kill_the_connection_when, args=(over_ssh, pid))
    killer.start()
    with pytest.raises(BoardError, match=r"ssh cannot use board: .*the connection was lost"):
        run_on_board(over_ssh, Job(bundle, timeout=60))
    killer.join()
    _wait_until_gone(Path("/proc") / pid.read_text())
    assert not list((board / "incoming").iterdir())


def _kill_the_connection_when(transport: OverSsh, file: Path) -> None:
    """SIGKILL to the one process that holds it, once the board has written a file."""
    while not (file.exists() and file.stat().st_size):
        time.sleep(0.01)
    master = subprocess.run([*transport._command, "-O", "check", "board"], capture_output=True, text=True, check=True)
    os.kill(int(master.stderr.partition("pid=")[2].rstrip(")\r\n")), signal.SIGKILL)


def _wait_until_gone(path: Path) -> None:
    for _ in range(200):
        if not path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} is still there")
