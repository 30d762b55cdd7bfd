"""Runs runtime/js for the tests: scripts in node, and in pages of a headless Chromium that a server here gives out."""
from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "runtime/js"
MODULES = PACKAGE / "node_modules"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

needs_node = pytest.mark.skipif(not shutil.which("node") or not (MODULES / "playwright-core").is_dir(),
                                reason="needs node, and `npm install` in runtime/js")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@contextmanager
def served(folders: Mapping[str, Path]) -> Iterator[str]:
    """A server's address. folders: by the beginning of a path, such as "/bundles/"; the longest one decides."""
    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            path = path.split("?")[0]
            start = max((start for start in folders if path.startswith(start)), key=len, default=None)
            return "/nothing" if start is None else str(folders[start] / path.removeprefix(start))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def javascript(folder: Path, script: str, given: Any = None, **words: Any) -> Any:
    """What a script returns, the body of an async function that sees `given`, `runtime`, and the engines.

    folder: for the task's file. words: of harness.mjs, such as the address of a page to run it in.
    """
    task = folder / "task.json"
    task.write_text(json.dumps({"script": script, "given": given, "chromium": CHROMIUM, **words}, default=_plain))
    done = subprocess.run(["node", PACKAGE / "harness.mjs", task], text=True, capture_output=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _plain(array: Any) -> Any:
    return array.tolist() if isinstance(array, np.ndarray) else array.item()
