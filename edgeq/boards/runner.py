"""One bundle on one board: probe, choose wheels, push what is missing, run, bring back what was found."""
from __future__ import annotations

import json
import secrets
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from edgeq.backend import backends
from edgeq.boards.agent import MARK
from edgeq.boards.facts import Facts
from edgeq.boards.transport import SHORT_S, Completed, Transport
from edgeq.boards.wheels import Packages, choose_packages
from edgeq.errors import BoardError
from edgeq_runtime.integrity import sha256
from edgeq_runtime.manifest import FILE_NAME, Manifest

# Reads its own length, its text and the request from stdin, whose end then means that the host is gone.
BOOT: Final = ("import sys\n"
               "if sys.version_info < (3, 10): sys.exit('edgeq needs Python 3.10 or newer on the board, this is '"
               " + sys.version.split()[0])\n"
               "exec(compile(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())), 'edgeq', 'exec'))\n")
UNPACK_S: Final = 300.0
TIDY_S: Final = 15.0
GRACE_S: Final = 15.0  # for the board to tell that its own time is up
ALLOWANCE: Final = 4  # an unpacked wheel is at most so many times as large
SIGNALS: Final[Mapping[str, str]] = {
    "SIGILL": "illegal instruction: this build uses instructions that the board's processor has not; "
              "try another version with --engine",
    "SIGSEGV": "it read or wrote memory that is not its own; try another version with --engine",
    "SIGBUS": "memory could not be read: a damaged file or disk, or data that is not aligned",
    "SIGABRT": "it gave up by itself; its last words are below",
    "SIGKILL": "the system ended it, mostly for want of memory",
}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with a bundle. runs: how often to time it, 0: not. timeout: seconds for the engine. engine: a pip
    requirement instead of the newest that the bundle allows. inputs, outputs: arrays to run, and what they gave (.npz).
    """

    bundle: Path
    self_test: bool = True
    runs: int = 0
    warmup: int = 0
    threads: int | None = None
    timeout: float = 300.0
    engine: str | None = None
    inputs: Path | None = None
    outputs: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a board found. self_test, benchmark: as edgeq_runtime gives them. error: why there is no more.

    drift: sentences about inputs outside the range of the calibration. seconds: by step. pushed_bytes: what the board
    did not have yet. engine_age_days: since the newest engine was looked for.
    """

    facts: Facts
    engine: str
    accelerator: str | None = None
    self_test: Mapping[str, Any] | None = None
    benchmark: Mapping[str, Any] | None = None
    drift: Sequence[str] = ()
    error: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    pushed_bytes: int = 0
    engine_age_days: int | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and (self.self_test is None or self.self_test["status"] != "fail")

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self), "facts": self.facts.to_json()}


def probe(transport: Transport) -> Facts:
    """What a board is.

    Raises:
        BoardError: no Python, too old a Python, or no folder to write in.
    """
    engines = [recipe.package for backend in backends() for recipe in backend.recipes]
    return Facts.from_json(ask(transport, {"command": "probe", "packages": ["numpy", *dict.fromkeys(engines)]}))


def run_on_board(transport: Transport, job: Job, say: Say = lambda what: None) -> Found:
    """Do a job on a board. A bundle that fails there is a finding, not an exception.

    Raises:
        BundleError: the bundle is damaged. BoardError: the board cannot be reached or used, or has no engine.
    """
    clock = _Clock(say)
    manifest = Manifest.read(job.bundle, verify=True)
    clock.step("probing")
    facts = probe(transport)
    clock.step("choosing wheels")
    packages = choose_packages(manifest, facts, job.engine)
    with TemporaryDirectory(prefix="edgeq-") as folder:
        archives = _archives(packages, manifest, job.bundle, Path(folder))
        request = _request(job, facts, packages, list(archives))
        with _files(transport, job, request):
            clock.step("running")
            reply, pushed = _work(transport, request), 0
            if "missing" in reply:
                clock.step("pushing")
                missing = {digest: archives[digest]() for digest in reply["missing"]}
                pushed = push_archives(transport, facts, missing)
                clock.step("running")
                reply = _work(transport, request)
            error = _explain(reply, packages.engine, job.timeout)
            if job.outputs is not None and error is None:
                transport.pull(request["outputs"], job.outputs)
    reported = {key: reply[key] for key in ("accelerator", "self_test", "benchmark", "drift") if key in reply}
    return Found(facts, reply.get("engine", packages.engine), error=error, seconds=clock.stop(), pushed_bytes=pushed,
                 engine_age_days=packages.age_days, **reported)


class _Clock:
    """Seconds by step, and a word at the start of each."""

    def __init__(self, say: Say):
        self._say, self._seconds, self._step, self._start = say, dict[str, float](), "", time.monotonic()

    def step(self, name: str) -> None:
        self.stop()
        self._step = name
        self._say(name)

    def stop(self) -> dict[str, float]:
        now = time.monotonic()
        if self._step:
            self._seconds[self._step] = round(self._seconds.get(self._step, 0) + now - self._start, 2)
        self._step, self._start = "", now
        return self._seconds


