"""Core AI: Apple's own runtime, from the package coreai-core, on Linux and macOS; on iOS through rubicon-objc.

The package's runtime computes on the CPU. It lives in a child process, because it ends its process where other engines
raise. The branch for iOS follows the documented interface but was never run: UNTESTED.
"""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Lock
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from edgeq_runtime.engines import missing, written_to
from edgeq_runtime.engines.coreai_child import receive, send
from edgeq_runtime.engines.versions import require
from edgeq_runtime.errors import BundleError, EngineError
from edgeq_runtime.manifest import Manifest

OPTIONS = {"min_os"}
PACKAGE = "coreai-core"
RELEASE = "1.0.0b3"  # a pre-release, whose format may change
FORMAT = "2."  # `assetVersion` in an .aimodel's metadata.json, as this release writes it


def open(folder: str, manifest: Manifest, threads: Optional[int]) -> CoreAI:
    """`threads` is Core AI's own affair and ignored. Raises EngineError: nothing here can run it, or it is refused."""
    unknown = sorted(set(manifest.options) - OPTIONS)
    if unknown:
        raise BundleError(f"options that this runtime does not know: {', '.join(unknown)}; update edgeq-runtime")
    if sys.platform == "ios":
        raise EngineError("Core AI on iOS is opened by the app itself, in Swift: this runtime has no way to it yet")
    version = installed_version()
    require(PACKAGE, version, manifest.engine_version)
    path = Path(folder, manifest.entry)
    check_format(path)
    child = Child()
    try:
        child.open(path)
    except BaseException:
        child.close()
        raise
    return CoreAI(child, f"Core AI {version}", manifest)


def installed_version() -> str:
    """Of coreai-core. Raises EngineError: it is not installed, or there is none for this system."""
    from importlib.metadata import PackageNotFoundError, version

    if find_spec("coreai") is None:
        raise missing(PACKAGE, f"pip install {PACKAGE}=={RELEASE} (macOS, and Linux with x86-64; Python 3.11 to 3.14)")
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return RELEASE


def check_format(path: Path) -> None:
    """Raises EngineError: an .aimodel of another format, or none."""
    try:
        found = json.loads((path / "metadata.json").read_text(encoding="utf-8")).get("assetVersion")
    except (OSError, ValueError, AttributeError) as error:
        raise EngineError(f"Core AI cannot load {path.name}: its metadata.json cannot be read ({error})") from error
    if not str(found).startswith(FORMAT):
        raise EngineError(f"Core AI cannot load {path.name}: its format is {found}, and {PACKAGE} {RELEASE} reads "
                          f"{FORMAT}x")


class Child:
    """The process that runs models, one at a time. What it prints is kept for the message when it ends."""

    def __init__(self) -> None:
        self._printed = TemporaryFile()  # noqa: SIM115 - as long as the process
        self._scratch = TemporaryDirectory(prefix="edgeq-coreai-")  # what the package compiles, also if it is killed
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeq_runtime.engines.coreai_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._printed, env={**os.environ, "PYTHONPATH": path, "TMPDIR": self._scratch.name})

    def open(self, path: Path) -> None:
        self._asked({"do": "open", "path": str(path.resolve())}, {}, f"load {path.name}")

    def run(self, arrays: Mapping[str, Any]) -> Dict[str, Any]:
        return self._asked({"do": "run"}, arrays, "run the model")

    def _asked(self, words: Mapping[str, Any], arrays: Mapping[str, Any], what: str) -> Dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018
        try:
            send(self._process.stdin, words, arrays)  # type: ignore[arg-type]
            answer, found = receive(self._process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError) as error:
            raise EngineError(f"Core AI cannot {what}: {self._end()}") from error
        if "error" in answer:
            raise EngineError(f"Core AI cannot {what}: {answer['error']}")
        return found

    def _end(self) -> str:
        code = self._process.wait()
        self._printed.seek(0)
        lines = [line for line in self._printed.read().decode(errors="replace").splitlines() if line.strip()]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = f" ({lines[-1][:200]})" if lines else ""
        return f"its process ended, {how}{said}"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._printed.close()
        self._scratch.cleanup()


class CoreAI:
    """A loaded model that takes and gives arrays in the manifest's order and dtypes."""

    def __init__(self, child: Child, description: str, manifest: Manifest) -> None:
        self.description, self.accelerator = description, "CPU"
        self._child: Optional[Child] = child
        self._lock = Lock()
        self._inputs = [spec.engine_name or spec.name for spec in manifest.inputs]
        self._outputs = [(spec.engine_name or spec.name, np.dtype(spec.dtype)) for spec in manifest.outputs]

    def run(self, arrays: Sequence[Any], out: Optional[Sequence[Any]] = None) -> List[Any]:
        with self._lock:
            if self._child is None:
                raise EngineError("the model is closed")
            found = self._child.run(dict(zip(self._inputs, arrays, strict=True)))
        return written_to([np.asarray(found[name], dtype) for name, dtype in self._outputs], out)

    def close(self) -> None:
        with self._lock:
            if self._child is not None:
                self._child.close()
            self._child = None
