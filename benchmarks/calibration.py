"""Calibration against plain float inference of the same samples and against onnxruntime's quantize_static.

    python benchmarks/calibration.py [--samples 128] [--rounds 3] [--json FILE] [--models FOLDER]

Two networks at 224x224: a MobileNetV2 built here with random weights, and SqueezeNet 1.1 where the folder of real
models has it. The images are real where that folder has them; otherwise they are made here: coloured noise with the
1/f spectrum of natural images. Every variant does all of its work from the float model on, session included. Times are
interleaved in one process and the least of the rounds counts (quantize_static: of one). Peak memory is of one process
per variant that makes its samples one by one, and includes what the interpreter and the imports take. quantize_static
also quantizes and writes its model, which edgeq's rows do not; its percentile and entropy keep every tensor of every
sample, so they get fewer samples and their seconds are scaled to the same number.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
FEWER_SAMPLES = 16  # 62 MB each on MobileNetV2
KEEPS_ALL = ("static percentile", "static entropy")

Feed = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    network: str
    variant: str
    samples: int
    seconds: float  # per 128 samples where --samples is 128; scaled where `samples` is less
    ratio: float  # to plain inference
    cpu_seconds: float  # of all threads; says more than `seconds` on a busy machine
    cpu_ratio: float
    peak_megabytes: float


# The networks.

def mobilenet_v2() -> ir.Model:
    """MobileNetV2 1.0 at 224x224 (Sandler et al. 2018, table 2), random weights, BatchNorm folded."""
    rng = np.random.default_rng(0)
    nodes: list[ir.Node] = []
    constants: list[ir.Value] = []

    def constant(data: NDArray[np.float32]) -> ir.Value:
        value = ir.Value(name=f"constant_{len(constants)}", const_value=ir.tensor(data), shape=ir.Shape(data.shape),
                         type=ir.TensorType(ir.DataType.FLOAT))
        constants.append(value)
        return value

    def op(kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(kind, inputs, attributes=attributes)
        node.outputs[0].name = f"{kind.lower()}_{len(nodes)}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        nodes.append(node)
        return node.outputs[0]

    zero, six = constant(np.array(0, np.float32)), constant(np.array(6, np.float32))

    def conv(x: ir.Value, channels: tuple[int, int], kernel: int, stride: int = 1, group: int = 1,
             clip: bool = True) -> ir.Value:
        shape = (channels[1], channels[0] // group, kernel, kernel)
        weight = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        bias = rng.normal(0, 0.1, channels[1]).astype(np.float32)
        y = op("Conv", x, constant(weight), constant(bias), strides=[stride] * 2, pads=[kernel // 2] * 4, group=group)
        return op("Clip", y, zero, six) if clip else y

    image = ir.Value(name="image", shape=ir.Shape([1, 3, 224, 224]), type=ir.TensorType(ir.DataType.FLOAT))
    x, width = conv(image, (3, 32), 3, 2), 32
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, channels, repeats, first_stride in table:
        for stride in [first_stride] + [1] * (repeats - 1):
            inner = width * expansion
            y = conv(x, (width, inner), 1) if expansion > 1 else x
            y = conv(conv(y, (inner, inner), 3, stride, group=inner), (inner, channels), 1, clip=False)
            x, width = (op("Add", x, y) if stride == 1 and width == channels else y), channels
    x = op("Flatten", op("GlobalAveragePool", conv(x, (320, 1280), 1)))
    weight = rng.normal(0, 0.03, (1280, 1000)).astype(np.float32)
    logits = op("Gemm", x, constant(weight), constant(np.zeros(1000, np.float32)))
    logits.shape = ir.Shape([1, 1000])
    graph = ir.Graph([image], [logits], nodes=nodes, initializers=constants, opset_imports={"": 21},
                     name="mobilenet_v2")
    return ir.Model(graph, ir_version=10)


def networks(models: Path | None) -> dict[str, ir.Model]:
    found = {"mobilenet_v2": mobilenet_v2()}
    if models is not None:
        found["squeezenet_1.1"] = ir.load(models / "imagenet_squeezenet11/model.onnx")
    return found


def observed(model: ir.Model) -> list[str]:
    """What an 8-bit plan observes: the input, and every computed value except what an activation or a pool follows."""
    moves = {"Flatten", "Concat", "MaxPool", "Reshape"}
    names = [model.graph.inputs[0].name or ""]
    for node in model.graph:
        readers = [use.node.op_type for use in node.outputs[0].uses()]
        followed = node.op_type == "Conv" and readers and set(readers) <= {"Relu", "Clip"}
        if not followed and node.op_type not in moves and node.outputs[0].dtype in (None, ir.DataType.FLOAT):
            names.append(node.outputs[0].name or "")
    return names


# The images.

def images(models: Path | None, count: int) -> Iterator[NDArray[np.float32]]:
    """[3,224,224] float32, mean about 0."""
    if models is None:
        yield from generated(count)
        return
    from PIL import Image

    files = sorted((models / "imagenet500/images").iterdir())[:count]
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32)[16:240, 16:240]
        yield np.ascontiguousarray(pixels.transpose(2, 0, 1)) - np.float32(115)
    yield from generated(count - len(files))


def generated(count: int) -> Iterator[NDArray[np.float32]]:
    """Noise whose amplitude falls with the frequency, as in natural images (Field 1987)."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.rfftfreq(224)[None])
    frequency[0, 0] = 1
    for _ in range(count):
        noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, 224, 224))) / frequency, s=(224, 224))
        yield (noise / noise.std() * 60).astype(np.float32)


def feeds(model: ir.Model, models: Path | None, count: int, name: str) -> Iterator[Feed]:
    scale = np.float32(1 / 60) if name == "mobilenet_v2" else np.float32(1)
    for image in images(models, count):
        yield {model.graph.inputs[0].name or "": image[np.newaxis] * scale}