def _archives(packages: Packages, manifest: Manifest, bundle: Path, folder: Path) -> dict[str, Callable[[], Path]]:
    """What a board's store must hold: sha256 -> how to get the archive; the bundle last. It is packed when it is asked
    for, and known by its manifest, which holds the checksums of everything else.
    """
    runtime = _zip_runtime(folder)
    files = [*(file.path for file in manifest.files), FILE_NAME]
    return {
        **{sha256(wheel): lambda wheel=wheel: wheel for wheel in packages.wheels},  # type: ignore[misc]
        sha256(runtime): lambda: runtime,
        sha256(bundle / FILE_NAME): lambda: _zip(bundle, files, folder / "bundle.zip"),
    }


def _request(job: Job, facts: Facts, packages: Packages, digests: Sequence[str]) -> dict[str, Any]:
    name = f"{facts.root}/incoming/{secrets.token_hex(8)}"
    return {
        "command": "work", "root": facts.root, "archives": digests, "imports": packages.imports,
        "threads": job.threads, "self_test": job.self_test, "runs": job.runs, "warmup": job.warmup,
        "timeout": job.timeout, "inputs": f"{name}.in" if job.inputs else None, "outputs": f"{name}.out",
    }


@contextmanager
def _files(transport: Transport, job: Job, request: Mapping[str, Any]) -> Iterator[None]:
    """The user's inputs on the board, and neither they nor the outputs afterwards."""
    if job.inputs is None:
        yield
        return
    try:
        transport.push(job.inputs, request["inputs"])
        yield
    finally:
        _discard(transport, [request["inputs"], request["outputs"]])


def _discard(transport: Transport, paths: Sequence[str]) -> None:
    with suppress(BoardError):  # what went wrong before is the error to tell
        ask(transport, {"command": "discard", "paths": paths}, TIDY_S)


def _work(transport: Transport, request: Mapping[str, Any]) -> dict[str, Any]:
    reply, words = _exchange(transport, request, request["timeout"] + GRACE_S)
    return {**reply, "last_words": words}


def push_archives(transport: Transport, facts: Facts, archives: Mapping[str, Path]) -> int:
    """Bring archives, by their sha256, into the board's store -> bytes that went over.

    Raises:
        BoardError: no room, no permission, or the connection was lost. The store holds whole archives only.
    """
    size = sum(archive.stat().st_size for archive in archives.values())
    if facts.free_bytes is not None and facts.free_bytes < ALLOWANCE * size:
        raise BoardError(f"the board has {facts.free_bytes / 1e6:.0f} MB free in {facts.root}; this bundle with its "
                         f"engine needs up to {ALLOWANCE * size / 1e6:.0f} MB: make room there")
    mine = secrets.token_hex(4)  # somebody else may be pushing the same
    incoming = {digest: f"{facts.root}/incoming/{digest}.{mine}" for digest in archives}
    try:
        for digest, archive in archives.items():
            transport.push(archive, incoming[digest])
        ask(transport, {"command": "store", "root": facts.root, "archives": incoming}, UNPACK_S)
    except BaseException:
        _discard(transport, list(incoming.values()))
        raise
    return size


def ask(transport: Transport, request: Mapping[str, Any], timeout: float = SHORT_S) -> dict[str, Any]:
    """One request to the agent -> its reply; see _exchange."""
    return _exchange(transport, request, timeout)[0]


def _exchange(transport: Transport, request: Mapping[str, Any], timeout: float) -> tuple[dict[str, Any], str]:
    """One request to the agent -> its reply, and what was printed meanwhile.

    Raises:
        BoardError: the board has no usable Python, or no usable folder, or was lost on the way.
    """
    agent = resources.files("edgeq.boards").joinpath("agent.py").read_bytes()
    program = agent + f"\nmain({dict(request)!r})\n".encode()
    done = transport.run(["-c", BOOT], f"{len(program)}\n".encode() + program, timeout)
    line = next((line for line in reversed(done.out.splitlines()) if line.startswith(MARK)), None)
    if line is None:
        raise BoardError(_silence(done))
    reply: dict[str, Any] = json.loads(line.removeprefix(MARK))
    if "os_error" in reply:
        raise BoardError(f"the board cannot use {reply['path']}: {reply['os_error']}")
    return reply, done.err


def _silence(done: Completed) -> str:
    """Why the agent has not answered."""
    words = done.err.strip().splitlines()
    last = words[-1] if words else f"it ended with code {done.code} and without a word"
    if done.code == 127:
        return f"the board has no python3 ({last}): sudo apt install python3, or name another with --python"
    if last.startswith("ModuleNotFoundError"):
        return f"the board's python3 has no complete standard library ({last}): sudo apt install python3"
    return last


def _explain(reply: Mapping[str, Any], engine: str, timeout: float) -> str | None:
    """How the engine's process ended, if it did not end well."""
    stage, words = reply["stage"], reply["last_words"].strip().splitlines()[-3:]
    if reply.get("timeout"):
        return f"{engine} was stopped while {stage}: not done within {timeout:.0f} s (--timeout gives it more)"
    if "signal" in reply:
        why = SIGNALS.get(reply["signal"], "")
        return "\n".join([f"{engine} died of {reply['signal']} while {stage}: {why}", *words])
    return reply.get("error")


def _zip_runtime(folder: Path) -> Path:
    package = resources.files("edgeq_runtime")
    with resources.as_file(package) as root:
        files = sorted(path.relative_to(root.parent).as_posix() for path in root.rglob("*.py"))
        return _zip(root.parent, files, folder / "runtime.zip")


def _zip(folder: Path, files: Sequence[str], target: Path) -> Path:
    """Files of a folder -> an archive whose bytes depend on theirs alone, so that a checksum names its content."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return target
