"""Is there a working version whenever an installation is killed?

    python benchmarks/install.py [--kills 200] [--json FILE]

Installations of two versions in turn, each ended by SIGKILL at a random moment between its first step and a little
behind its last. After every kill the version in use is loaded with all checksums compared, and its self-test run.
"""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from common import ROOT, parser, report

import edgeq_runtime
from edgeq import convert
from edgeq.bundle.archive import pack
from edgeq_runtime.manifest import FILE_NAME, Manifest

INSTALL = """
import sys
import onnxruntime
from edgeq_runtime import install
print("go", flush=True)
install(sys.argv[1], sys.argv[2], threads=1)
print("done", flush=True)
"""


@dataclass(frozen=True)
class Row:
    """killed: what was on the disk when the process died. working: loads, all checksums right, self-test passed."""

    killed: str
    times: int
    working: int


def archives(folder: Path) -> list[Path]:
    """Two versions of one network of 4 MB, told apart by a label."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,1024] x) => (float[1,1024] y) { y = Gemm (x, w) }""")
    weights = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    bundle = convert(model, target="onnxruntime", bits=32, output=folder / "net.edgeq").path
    made = []
    for name in ("first", "second"):
        text = replace(Manifest.read(bundle), labels=(name,)).to_json()
        (bundle / FILE_NAME).write_text(text)
        made.append(pack(bundle, folder / f"{name}.zip"))
    return made


def installation(archive: Path, folder: Path, seconds: float | None) -> bool:
    """Install, killed after `seconds` -> whether it came to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "runtime")}
    with subprocess.Popen([sys.executable, "-c", INSTALL, archive, folder], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        return "done" in process.stdout.read()


def moment(folder: Path, before: str, after: str) -> str:
    """What a kill interrupted, as the folder tells."""
    if (folder / ".draft").exists():
        written = (folder / ".draft" / FILE_NAME).exists()
        return "unpacked, under test" if written else "while unpacking"
    if before != after:
        return "after the switch"
    named = {value for value in json.loads((folder / "current").read_text()).values() if value}
    extra = [path.name for path in folder.glob("version-*") if path.name not in named]
    return "complete, before the switch" if extra else "before the first step"


def in_use(folder: Path) -> tuple[str, bool]:
    with edgeq_runtime.load(folder, threads=1, verify=True) as model:
        return model.manifest.labels[0], model.self_test().ok


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=200)
    arguments = options.parse_args()
    chance, times, working = random.Random(0), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        both, folder = archives(Path(place)), Path(place) / "installed"
        installation(both[0], folder, None)
        began = time.perf_counter()
        edgeq_runtime.install(both[1], folder, threads=1)
        duration = time.perf_counter() - began
        for _ in range(arguments.kills):
            before, _ok = in_use(folder)
            ended = installation(both[before == "first"], folder, chance.uniform(0, 1.2 * duration))
            after, ok = in_use(folder)
            name = "not killed: it had ended" if ended else moment(folder, before, after)
            times[name] += 1
            working[name] += ok
        shutil.rmtree(folder)
    rows = [Row(name, count, working[name]) for name, count in times.most_common()]
    report([*rows, Row("all", times.total(), working.total())], "Installations killed at a random moment",
           arguments.json)
    if working.total() < times.total():
        sys.exit(1)


if __name__ == "__main__":
    main()
