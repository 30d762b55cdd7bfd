"""The self-test in a process of its own: a model that ends its engine's process must not end the updater's."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from .errors import BundleError, EdgeqError, EngineError
from .selftest import Difference, SelfTestResult, Tolerance
from .session import load

SECONDS = 600
_NO_PROCESSES = ("ios", "tvos", "watchos", "android", "emscripten", "wasi")


def tested(folder: Path, threads: Optional[int]) -> Tuple[SelfTestResult, bool]:
    """The result, and whether a process of its own gave it.

    Raises:
        BundleError: the engine ended the process, or took longer than ten minutes. EngineError: it refuses the bundle.
    """
    if sys.platform in _NO_PROCESSES or getattr(sys, "frozen", False) or not sys.executable:
        return _test(folder, threads), False  # an app may start none, or would start itself
    import os
    import subprocess

    program = "from edgeq_runtime.isolated import main; main()"
    arguments = [sys.executable, "-c", program, str(folder), str(threads or 0)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BundleError(f"its self-test took longer than {SECONDS} seconds on this device") from None
    except OSError:  # no process can be started here
        return _test(folder, threads), False
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise BundleError(f"its engine ended the process of the self-test on this device (exit code {done.returncode})")
    return _result(json.loads(lines[-1])), True


def main() -> None:
    """The other side: one line of JSON."""
    folder, threads = sys.argv[1:]
    try:
        found: Dict[str, Any] = _test(Path(folder), int(threads) or None).to_dict()
    except EngineError as error:
        found = {"engine_error": str(error)}
    except EdgeqError as error:
        found = {"error": str(error)}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _test(folder: Path, threads: Optional[int]) -> SelfTestResult:
    with load(folder, threads=threads, verify=True) as model:
        return model.self_test()


def _result(found: Dict[str, Any]) -> SelfTestResult:
    if "engine_error" in found:
        raise EngineError(found["engine_error"])
    if "error" in found:
        raise BundleError(found["error"])
    difference = found["difference"]
    words = None if difference is None else Difference(**{**difference, "index": tuple(difference["index"])})
    return SelfTestResult(**{**found, "tolerance": Tolerance(**found["tolerance"]), "difference": words})
