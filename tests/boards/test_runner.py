"""What happens on a board, on this machine's own Python: the steps, the second run, and every way to fail."""
from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards.local import Local, UseWheel
from cli.badinput import samples

from edgeq.boards import agent
from edgeq.boards.runner import Found, Job, ask, probe, push_archives, run_on_board
from edgeq.bundle.folder import file_entries
from edgeq.errors import BoardError
from edgeq_runtime import Manifest, load
from edgeq_runtime.manifest import FILE_NAME
from edgeq_runtime.selftest import Case, Tolerance, read_selftest, write_selftest

STORE, INCOMING = "edgeq-board/store", "edgeq-board/incoming"


def result(local: Local, bundle: Path, **changes: Any) -> Found:
    return run_on_board(local, replace(Job(bundle, engine="installed", timeout=60), **changes))


# -- what it does ------------------------------------------------------------------------------------------------------

def test_probe_tells_what_this_machine_is(local: Local, cache: Path) -> None:
    facts = probe(local)
    assert (facts.machine, facts.python, facts.root) == (platform.machine(), platform.python_version(),
                                                         str(cache / "edgeq-board"))
    assert facts.tag == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert facts.libc == " ".join(platform.libc_ver())
    assert set(facts.packages) >= {"numpy", "onnxruntime"}
    assert facts.memory_bytes
    assert facts.free_bytes


def test_the_self_test_runs_there(local: Local, bundle: Path) -> None:
    found = result(local, bundle)
    assert found.ok
    assert found.self_test is not None
    assert found.self_test["status"] == "pass"
    assert found.engine.startswith("onnxruntime ")
    assert set(found.seconds) == {"probing", "choosing wheels", "pushing", "running"}


def test_the_second_run_pushes_nothing(local: Local, bundle: Path, cache: Path) -> None:
    assert result(local, bundle).pushed_bytes > 0
    assert len(list((cache / STORE).iterdir())) == 2  # the runtime and the bundle
    assert len(local.pushed) == 2
    before = local.commands
    assert result(local, bundle).pushed_bytes == 0
    assert len(local.pushed) == 2
    assert local.commands - before == 2  # probe and work
    assert not list((cache / INCOMING).iterdir())


def test_times_it(local: Local, bundle: Path) -> None:
    found = result(local, bundle, self_test=False, runs=3)
    assert found.self_test is None
    assert found.benchmark is not None
    assert found.benchmark["runs"] == 3


def test_runs_the_users_input(local: Local, bundle: Path, cache: Path, tmp_path: Path) -> None:
    given = {"image": samples(1)}
    np.savez(tmp_path / "in.npz", allow_pickle=False, **given)
    result(local, bundle, self_test=False, inputs=tmp_path / "in.npz", outputs=tmp_path / "out.npz")
    with load(bundle) as model, np.load(tmp_path / "out.npz") as got:
        for name, expected in model.run(given).items():
            np.testing.assert_array_equal(got[name], expected)
    assert not list((cache / INCOMING).iterdir())


# -- findings ----------------------------------------------------------------------------------------------------------

def test_a_wrong_number_is_found(local: Local, bundle: Path, tmp_path: Path) -> None:
    wrong = Path(shutil.copytree(bundle, tmp_path / "wrong.edgeq"))
    cases, _ = read_selftest(wrong / "selftest.npz")
    outputs = {name: array + 1 for name, array in cases[0].outputs.items()}
    write_selftest(wrong / "selftest.npz", [Case(cases[0].inputs, outputs)], Tolerance("none"))
    manifest = Manifest.from_json((wrong / FILE_NAME).read_text())
    (wrong / FILE_NAME).write_text(replace(manifest, files=file_entries(wrong)).to_json())
    found = result(local, wrong)
    assert not found.ok
    assert found.self_test is not None
    assert found.self_test["difference"]["output"] == "scores"


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGKILL"])
def test_a_crash_names_the_signal_and_the_moment(local: Local, bundle: Path, use_wheel: UseWheel, name: str,
                                                 ) -> None:
    use_wheel({"onnxruntime.py": f"import os, signal, sys\nprint('last words', file=sys.stderr, flush=True)\n"
                                 f"os.kill(os.getpid(), signal.{name})"})
    found = result(local, bundle, engine=None)
    assert found.error is not None
    assert found.error.startswith(f"onnxruntime 9.9.9 died of {name} while importing onnxruntime: ")
    assert found.error.endswith("last words")


def test_a_hanging_engine_is_stopped(local: Local, bundle: Path, use_wheel: UseWheel, cache: Path) -> None:
    use_wheel({"onnxruntime.py": sleeper(cache / "pid")})
    found = result(local, bundle, engine=None, timeout=2)
    assert found.error == ("onnxruntime 9.9.9 was stopped while importing onnxruntime: not done within 2 s "
                           "(--timeout gives it more)")
    assert not is_running(cache / "pid")


def test_an_engine_that_fails_to_import_is_quoted(local: Local, bundle: Path, use_wheel: UseWheel) -> None:
    use_wheel({"onnxruntime.py": "raise ImportError('libstdc++.so.6: version GLIBCXX_3.4.29 not found')"})
    assert result(local, bundle, engine=None).error == (
        "ImportError: libstdc++.so.6: version GLIBCXX_3.4.29 not found")


