"""The slim runtime's wheel under old and new Pythons, numpys and engines: does every bundle prove itself there?

    python benchmarks/runtime_matrix.py [--cache FOLDER] [--only TEXT] [--json FILE]

One environment a row, kept in --cache for the next time. Bundles of one small network are made here, by this Python;
the row's Python then installs the wheel and runs their self-tests. A bundle that needs a newer engine has to say so
before it loads anything. Pythons that this machine lacks are named and left out.
"""
from __future__ import annotations

import glob
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from common import PIP, ROOT, environment_of, parser, report

from edgeq import convert


@dataclass(frozen=True)
class Environment:
    """python: "3.11". packages: exact pins, or bare names for the newest that this Python can have."""

    python: str
    target: str
    packages: tuple[str, ...]


_OLD_NUMPY: Final = "numpy==1.24.4"
ENVIRONMENTS: Final = (
    *(Environment(python, "onnxruntime", ("onnxruntime==1.19.2", _OLD_NUMPY)) for python in ("3.10", "3.11")),
    *(Environment("3.11", "onnxruntime", (f"onnxruntime=={version}",)) for version in ("1.21.1", "1.23.2")),
    *(Environment(python, "onnxruntime", ("onnxruntime",)) for python in ("3.10", "3.11", "3.12", "3.13", "3.14")),
    *(Environment(python, "tflite", ("tflite-runtime==2.14.0", _OLD_NUMPY)) for python in ("3.10", "3.11")),
    Environment("3.11", "tflite", ("ai-edge-litert==2.1.0",)),
    *(Environment(python, "tflite", ("ai-edge-litert",)) for python in ("3.10", "3.11", "3.12", "3.13", "3.14")),
)


@dataclass(frozen=True)
class Row:
    """result: what the self-test said, or the refusal."""

    python: str
    numpy: str
    engine: str
    bundle: str
    result: str

    @property
    def good(self) -> bool:
        return self.result in ("pass", "within tolerance") or "this bundle needs" in self.result


def network() -> onnx.ModelProto:
    """A convolution, a pool and two matrix products, whose weights are wide enough for blocks of INT4."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,3,16,20] image) => (float[1,10] scores) {
            a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (image, w0, b0)
            b = Relu (a)
            c = GlobalAveragePool (b)
            d = Flatten (c)
            e = Gemm (d, w1, b1)
            f = Relu (e)
            scores = MatMul (f, w2)
        }""")
    chance = np.random.default_rng(0)
    for name, shape in (("w0", (32, 3, 3, 3)), ("b0", (32,)), ("w1", (32, 64)), ("b1", (64,)), ("w2", (64, 10))):
        data = chance.normal(scale=.3, size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return model


def make_bundles(folder: Path) -> dict[tuple[str, str], Path]:
    """(target, what) -> bundle."""
    chance = np.random.default_rng(1)
    samples = [{"image": chance.normal(size=(1, 3, 16, 20)).astype(np.float32)} for _ in range(8)]
    forms = {"float": {"bits": 32}, "int8": {"bits": 8, "calibration": samples}, "int4 weights": {"bits": 4},
             "int4, int8": {"bits": 4, "calibration": samples}}
    made = {(target, form): convert(network(), target=target, output=folder / f"{target}-{form}", **words).path
            for target in ("onnxruntime", "tflite") for form, words in forms.items()}
    blocks = convert(network(), target="onnxruntime", bits=4, weights="block:32", output=folder / "blocks").path
    return {**made, ("onnxruntime", "int4 blocks"): blocks}


def find_python(version: str) -> str | None:
    """On the path, or among pyenv's."""
    kept = sorted(glob.glob(str(Path.home() / f".pyenv/versions/{version}.*/bin/python")))
    return kept[-1] if kept else shutil.which(f"python{version}")


def build(environment: Environment, wheel: Path, cache: Path) -> Path | None:
    """The environment's Python, with the wheel of now; None where this machine has no such Python."""
    python = find_python(environment.python)
    if python is None:
        return None
    inside = environment_of(python, environment.packages, cache)
    subprocess.run([inside, *PIP, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    return inside


def self_test(python: Path, bundle: Path) -> str:
    done = subprocess.run([python, "-I", "-m", "edgeq_runtime", str(bundle), "self-test", "--json", "--verify"],
                          capture_output=True, text=True, check=False)
    try:
        return str(json.loads(done.stdout)["status"])
    except ValueError:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].removeprefix("error: ")


def installed(python: Path, names: tuple[str, ...]) -> list[str]:
    code = f"from importlib.metadata import version; print(*[n + ' ' + version(n) for n in {names}], sep='\\n')"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def measure(cache: Path, only: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "-w", place, str(ROOT / "runtime")],
                       check=True)
        wheel = next(Path(place).glob("*.whl"))
        bundles = make_bundles(Path(place))
        for environment in ENVIRONMENTS:
            if only not in repr(environment):
                continue
            python = build(environment, wheel, cache)
            if python is None:
                print(f"no Python {environment.python} here", file=sys.stderr)
                continue
            numpy, engine = installed(python, ("numpy", environment.packages[0].partition("==")[0]))
            for (target, form), bundle in bundles.items():
                if target == environment.target:
                    yield Row(environment.python, numpy.partition(" ")[2], engine, form, self_test(python, bundle))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cache", type=Path, default=ROOT / "build" / "matrix", help="where environments are kept")
    options.add_argument("--only", default="", metavar="TEXT", help="rows whose description holds this, such as 3.13")
    arguments = options.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    rows = list(measure(arguments.cache, arguments.only))
    report(rows, "The runtime under Pythons, numpys and engines", arguments.json)
    if not all(row.good for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
