"""Every case of bad input with its exit code and the message it printed: python benchmarks/bad_input.py [--json FILE]

The cases are those of tests/cli/badinput. Each runs as a process of its own in a folder of its own; what it left in the
folder is part of the result. Three cases that need the operating system are added: a full disk, a folder without
permission, a kill.
"""
from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATHS = [str(ROOT), str(ROOT / "converters"), str(ROOT / "runtime"), str(ROOT / "tests")]
sys.path[:0] = PATHS

from cli.badinput import BUNDLE, CASES, convert, network  # noqa: E402


def edgeq(folder: Path, arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgeq", *arguments], cwd=folder, env=environment(),
                          capture_output=True, text=True, check=False, **options)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "PYTHONDONTWRITEBYTECODE": "1"}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def listed() -> Iterator[dict[str, Any]]:
    """The rows of tests/cli/badinput."""
    with tempfile.TemporaryDirectory() as good:
        save(Path(good))
        assert edgeq(Path(good), convert("net.onnx", "-o", BUNDLE)).returncode == 0
        for kind, cases in CASES.items():
            for case in cases:
                with tempfile.TemporaryDirectory() as text:
                    folder = Path(text)
                    if case.needs_bundle:
                        shutil.copytree(Path(good) / BUNDLE, folder / BUNDLE)
                    yield measured(f"{kind}: {case.name}", folder, case.prepare(folder), case.code)


def measured(name: str, folder: Path, arguments: list[str], code: int, **options: Any) -> dict[str, Any]:
    before = names(folder)
    result = edgeq(folder, arguments, **options)
    left = sorted(names(folder) - before)
    message = result.stderr.strip().removeprefix("error: ").replace(f"{folder}/", "").replace(str(folder), "FOLDER")
    if "Usage:" in message:  # click prints how to call before what is wrong
        message = message.rpartition("Error: ")[2]
    good = result.returncode == code and "Traceback" not in result.stderr and not left and not result.stdout
    return {"case": name, "exit_code": result.returncode, "message": message, "left_behind": left, "as_expected": good}


def system() -> Iterator[dict[str, Any]]:
    """What only the operating system can do to a conversion."""
    for target in ("onnxruntime", "tflite", "coreml"):
        with full_disk() as (name, folder, restrict):
            save(folder)
            arguments = ["convert", "net.onnx", "--target", target, "-o", "out.edgeq"]
            yield measured(f"output: {name}, {target}", folder, arguments, 1, preexec_fn=restrict)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        save(folder)
        folder.chmod(0o555)
        yield measured("output: folder without permission", folder, convert("net.onnx", "-o", "out.edgeq"), 1,
                       preexec_fn=obey_permissions)
        folder.chmod(0o755)
    yield killed()


def obey_permissions() -> None:
    """Root may write anywhere; give that right up before the program starts (capabilities(7): CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP


@contextmanager
def full_disk() -> Iterator[tuple[str, Path, Callable[[], None] | None]]:
    """A disk of 8 kB, or where it cannot be mounted a limit on the size of files."""
    with tempfile.TemporaryDirectory() as text:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "edgeq-test", text], capture_output=True,
                                 check=False).returncode == 0
        try:
            yield (("full disk", Path(text), None) if mounted else
                   ("file larger than allowed", Path(text),
                    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))))
        finally:
            if mounted:
                subprocess.run(["umount", text], check=True)


def killed() -> dict[str, Any]:
    """kill -9 while the draft of a bundle that shall replace another is on the disk; then a second run."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        save(folder)
        arguments = convert("net.onnx", "-o", BUNDLE, "--force")
        assert edgeq(folder, arguments).returncode == 0
        old = {file: file.read_bytes() for file in (folder / BUNDLE).rglob("*") if file.is_file()}
        process = subprocess.Popen([sys.executable, "-m", "edgeq", *arguments], cwd=folder, env=environment(),
                                   stdout=subprocess.DEVNULL)
        while not (drafts := list(folder.glob(f".{BUNDLE}.*/model.onnx"))) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        code = process.wait()
        intact = all(file.is_file() and file.read_bytes() == data for file, data in old.items())
        visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        again = edgeq(folder, arguments)
        left = sorted(path.name for path in folder.iterdir() if path.name not in ("net.onnx", BUNDLE))
        good = bool(drafts) and code == -signal.SIGKILL and intact and visible == {"net.onnx", BUNDLE}
        return {"case": "output: kill -9 while writing", "exit_code": code,
                "message": f"(killed) old bundle {'intact' if intact else 'DAMAGED'}; the next run exits with "
                           f"{again.returncode} and {'leaves the draft' if left else 'removes the draft'}",
                "left_behind": left, "as_expected": good and not left and again.returncode == 0}


def save(folder: Path) -> None:
    import onnx

    onnx.save(network(), folder / "net.onnx")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, too")
    options = parser.parse_args()
    rows = []
    print("| case | exit | message |\n|---|---|---|")
    for row in chain(listed(), system()):
        rows.append(row)
        flag = "" if row["as_expected"] else f" **NOT AS EXPECTED**, left {row['left_behind']}"
        message = row["message"].replace("|", "\\|").replace("\n", "<br>")
        print(f"| {row['case']} | {row['exit_code']} | {message}{flag} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    bad = sum(not row["as_expected"] for row in rows)
    print(f"\n{len(rows)} cases, {bad} not as expected")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
