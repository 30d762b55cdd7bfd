"""What the device runtime costs: import time, time and memory over the bare engine, bytes of the slim wheel.

    python benchmarks/runtime.py [--json FILE]

Times are the least of many rounds, runtime and bare engine in turn, so that both see the same machine; imports are of
fresh interpreters, the least of ten. The networks are small on purpose: what the runtime adds does not grow with the
network.
"""
from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import ROOT, parser, report

import edgeq_runtime
from edgeq import convert
from edgeq_runtime.drift import DriftWatch

IMPORTS, ROUNDS, CALLS = 10, 15, 500


@dataclass(frozen=True)
class Row:
    """limit: what the product's specification allows, in the same unit."""

    measure: str
    value: float
    unit: str
    limit: float | None


def import_milliseconds(before: str) -> float:
    """Of edgeq_runtime in a process that has imported `before` already."""
    code = (f"import {before}, time; start = time.perf_counter(); import edgeq_runtime; "
            "print((time.perf_counter() - start) * 1e3)")
    times = [subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "runtime")}, check=True,
                            capture_output=True, text=True).stdout for _ in range(IMPORTS)]
    return min(map(float, times))


def network(inputs: int) -> onnx.ModelProto:
    """`inputs` rows of 16 numbers, summed, through one small Gemm."""
    names = [f"x{k}" for k in range(inputs)]
    declared = ", ".join(f"float[1,16] {name}" for name in names)
    sums = "".join(f"s{k} = Add ({f's{k - 1}' if k > 1 else 'x0'}, x{k})\n" for k in range(1, inputs))
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]>
        small ({declared}) => (float[1,8] y) {{ {sums} y = Gemm ({f's{inputs - 1}' if inputs > 1 else 'x0'}, w) }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(16, 8, dtype=np.float32), "w"))
    return model


def call_rows() -> Iterator[Row]:
    for target, bare in (("onnxruntime", bare_onnxruntime), ("tflite", bare_tflite)):
        if target == "tflite" and importlib.util.find_spec("ai_edge_litert") is None:
            continue
        for inputs in (1, 4):
            with tempfile.TemporaryDirectory() as folder:
                bundle = convert(network(inputs), target=target, bits=32, output=Path(folder) / "small.edgeq").path
                feeds = {f"x{k}": np.full((1, 16), k, np.float32) for k in range(inputs)}
                with edgeq_runtime.load(bundle, threads=1) as model:
                    engine = bare(bundle, feeds)
                    ours, theirs = microseconds(lambda: model.run(feeds), engine)  # noqa: B023
            name = f"{target}, {inputs} input{'s' if inputs > 1 else ''}"
            yield Row(f"{name}: bare engine", theirs, "us per call", None)
            yield Row(f"{name}: added by the runtime", ours - theirs, "us per call", 30)


def drift_rows() -> Iterator[Row]:
    """The watch over one input, of a small model and of an image classifier."""
    for shape in ((1, 16), (1, 3, 224, 224)):
        array = np.zeros(shape, np.float32)
        watch = DriftWatch(["x"], {"x": (0.0, 1.0)})
        time, = microseconds(lambda: watch.add([array]))  # noqa: B023
        yield Row(f"drift watch, input of {array.size} values", time, "us per call", 30)


_RSS = "print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])"
_BARE = {
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])
session.run(["y"], feed)
""",
    "tflite": """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=folder + "/model.tflite", num_threads=1)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], feed["x0"])
interpreter.invoke()
interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""}
_OURS = """
import edgeq_runtime
model = edgeq_runtime.load(folder, threads=1)
model.run(feed)
"""


def memory_rows() -> Iterator[Row]:
    """Resident memory after one run, the least of ten processes each."""
    if not Path("/proc/self/status").is_file():
        return
    for target, bare in _BARE.items():
        if target == "tflite" and importlib.util.find_spec("ai_edge_litert") is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            samples = [{"x0": np.full((1, 16), k, np.float32)} for k in range(2)]
            bundle = convert(network(1), target=target, bits=8, calibration=samples, output=Path(folder) / "b").path
            ours, theirs = resident_kilobytes(_OURS, bundle), resident_kilobytes(bare, bundle)
        yield Row(f"{target}: memory above the engine's", (ours - theirs) / 1000, "MB", 2)


def resident_kilobytes(code: str, bundle: Path) -> float:
    program = f"import numpy; folder = {str(bundle)!r}; feed = {{'x0': numpy.ones((1, 16), 'f4')}}\n{code}\n{_RSS}"
    return min(float(subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT / "runtime")},
                                    check=True, capture_output=True, text=True).stdout) for _ in range(IMPORTS))


def bare_onnxruntime(bundle: Path, feeds: dict[str, Any]) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["y"], feeds)


def bare_tflite(bundle: Path, feeds: dict[str, Any]) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(bundle / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    inputs = {details["name"]: details["index"] for details in interpreter.get_input_details()}
    output = interpreter.get_output_details()[0]["index"]

    def run() -> Any:
        for name, array in feeds.items():
            interpreter.set_tensor(inputs[name], array)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def microseconds(*functions: Callable[[], Any]) -> list[float]:
    """The least time per call of each, measured in turn."""
    least = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            for _ in range(CALLS):
                function()
            least[number] = min(least[number], (time.perf_counter() - start) / CALLS * 1e6)
    return least


def size_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT / "runtime",
                       check=True, capture_output=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            installed = sum(info.file_size for info in archive.infolist())
        yield Row("edgeq-runtime wheel", wheel.stat().st_size / 1e3, "kB", 60)
        yield Row("edgeq-runtime installed, without compiled files", installed / 1e3, "kB", None)


def main() -> None:
    options = parser(__doc__).parse_args()
    rows = [Row(f"import edgeq_runtime after {name}", import_milliseconds(name), "ms", 15)
            for name in ("numpy", "numpy, onnxruntime")]
    rows += [*call_rows(), *drift_rows(), *memory_rows()]
    if importlib.util.find_spec("hatchling") is not None:
        rows += size_rows()
    report(rows, "The device runtime on top of numpy and its engine", options.json)


if __name__ == "__main__":
    main()
