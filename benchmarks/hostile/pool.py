"""Cases tried in a pool of worker processes, each with a limit on time and memory; a worker that dies is replaced."""
from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from edgeq.errors import EdgeqError

SECONDS: Final = 60
BYTES: Final = 4 << 30
_CASES_A_WORKER: Final = 150  # engines leak a little with every model that they refuse
_SYSTEM: Final = ("/etc/", os.path.expanduser("~/"))  # what a model or a bundle could want to read
_HARMLESS: Final = (
    os.path.expanduser("~/.cache/"), "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/ld.so.cache",
)
SECRET: Final = b"the secret of this host, which belongs into no bundle 3c1f9a"
Try = Callable[[int, Path], Callable[[], str]]  # number of the case, an empty folder -> what to call, once all is there


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case. kind: "converted", "refused", "foreign exception", "crash", "too long". detail: why."""

    number: int
    kind: str
    seconds: float = 0.0
    detail: str = ""
    opened: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()

    @property
    def bad(self) -> bool:
        return self.kind not in ("converted", "refused") or bool(self.opened) or bool(self.ran)


@dataclass(slots=True)
class Watch:
    """An audit hook: which files of the host were opened, and which programs or libraries were started.

    An audit hook cannot be taken away, so there is one in a process, and `begin` says which folder is allowed.
    """

    folder: str = ""
    opened: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def begin(self, folder: Path) -> None:
        self.folder, self.opened, self.ran = str(folder), [], []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if ((path.startswith(_SYSTEM) and not path.startswith((*_HARMLESS, sys.prefix, sys.base_prefix)))
                    or os.path.basename(path) == "secret"):
                self.opened.append(path)
        elif event in ("ctypes.dlopen", "import"):
            file = arguments[1 if event == "import" else 0]
            if str(file or "").startswith(self.folder):
                self.ran.append(f"{event} {file}")


def run(attempt: Try, numbers: range, workers: int, seconds: float = SECONDS) -> Iterator[Outcome]:
    """Try every case -> outcomes as they come."""
    left = iter(numbers)
    context = multiprocessing.get_context("fork")
    pool = [_Worker(context, attempt, seconds) for _ in range(workers)]
    try:
        while sum(worker.give(left) for worker in pool):
            wait([worker.pipe for worker in pool if worker.busy], timeout=0.5)
            for worker in pool:
                outcome = worker.take()
                if outcome is not None:
                    yield outcome
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """One process and the case that it is at."""

    def __init__(self, context: Any, attempt: Try, seconds: float) -> None:
        self._context, self._attempt, self._seconds = context, attempt, seconds
        self._number: int | None = None
        self._start()

    @property
    def busy(self) -> bool:
        return self._number is not None

    def _start(self) -> None:
        self.pipe: Connection
        self.pipe, other = self._context.Pipe()
        self._process: BaseProcess = self._context.Process(target=_serve, args=(other, self._attempt), daemon=True)
        self._process.start()
        other.close()
        self._served = 0

    def give(self, numbers: Iterator[int]) -> bool:
        """Hand out the next case, if there is one -> whether the worker is busy."""
        if not self.busy and (number := next(numbers, None)) is not None:
            if self._served == _CASES_A_WORKER:
                self.stop()
                self._start()
            self.pipe.send(number)
            self._number, self._began = number, time.monotonic()
        return self.busy

    def take(self) -> Outcome | None:
        """What became of the case, once that is known."""
        if self._number is None:
            return None
        outcome = None
        try:
            if self.pipe.poll():
                outcome = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            outcome = Outcome(self._number, "crash", detail=f"exit code {self._process.exitcode}")
        if outcome is None and time.monotonic() - self._began > self._seconds:
            outcome = Outcome(self._number, "too long", self._seconds)
        if outcome is None:
            return None
        self._served, self._number = self._served + 1, None
        if outcome.kind in ("crash", "too long"):
            self.stop()
            self._start()
        return outcome

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, attempt: Try) -> None:
    """The worker: cases come in, outcomes go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what engines print about the models that they refuse
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch()
    sys.addaudithook(watch)
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        with tempfile.TemporaryDirectory(prefix="edgeq-hostile-") as text:
            pipe.send(_tried(number, attempt, Path(text), watch))


def _tried(number: int, attempt: Try, folder: Path, watch: Watch) -> Outcome:
    """host/: secret, a file of the host; host/case/: the folder that belongs to the case."""
    secret, place, began = folder / "secret", folder / "case", time.monotonic()
    place.mkdir()
    secret.write_bytes(SECRET * 100)
    act = attempt(number, place)
    watch.begin(place)
    try:
        kind, detail = act(), ""
    except EdgeqError as error:
        kind, detail = "refused", str(error)
    except BaseException as error:
        kind, detail = "foreign exception", _where(error)
    watch.folder = ""
    stolen = [str(file) for file in folder.rglob("*") if file.is_file() and not file.is_symlink()
              and file != secret and SECRET in file.read_bytes()]
    return Outcome(number, kind, time.monotonic() - began, detail, (*watch.opened, *stolen), tuple(watch.ran))


def _where(error: BaseException) -> str:
    """The exception with the last places of this project that it came through."""
    frames = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
              for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    line = (str(error).strip() or "?").splitlines()[0]
    return f"{type(error).__name__}: {line[:200]} <- {' <- '.join(frames[:-6:-1])}"
