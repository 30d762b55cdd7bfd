"""What runs on the board: sent as text to its Python 3.10 or newer, imports nothing of edgeq but the pushed runtime.

One process answers one request and prints one line, `MARK` and JSON, because a login shell may print things of its own.
On the board, `root` holds::

    store/<sha256>/     unpacked archives: wheels, the runtime, bundles. Complete, or not there
    incoming/           what is on its way
"""
from __future__ import annotations

import errno
import json
import os
import platform
import select
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from importlib import import_module
from typing import Any

MARK = "EDGEQ-RESULT "
ANDROID_FOLDER = "/data/local/tmp"
STALE_S = 3600  # older than any transfer: left over from a power cut


# -- probe -------------------------------------------------------------------------------------------------------------

def probe(request: dict[str, Any]) -> dict[str, Any]:
    """What this board is: processor, memory, Python, libc, which of the asked packages, and the folder for edgeq."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.access(ANDROID_FOLDER, os.W_OK):  # the shell of Android has no home
        caches = ANDROID_FOLDER
    root = os.path.join(caches, "edgeq-board")
    for folder in (os.path.join(root, "store"), os.path.join(root, "incoming")):
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
    bits = 64 if sys.maxsize > 2 ** 32 else 32
    machine = platform.machine()
    cpuinfo = key_values("/proc/cpuinfo")
    return {
        "root": root, "machine": "armv7l" if (machine, bits) == ("aarch64", 32) else machine, "system": sys.platform,
        "model": text("/proc/device-tree/model") or None, "part": cpuinfo.get("CPU part"),
        "cpu": cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor() or None,
        "features": (cpuinfo.get("Features") or cpuinfo.get("flags") or "").split(), "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "free_bytes": shutil.disk_usage(root).free, "python": platform.python_version(),
        "tag": f"cp{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}", "libc": libc(),
        "packages": {name: version for name in request["packages"] for version in [installed(name)] if version},
    }


def key_values(path: str) -> dict[str, str]:
    """The lines `key : value` of a file; the first of each key wins."""
    found: dict[str, str] = {}
    for line in text(path).splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\0\n")
    except OSError:
        return ""


def libc() -> str:
    """"glibc 2.36", or "" for another one."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError):
        return ""


def installed(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


# -- store -------------------------------------------------------------------------------------------------------------

def store(request: dict[str, Any]) -> dict[str, Any]:
    """Unpack what was pushed. An archive is in the store as a whole or not at all."""
    root = request["root"]
    sweep(root)
    try:
        for digest, archive in request["archives"].items():
            unpack(archive, os.path.join(root, "store", digest))
    finally:
        for archive in request["archives"].values():
            remove(archive)
    return {}


def unpack(archive: str, place: str) -> None:
    draft = f"{archive}.draft"
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(draft)
        os.sync()  # a power cut right after must not leave a folder of empty files
        if not os.path.isdir(place):
            os.rename(draft, place)
    except OSError:
        if not os.path.isdir(place):  # else somebody was faster
            raise
    finally:
        remove(draft)


def sweep(root: str) -> None:
    folder = os.path.join(root, "incoming")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.stat(path).st_ctime < time.time() - STALE_S:  # adb gives a file the modification time of its source
            remove(path)


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        os.remove(path)


def discard(request: dict[str, Any]) -> dict[str, Any]:
    """Remove folders or files that are no longer wanted."""
    for path in request["paths"]:
        remove(path)
    return {}


# -- work --------------------------------------------------------------------------------------------------------------

def work(request: dict[str, Any]) -> dict[str, Any]:
    """Load a bundle in a process of its own, which may crash or hang, and do what is asked.

    -> {"missing": digests} before anything ran, or what `job` found, or how the process ended.
    """
    places = [os.path.join(request["root"], "store", digest) for digest in request["archives"]]
    missing = [os.path.basename(place) for place in places if not os.path.isdir(place)]
    if missing:
        return {"missing": missing}
    reader, writer = os.pipe()
    child = os.fork()  # not subprocess: an emulated processor cannot start another program
    if child == 0:
        os.close(reader)
        run_job(request, places, writer)
        os._exit(0)
    os.close(writer)
    ended = False
    try:
        said, ended = watch(reader, time.monotonic() + request["timeout"])
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if not ended:
        said["timeout"] = True
    elif os.WIFSIGNALED(status):
        said["signal"] = signal.Signals(os.WTERMSIG(status)).name
    elif not said.pop("done", False):
        said["error"] = f"the engine ended the process with code {os.WEXITSTATUS(status)}"
    return said


def watch(reader: int, deadline: float) -> tuple[dict[str, Any], bool]:
    """What a job says in its pipe -> that, and whether it ended in time.

    Raises:
        SystemExit: nobody is left who wants to know.
    """
    data, said = b"", dict[str, Any](stage="starting")
    while True:
        ready = select.select([reader, 0], [], [], max(0, deadline - time.monotonic()))[0]
        if not ready:
            return said, False
        if 0 in ready and not os.read(0, 1):
            sys.exit("edgeq: the host is gone")
        if reader in ready:
            chunk = os.read(reader, 1 << 16)
            if not chunk:
                return said, True
            *lines, data = (data + chunk).split(b"\n")
            for line in lines:
                said.update(json.loads(line))


def run_job(request: dict[str, Any], places: list[str], writer: int) -> None:
    """The child: every finding is a line of JSON in the pipe, so that a crash loses only what it interrupts."""
    import resource

    def say(**found: Any) -> None:
        os.write(writer, json.dumps(found).encode() + b"\n")

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is a finding, not a file of 200 MB
    os.dup2(2, 1)  # engines print
    sys.path[:0] = places[:-1]
    try:
        job(request, places[-1], say)
    except BaseException as error:  # SystemExit too: nothing of the parent's may run here
        ours = any(kind.__name__ == "EdgeqError" for kind in type(error).__mro__)
        say(error=str(error) if ours else f"{type(error).__name__}: {error}")
    say(done=True)


def job(request: dict[str, Any], bundle: str, say: Callable[..., None]) -> None:
    for module in request["imports"]:
        say(stage=f"importing {module}")
        import_module(module)
    say(stage="loading the bundle")
    import numpy

    import edgeq_runtime

    with edgeq_runtime.load(bundle, threads=request["threads"]) as model:
        say(engine=model.engine, accelerator=model.accelerator)
        if request["self_test"]:
            say(stage="the self-test")
            say(self_test=model.self_test().to_dict())
        if request["runs"]:
            from edgeq_runtime.benchmark import benchmark

            say(stage="timing")
            say(benchmark=benchmark(model, request["runs"], request["warmup"]).to_dict())
        if request["inputs"]:
            say(stage="running")
            with numpy.load(request["inputs"], allow_pickle=False) as inputs:
                outputs = model.run(dict(inputs))
            say(drift=[str(drift) for drift in model.drift() if drift.is_noteworthy])
            with open(request["outputs"], "wb") as file:
                numpy.savez(file, **outputs)


COMMANDS = {"probe": probe, "store": store, "discard": discard, "work": work}


def main(request: dict[str, Any]) -> None:
    try:
        reply = COMMANDS[request["command"]](request)
    except OSError as error:
        reply = {"os_error": error.strerror or str(error), "path": error.filename or request.get("root")}
    sys.stdout.write("\n" + MARK + json.dumps(reply) + "\n")
    sys.stdout.flush()