@pytest.mark.parametrize(("source", "error"), [
    ("import os; os._exit(3)", "the engine ended the process with code 3"),
    ("import os; os._exit(0)", "the engine ended the process with code 0"),
    ("import sys; sys.exit(0)", "SystemExit: 0"),
])
def test_an_engine_that_exits_is_a_finding(local: Local, bundle: Path, use_wheel: UseWheel, source: str, error: str,
                                           ) -> None:
    use_wheel({"onnxruntime.py": source})
    found = result(local, bundle, engine=None)
    assert (found.ok, found.error) == (False, error)


def test_several_at_once_fill_one_store(cache: Path, bundle: Path, use_wheel: UseWheel) -> None:
    """As emulated boards of one system do, and two people with one board."""
    use_wheel({"nothing.py": ""})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: result(Local(cache), bundle, engine=None), range(4)))
    assert all(each.ok for each in found), found
    assert len(list((cache / STORE).iterdir())) == 3
    assert not list((cache / INCOMING).iterdir())


# -- the board ---------------------------------------------------------------------------------------------------------

HOST = """
import sys
from pathlib import Path
from boards.local import Local
from edgeq.boards import runner, wheels
cache, wheel, bundle = map(Path, sys.argv[1:])
wheels.download = lambda requirements, facts: (wheel,)
runner.run_on_board(Local(cache), runner.Job(bundle))
"""


def test_the_engine_dies_with_the_host(bundle: Path, use_wheel: UseWheel, cache: Path) -> None:
    """A host or a connection that is gone leaves nothing running on the board."""
    wheel = use_wheel({"onnxruntime.py": sleeper(cache / "pid")})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", HOST, cache, wheel, bundle], env=environment) as host:
        wait_until(lambda: (cache / "pid").exists() and bool((cache / "pid").read_text()))
        assert is_running(cache / "pid")
        host.kill()
    wait_until(lambda: not is_running(cache / "pid"))


def test_a_folder_that_cannot_be_written_is_named(local: Local, bundle: Path, cache: Path) -> None:
    (cache / "edgeq-board").write_text("a file in the way")
    with pytest.raises(BoardError, match=r"the board cannot use .*edgeq-board/store: Not a directory"):
        result(local, bundle)


def test_too_little_room_is_told_before_anything_is_pushed(local: Local, bundle: Path) -> None:
    facts = replace(probe(local), free_bytes=1000)
    with pytest.raises(BoardError, match=r"the board has 0 MB free in .*make room there"):
        push_archives(local, facts, {"digest": bundle / "model.onnx"})
    assert local.pushed == []


def test_a_damaged_archive_leaves_the_store_clean(local: Local, bundle: Path, cache: Path) -> None:
    """As when a disk fills up, or the connection is cut between pushing and unpacking."""
    facts = probe(local)
    with pytest.raises(BoardError, match="BadZipFile"):
        push_archives(local, facts, {"digest": bundle / "model.onnx"})
    assert not list((cache / STORE).iterdir())
    assert not list((cache / INCOMING).iterdir())


@pytest.mark.parametrize(("words", "message"), [
    (["-I", "-c", "import sys; sys.version_info = (3, 8, 10); sys.version = '3.8.10 (x)'; exec(sys.argv[2])"],
     "edgeq needs Python 3.10 or newer on the board, this is 3.8.10"),
    (["-I", "-c", "import sys; sys.modules['json'] = None; exec(sys.argv[2])"],
     r"has no complete standard library \(ModuleNotFoundError: .*json.*\): sudo apt install python3"),
])
def test_a_python_that_is_too_old_or_too_small(cache: Path, words: list[str], message: str) -> None:
    with pytest.raises(BoardError, match=message):
        probe(Local(cache, [sys.executable, *words]))


def test_no_python_at_all(cache: Path) -> None:
    with pytest.raises(BoardError, match=r"the board has no python3 .*--python"):
        probe(Local(cache, ["sh", "-c", 'python-of-the-board "$@"', "sh"]))


def test_a_board_that_says_nothing(cache: Path) -> None:
    with pytest.raises(BoardError, match="no answer within 1 s"):
        ask(Local(cache, ["sh", "-c", "exec sleep 60"]), {"command": "probe", "packages": []}, timeout=1)


def sleeper(pid: Path) -> str:
    """An engine that hangs when it is imported, and tells its process."""
    return f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"


def is_running(file: Path) -> bool:
    return Path("/proc", file.read_text()).exists()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen")


def test_an_old_archive_that_has_just_arrived_is_not_swept_away(tmp_path: Path) -> None:
    """adb gives it the modification time of its source, a wheel of last month."""
    for folder in ("incoming", "store"):
        (tmp_path / folder).mkdir()
    archive = tmp_path / "incoming" / "wheel"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("engine.py", "")
    os.utime(archive, (0, 0))
    agent.store({"root": str(tmp_path), "archives": {"digest": str(archive)}})
    assert (tmp_path / "store" / "digest" / "engine.py").is_file()
    assert not list((tmp_path / "incoming").iterdir())