# The variants: each takes a model and samples, and does all the work.

Variant = Callable[[ir.Model, Iterable[Feed], Path], None]


def plain(model: ir.Model, samples: Iterable[Feed], folder: Path) -> None:
    import onnxruntime

    ir.save(model, folder / "plain.onnx")
    session = onnxruntime.InferenceSession(folder / "plain.onnx", providers=["CPUExecutionProvider"])
    for feed in samples:
        session.run(None, feed)


def edgeq(calibrator: str) -> Variant:
    def run(model: ir.Model, samples: Iterable[Feed], folder: Path) -> None:
        from edgeq.quant.calibrate import CALIBRATORS, calibrate

        for statistics in calibrate(model, observed(model), samples).values():
            CALIBRATORS[calibrator](statistics)

    return run


def quantize_static(method: str) -> Variant:
    def run(model: ir.Model, samples: Iterable[Feed], folder: Path) -> None:
        import contextlib
        import io
        import logging

        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
        from onnxruntime.quantization import quantize_static as quantize

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.feeds = iter(samples)

            def get_next(self) -> Feed | None:
                return next(self.feeds, None)

        logging.disable(logging.WARNING)
        ir.save(model, folder / "float.onnx")
        with contextlib.redirect_stdout(io.StringIO()):
            quantize(folder / "float.onnx", folder / "quantized.onnx", Reader(), quant_format=QuantFormat.QDQ,
                     activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
                     calibrate_method=CalibrationMethod[method])

    return run


VARIANTS: dict[str, Variant] = {
    "plain inference": plain,
    "edgeq minmax": edgeq("minmax"),
    "edgeq percentile": edgeq("percentile"),
    "edgeq mse": edgeq("mse"),
    "edgeq entropy": edgeq("entropy"),
    "quantize_static minmax": quantize_static("MinMax"),
    "quantize_static percentile": quantize_static("Percentile"),
    "quantize_static entropy": quantize_static("Entropy"),
}


# Measuring.

def seconds(variant: str, model: ir.Model, samples: list[Feed]) -> NDArray[np.float64]:
    """(wall clock, processor) seconds."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter(), time.process_time()
        VARIANTS[variant](model, samples, Path(folder))
        return np.subtract((time.perf_counter(), time.process_time()), start)


def peak_megabytes(variant: str, network: str, count: int, models: Path | None) -> float:
    """Of a fresh process that makes its samples one by one. NaN where the system does not tell (not Linux)."""
    command = [sys.executable, __file__, "--peak", variant, "--network", network, "--samples", str(count)]
    command += ["--models", str(models)] if models is not None else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return float(subprocess.run(command, check=True, capture_output=True, env=environment, text=True).stdout)


def high_water_megabytes() -> float:
    """Peak of this process. Not ru_maxrss: a child process inherits that of its parent."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def limited(variant: str, count: int) -> int:
    return min(count, FEWER_SAMPLES) if variant.endswith(KEEPS_ALL) else count


def measure(models: Path | None, count: int, rounds: int) -> list[Row]:
    rows = []
    for name, model in networks(models).items():
        samples = list(feeds(model, models, count, name))
        times: dict[str, list[NDArray[np.float64]]] = {variant: [] for variant in VARIANTS}
        for turn in range(rounds):
            for variant in VARIANTS:
                if turn and variant.startswith("quantize_static"):
                    continue  # minutes; once shows what there is to show
                used = samples[:limited(variant, count)]
                times[variant].append(seconds(variant, model, used) * count / len(used))
        least = {variant: np.min(found, axis=0) for variant, found in times.items()}
        for variant, (wall, cpu) in least.items():
            ratio, cpu_ratio = (wall, cpu) / least["plain inference"]
            used_count = limited(variant, count)
            rows.append(Row(name, variant, used_count, float(wall), float(ratio), float(cpu), float(cpu_ratio),
                            peak_megabytes(variant, name, used_count, models)))
        unknown = (float("nan"),) * 4
        rows.append(Row(name, "edgeq mse, a quarter of the samples", count // 4, *unknown,
                        peak_megabytes("edgeq mse", name, count // 4, models)))
    return rows


def table(rows: list[Row]) -> str:
    heads = ("samples", "seconds", "x plain", "cpu s", "x plain", "peak MB")
    lines = [f"{'network':16}{'variant':38}" + "".join(f"{head:>9}" for head in heads)]
    lines += [f"{row.network:16}{row.variant:38}{row.samples:9}{row.seconds:9.2f}{row.ratio:9.2f}{row.cpu_seconds:9.2f}"
              f"{row.cpu_ratio:9.2f}{row.peak_megabytes:9.0f}" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("EDGEQ_MODELS") or ROOT.parent / "shared" / "models")
    parser.add_argument("--models", type=Path, default=default if (default / "imagenet500").is_dir() else None)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        model = networks(options.models)[options.network]
        with tempfile.TemporaryDirectory() as folder:
            VARIANTS[options.peak](model, feeds(model, options.models, options.samples, options.network), Path(folder))
        print(high_water_megabytes())
        return
    rows = measure(options.models, options.samples, options.rounds)
    source = "real photographs" if options.models is not None else "generated 1/f noise, no real images found"
    print(f"{options.samples} samples at 224x224 ({source}), {os.cpu_count()} cores; seconds of quantize_static "
          f"percentile and entropy are scaled from {FEWER_SAMPLES} samples")
    print(table(rows))
    if options.json is not None:
        document = {"images": source, "samples": options.samples, "cores": os.cpu_count(),
                    "rows": [{key: None if value != value else value for key, value in asdict(row).items()}
                             for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
